"""Compiled Monte Carlo kernels, imported where they run: numba takes its time and memory."""
