"""The training loop: knows nothing of physics."""
