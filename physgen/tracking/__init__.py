"""Mirrors run directories in MLflow: the directory is the truth, MLflow may be late or absent."""

from physgen.tracking.follow import Tracker, sync_apart
from physgen.tracking.place import default_uri
from physgen.tracking.registered import Registered, is_registered
from physgen.tracking.sender import Synced, sent, sync

__all__ = [
    "Registered",
    "Synced",
    "Tracker",
    "default_uri",
    "is_registered",
    "sent",
    "sync",
    "sync_apart",
]
