"""Distribution functions of weighted samples as knots (x, z), z the normal quantile of F(x)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor

FAR = 40.0
"""Stands for infinity in z: the normal distribution function is 0 or 1 there."""
SPIKE = 0.002
"""Share of the rows from which on a repeated value is an atom."""
EVENTS_A_KNOT = 4
"""At least as many distinct values lie between two knots."""


def distribution(
    x: Tensor, weight: Tensor
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Distinct values in rising order, their shares of the weight, and how many rows have them."""
    values, index, counts = np.unique(
        x.cpu().double().numpy(), return_inverse=True, return_counts=True
    )
    mass = np.bincount(index, weight.cpu().double().numpy())
    return values, mass / mass.sum(), counts


def spikes(counts: NDArray[np.int64], at_most: int) -> NDArray[np.bool_]:
    """Which values so many rows share that they are atoms: the `at_most` commonest ones."""
    threshold = max(10.0, SPIKE * float(counts.sum()))
    if at_most == 0:
        threshold = math.inf
    elif len(counts) > at_most:
        threshold = max(threshold, float(np.partition(counts, -at_most - 1)[-at_most - 1]) + 1)
    common: NDArray[np.bool_] = counts >= threshold
    return common


def knots(
    values: NDArray[np.float64],
    mass: NDArray[np.float64],
    atoms: NDArray[np.bool_],
    n_knots: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Knots (x, z) of the distribution function: two an atom, the others evenly spread in z."""
    upto = np.cumsum(mass)
    level = upto - mass / 2
    points, smooth = np.flatnonzero(atoms), np.flatnonzero(~atoms)
    if len(smooth):
        # The neighbours of an atom lie next to its edge in z too: (almost) nothing is between them.
        edge = np.concatenate([[False], atoms, [False]])
        after, before = edge[:-2] & ~atoms, edge[2:] & ~atoms
        level = np.where(after, upto - 0.95 * mass, np.where(before, upto - 0.05 * mass, level))
        z = ndtri(np.clip(level[smooth], 1e-12, 1 - 1e-12))
        room = max(n_knots - 4 * len(points) - 2, 2)
        wanted = np.unique(np.searchsorted(z, np.linspace(z[0], z[-1], room)))
        # A few events between knots at least, or the slopes would follow single ones.
        sparse = wanted[np.diff(wanted // EVENTS_A_KNOT, prepend=-1) > 0]
        forced = np.flatnonzero((after | before)[smooth])
        smooth = smooth[np.unique(np.concatenate([sparse, forced, [0, len(smooth) - 1]]))]
    x = np.concatenate([values[smooth], values[points], values[points]])
    p = np.concatenate([level[smooth], (upto - mass)[points], upto[points]])
    order = np.lexsort((p, x))
    z = ndtri(np.clip(p[order], 0, 1))
    # The sum of all shares misses 1 by rounding.
    z = np.where(p[order] > 1 - 1e-12, FAR, np.where(p[order] < 1e-12, -FAR, z))
    return _fill(x[order], z, n_knots)


def _fill(
    x: NDArray[np.float64], z: NDArray[np.float64], n_knots: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bring knots to their fixed number without changing the function they stand for."""
    missing = n_knots - len(x)
    rise = np.where(np.diff(x) > 0, np.diff(z), 0.0)
    if len(rise) and rise.max() > 0:
        i = int(rise.argmax())
        inner = np.linspace(0, 1, missing + 2)[1:-1]
        x = np.insert(x, i + 1, x[i] + inner * (x[i + 1] - x[i]))
        z = np.insert(z, i + 1, z[i] + inner * (z[i + 1] - z[i]))
    elif len(x) > 1:
        x, z = np.pad(x, (0, missing), mode="edge"), np.pad(z, (0, missing), mode="edge")
    return x, z


def stretch(x: NDArray[np.float64], z: NDArray[np.float64]) -> tuple[float, float]:
    """Return dx/dz over the last half unit of z at either end."""
    low = (np.interp(z[0] + 0.5, z, x) - x[0]) / 0.5
    high = (x[-1] - np.interp(z[-1] - 0.5, z, x)) / 0.5
    return float(low) if low > 0 else 1.0, float(high) if high > 0 else 1.0
