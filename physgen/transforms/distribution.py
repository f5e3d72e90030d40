"""Distribution functions of weighted samples as knots (x, z), z the normal quantile of F(x)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from torch import Tensor

from physgen.grids import Floats, occupied

FAR = 40.0
"""Stands for infinity in z: the normal distribution function is 0 or 1 there."""
REPEATED = 5
"""So many rows share an atom at least, ten times as many as share a value at the median."""
EVENTS_A_KNOT = 4
"""At least as many distinct values lie between two knots."""
EVEN = 0.75
"""Part of the knots that are evenly spread in z; the others go where they are needed."""


def distribution(x: Tensor, weight: Tensor) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Distinct values in rising order, their shares of the weight, and how many rows have them."""
    values, index, counts = np.unique(
        x.cpu().double().numpy(), return_inverse=True, return_counts=True
    )
    mass = np.bincount(index, weight.cpu().double().numpy())
    return values, mass / mass.sum(), counts


def commonest(counts: NDArray[np.int64], threshold: float, at_most: int) -> NDArray[np.bool_]:
    """Which values that `threshold` rows or more share are the `at_most` commonest ones."""
    if at_most == 0:
        threshold = math.inf
    elif len(counts) > at_most:
        threshold = max(threshold, float(np.partition(counts, -at_most - 1)[-at_most - 1]) + 1)
    common: NDArray[np.bool_] = counts >= threshold
    return common


def repeated(counts: NDArray[np.int64], at_most: int) -> NDArray[np.bool_]:
    """Which values of a real column repeat far more often than their likes: its atoms."""
    return commonest(counts, max(REPEATED, 10.0 * float(np.median(counts))), at_most)


def sparse(values: Floats, counts: NDArray[np.int64]) -> bool:
    """Whether repeated integers leave most of their range empty: codes, not counts."""
    return bool(counts.mean() >= 3) and not occupied(values)


def edges(values: Floats) -> tuple[float, float]:
    """Return where the values end abruptly, below and above, and else infinities.

    The density does not fall off towards an end if the outermost k values lie in a range hardly
    wider than the next k. In a tail they take ln k / ln 2 times as much or more.
    """
    k = math.isqrt(len(values))
    if k < 20:
        return -math.inf, math.inf
    ends = []
    for x in (values, -values[::-1]):
        outer, inner = x[k] - x[0], x[2 * k] - x[k]
        # The least that was seen lies a spacing above where they end, on the average.
        ends.append(x[0] - 0.01 * outer / k if outer < 1.7 * inner else -math.inf)
    return ends[0], -ends[1]


def knots(
    values: Floats, mass: Floats, atoms: NDArray[np.bool_], n_knots: int, n_smooth: int
) -> tuple[Floats, Floats]:
    """Knots (x, z) of the distribution function: two an atom, and those of the continuous part.

    Most of the latter, `n_smooth` at least in all, are evenly spread in z; the others go where the
    distribution function between them would be off, such as beside narrow peaks.
    """
    upto = np.cumsum(mass)
    level = upto - mass / 2
    points, smooth = np.flatnonzero(atoms), np.flatnonzero(~atoms)
    if len(smooth):
        # The neighbours of an atom lie next to its edge in z too: (almost) nothing is between them.
        edge = np.concatenate([[False], atoms, [False]])
        after, before = edge[:-2] & ~atoms, edge[2:] & ~atoms
        level = np.where(after, upto - 0.95 * mass, np.where(before, upto - 0.05 * mass, level))
        p = np.clip(level[smooth], 1e-12, 1 - 1e-12)
        z = ndtri(p)
        even = np.linspace(z[0], z[-1], max(int(EVEN * n_smooth) - 2, 2))
        wanted = np.unique(np.searchsorted(z, even))
        # A few events between knots at least, or the slopes would follow single ones.
        thin = wanted[np.diff(wanted // EVENTS_A_KNOT, prepend=-1) > 0]
        forced = np.flatnonzero((after | before)[smooth])
        chosen = np.unique(np.concatenate([thin, forced, [0, len(smooth) - 1]]))
        n_free = n_knots - 2 * len(points)
        smooth = smooth[_with_knots_added(values[smooth], z, p, chosen, n_free)]
    x = np.concatenate([values[smooth], values[points], values[points]])
    p = np.concatenate([level[smooth], (upto - mass)[points], upto[points]])
    order = np.lexsort((p, x))
    z = ndtri(np.clip(p[order], 0, 1))
    # The sum of all shares misses 1 by rounding.
    z = np.where(p[order] > 1 - 1e-12, FAR, np.where(p[order] < 1e-12, -FAR, z))
    return _fill(x[order], z, n_knots)


def _with_knots_added(
    x: Floats, z: Floats, p: Floats, chosen: NDArray[np.int64], n_free: int
) -> NDArray[np.int64]:
    """Add knots, up to `n_free`, where p between those chosen is off by more than noise."""
    tolerance = 0.2 / math.sqrt(len(x))
    while len(chosen) < n_free:
        error = np.abs(ndtr(np.interp(x, x[chosen], z[chosen])) - p)
        length = np.diff(chosen)
        peak = np.maximum.reduceat(error, chosen[:-1]) if len(chosen) > 1 else error[:0]
        worst = np.flatnonzero((peak > tolerance) & (length >= 2 * EVENTS_A_KNOT))
        if not len(worst):
            break
        worst = worst[np.argsort(-peak[worst])][: n_free - len(chosen)]
        added = []
        for i in worst:
            inner = slice(chosen[i] + EVENTS_A_KNOT, chosen[i + 1] - EVENTS_A_KNOT + 1)
            added.append(inner.start + int(error[inner].argmax()))
        chosen = np.unique(np.concatenate([chosen, added]))
    return chosen


def _fill(x: Floats, z: Floats, n_knots: int) -> tuple[Floats, Floats]:
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


def stretch(x: Floats, z: Floats) -> tuple[float, float]:
    """Return dx/dz over the last half unit of z at either end."""
    low = (np.interp(z[0] + 0.5, z, x) - x[0]) / 0.5
    high = (x[-1] - np.interp(z[-1] - 0.5, z, x)) / 0.5
    return float(low) if low > 0 else 1.0, float(high) if high > 0 else 1.0
