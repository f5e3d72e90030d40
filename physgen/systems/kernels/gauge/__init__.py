"""Compiled Monte Carlo, flow and measurement of gauge links, eight chains side by side."""
