"""Gauge configurations in files: one file a format, numpy only.

In files, and in the arrays of this package, links are U[t, z, y, x, mu, a, b] with mu in the order
x, y, z, t. What physgen computes with has one axis a direction: U[mu, t, z, y, x, a, b, c] with mu
in the order of the axes, t, z, y, x, and real and imaginary parts on the last axis (see `source`).
"""
