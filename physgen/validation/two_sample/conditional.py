"""Mean and width of residuals of observables, given the conditions, in bins of these."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import compress, pairwise

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from physgen.validation.two_sample.pool import Family, Pool
from physgen.validation.two_sample.residuals import FEW_VALUES, usable

Array = NDArray[float64]

N_BINS = 5
"""Bins of a condition with many values."""

FEWEST = 100
"""Effective units of each sample in a bin, without which an asymptotic p-value is wrong."""


def of_bins(pool: Pool) -> Family | None:
    """Return the largest and the summed squared deviation of mean and width in bins, in sigma.

    There are none where no condition varies.
    """
    sums, labels = [], []
    for about, t in zip(pool.condition_names, pool.conditions.T, strict=True):
        if not usable(t):
            continue
        for name, column in zip(pool.names, pool.residuals.T, strict=False):
            for feature, what in _features(column, t, pool):
                sums.append(pool.relabelling.sums(feature[:, None]))
                labels.append(f"{what[0]} of {name}" + what[1].format(about))
    if not sums:
        return None
    together = pool.in_deviations(np.concatenate(sums, axis=1))

    def statistics(difference: Array) -> Array:
        squares = difference**2
        return np.stack([squares.max(1), squares.sum(1)], 1)

    def causes(truth: Array, generated: Array) -> list[str]:
        return [pool.largest(truth, generated, labels)] * 2

    return Family(
        ("bins of the conditions", "sum over bins of the conditions"), together, statistics, causes
    )


def _features(r: Array, t: Array, pool: Pool) -> Iterator[tuple[Array, tuple[str, str]]]:
    """Yield (N,) features of variance 1 of residuals, and what they are."""
    kinds = np.unique(t)
    if len(kinds) <= FEW_VALUES:
        bins = np.searchsorted(kinds, t)
        ranges = [f" at {{}} = {kind:.4g}" for kind in kinds]
    else:
        edges = np.quantile(t, np.linspace(0, 1, N_BINS + 1))
        bins = np.searchsorted(edges[1:-1], t, side="right")
        ranges = [f" at {{}} {a:.4g} to {b:.4g}" for a, b in pairwise(edges)]
    inside = [bins == number for number in range(len(ranges))] if len(ranges) > 1 else []
    if not pool.relabelling.exact:
        # Squares are skewed, so that of few rows they know their own variance badly.
        enough = [pool.effective_units(rows) >= FEWEST for rows in inside]
        inside, ranges = list(compress(inside, enough)), list(compress(ranges, enough))
    squares = r**2
    squares[r != 0] -= squares[r != 0].mean()
    for feature, what in ((r, "mean"), (squares, "width")):
        yield from _scaled(feature, (what, ""))
        for rows, text in zip(inside, ranges, strict=False):
            yield from _scaled(np.where(rows, feature, 0.0), (what, text))


def _scaled(feature: Array, what: tuple[str, str]) -> Iterator[tuple[Array, tuple[str, str]]]:
    deviation = feature.std()
    if deviation > 0:
        yield feature / deviation, what
