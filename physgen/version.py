"""The version of physgen, known to all."""

__version__ = "0.1.0"
