"""Compiled Monte Carlo and simulation kernels."""
