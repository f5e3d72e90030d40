"""Invertible preprocessing with log-determinants."""
