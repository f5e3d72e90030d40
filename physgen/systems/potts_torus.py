r"""Exact results of Potts models on square tori, by a transfer matrix that adds site after site.

A state is a row of the shorter extent w; there are q^w. Beginning at one row, each site of the next
one takes the place of that below it, and then the bonds within the row are weighed, K = 1 / T:

    f(.., s_i, ..) -> sum_s exp(K delta(s_i, s)) f(.., s, ..),
    f(s_1, .., s_w) -> f(s_1, .., s_w) prod_i exp(K delta(s_i, s_(i+1))).

Z is the sum over first rows of what comes back to them after all rows: the trace of a power of the
transfer matrix, whose factors are sparse. Values may be permuted, and rows turned and mirrored, so
that one row of each orbit is enough. The first two derivatives along K are carried along.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


def potts_torus(shape: tuple[int, ...], q: int, temperature: float) -> dict[str, float]:
    """Return F/N, E/N, C/N and ln Z of a square torus.

    >>> result = potts_torus((2, 2), 2, 2.0)
    >>> states = 2 * math.exp(8 / 2) + 12 * math.exp(4 / 2) + 2 * math.exp(0 / 2)  # by -E
    >>> abs(result["ln Z"] - math.log(states)) < 1e-12
    True
    """
    width, length = sorted(shape)
    n, k = math.prod(shape), 1 / temperature
    rows = np.indices((q,) * width, dtype=np.int8).reshape(width, -1)
    bonds = (rows == np.roll(rows, 1, 0)).sum(0)[:, None].astype(np.float64)
    first, orbits = _orbits(rows, q)
    # The largest weights, exp(K) of a bond, are taken out, against overflow.
    inside = np.exp(k * (bonds - width))
    f = np.zeros((3, len(bonds), len(first)))  # With the first two derivatives along K.
    f[0, first, np.arange(len(first))] = 1.0
    log = 2 * n * k
    for _ in range(length):
        for _ in range(width):
            f = _replaced(f, q, k)
        b = bonds
        f = np.stack([f[0], f[1] + b * f[0], f[2] + 2 * b * f[1] + b * b * f[0]]) * inside
        scale = f[0].max()
        f, log = f / scale, log + math.log(scale)
    z, z1, z2 = f[:, first, np.arange(len(first))] @ orbits
    mean = z1 / z
    log_z = log + math.log(z)
    known = {
        "F/N": -log_z * temperature / n,
        "E/N": -mean / n,
        "C/N": max(0.0, k * k * (z2 / z - mean**2) / n),  # Rounding, where it vanishes.
        "ln Z": log_z,
    }
    return {name: float(value) for name, value in known.items()}


def _replaced(f: Numbers, q: int, k: float) -> Numbers:
    """Replace the first site of the rows, and turn them so that the next one is first.

    In units of exp(K): the matrix has 1 on its diagonal and u = exp(-K) elsewhere; derivatives are
    those of the matrix without the unit, 1, 1 and 1 on the diagonal and 0 elsewhere.
    """
    split = f.reshape(3, q, -1, f.shape[2])
    u = math.exp(-k)
    out: Numbers = u * split.sum(1, keepdims=True) + (1 - u) * split
    out[1] += split[0]
    out[2] += 2 * split[1] + split[0]
    turned: Numbers = out.transpose(0, 2, 1, 3).reshape(f.shape)
    return turned


def _orbits(rows: NDArray[np.int8], q: int) -> tuple[NDArray[np.intp], Numbers]:
    """Return a row of each orbit and how many rows it has."""
    width = len(rows)
    powers = q ** np.arange(width - 1, -1, -1)
    smallest = np.full(rows.shape[1], q**width)
    for mirrored in (rows, rows[::-1]):
        for turn in range(width):
            smallest = np.minimum(smallest, powers @ _renumbered(np.roll(mirrored, turn, 0), q))
    first, counts = np.unique(smallest, return_counts=True)
    return first, counts.astype(np.float64)


def _renumbered(rows: NDArray[np.int8], q: int) -> NDArray[np.int64]:
    """Number values in the order in which they occur first."""
    names = np.full((q, rows.shape[1]), -1)
    column, found = np.arange(rows.shape[1]), np.zeros(rows.shape[1], np.int64)
    result = np.empty(rows.shape, np.int64)
    for i, row in enumerate(rows):
        new = names[row, column] < 0
        names[row[new], column[new]] = found[new]
        found += new
        result[i] = names[row, column]
    return result
