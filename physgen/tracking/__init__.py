"""Mirrors run directories in MLflow: the directory is the truth, MLflow may be late or absent."""

from physgen.tracking.follow import Tracker
from physgen.tracking.sender import Synced, default_uri, sync

__all__ = ["Synced", "Tracker", "default_uri", "sync"]
