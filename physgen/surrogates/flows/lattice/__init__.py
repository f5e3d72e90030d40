"""Flows that respect the symmetries of a lattice."""
