"""Autoregressive networks of spins."""
