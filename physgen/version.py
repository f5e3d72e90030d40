"""The version of physgen, known to all."""

__version__ = "0.1.0"

FORMAT = 2
"""Of recipes and cards of runs; raised when older ones can no longer be read."""
