"""The physics: one file a system."""
