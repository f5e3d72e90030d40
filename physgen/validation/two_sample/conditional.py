"""Residuals of observables given the conditions, and their mean and width in bins of these.

A scale that is .3% off is lost in a histogram over three decades of energy, and seen in residuals

    r = (y - mu(t)) / sigma(t),     mu of degree 5, log sigma of degree 3, in t or log t

(by value of t where there are few), clipped at 6; of several conditions the terms are added.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from physgen.validation.comparison import varies
from physgen.validation.two_sample.pool import Family, Pool

Array = NDArray[float64]

N_BINS = 5
"""Bins of a condition with many values."""

FEW_VALUES = 12
"""A condition with at most so many values has a bin for each."""

_CLIP = 6.0
_ROUNDING = 1e-12
"""Differences of features, whose variance is 1, are rounding below."""


def residuals(pool: Pool) -> Array:
    """Return (N, d), 0 where an observable is not defined; (N, 0) if no condition varies."""
    varying = [t for t in pool.conditions.T if _usable(t)]
    if not varying:
        return np.empty((len(pool.values), 0))
    designs = [_design(t) for t in varying]
    mean = np.concatenate([design[0] for design in designs], 1)
    width = np.concatenate([design[1] for design in designs], 1)
    return np.stack([_residual(y, mean, width) for y in pool.values.T], 1)


def _usable(t: Array) -> bool:
    return varies(t) and bool(np.isfinite(t).all())


def _design(t: Array) -> tuple[Array, Array]:
    """Return (N, p) regressors of mean and log width."""
    kinds, number = np.unique(t, return_inverse=True)
    if len(kinds) <= FEW_VALUES:
        indicators = np.eye(len(kinds))[number]
        return indicators, indicators
    u = np.log(t) if t.min() > 0 and t.max() > 10 * t.min() else t
    u = 2 * (u - u.min()) / (u.max() - u.min()) - 1
    mean = np.polynomial.legendre.legvander(u, 5)
    return mean, mean[:, :4]


def _residual(y: Array, mean: Array, width: Array) -> Array:
    keep = np.isfinite(y)
    result = np.zeros(len(y))
    if not varies(y):
        return result
    known, mean, width = y[keep], mean[keep], width[keep]
    r = known - mean @ np.linalg.lstsq(mean, known, rcond=None)[0]
    least = 1e-12 * float((r**2).mean()) + 1e-300
    r = r * np.exp(-0.5 * (width @ np.linalg.lstsq(width, np.log(r**2 + least), rcond=None)[0]))
    result[keep] = np.clip(r / max(float(r.std()), 1e-300), -_CLIP, _CLIP)
    return result


def of_bins(pool: Pool, r: Array) -> Family | None:
    """Return the largest and the summed squared deviation of mean and width in bins, in sigma.

    Args:
        pool: of the rows.
        r: (N, d) residuals.
    """
    sums, labels = [], []
    for about, t in zip(pool.condition_names, pool.conditions.T, strict=True):
        if not _usable(t):
            continue
        for name, column in zip(pool.names, r.T, strict=False):
            for feature, what in _features(column, t):
                sums.append(pool.relabelling.sums(feature[:, None]))
                labels.append(f"{what[0]} of {name}" + what[1].format(about))
    if not sums:
        return None
    together = np.concatenate(sums, axis=1)
    n, m = pool.sizes
    spread = np.full(len(labels), np.sqrt(1 / n + 1 / m))
    if pool.paired or not pool.relabelling.exact:
        spread = pool.relabelling.deviations(together)
    known = spread > _ROUNDING
    together *= np.where(known, 1 / np.where(known, spread, 1.0), 0.0)

    def statistics(difference: Array) -> Array:
        squares = difference**2
        return np.stack([squares.max(1), squares.sum(1)], 1)

    def causes(truth: Array, generated: Array) -> list[str]:
        off = generated - truth
        worst = int(np.abs(off).argmax())
        largest = f"{off[worst]:+.1f} standard deviations, the largest of {len(labels)} deviations"
        return [f"{labels[worst]}: {largest}"] * 2

    return Family(
        ("bins of the conditions", "sum over bins of the conditions"), together, statistics, causes
    )


def _features(r: Array, t: Array) -> Iterator[tuple[Array, tuple[str, str]]]:
    """Yield (N,) features of variance 1 of residuals, and what they are."""
    kinds = np.unique(t)
    if len(kinds) <= FEW_VALUES:
        bins = np.searchsorted(kinds, t)
        ranges = [f" at {{}} = {kind:.4g}" for kind in kinds]
    else:
        edges = np.quantile(t, np.linspace(0, 1, N_BINS + 1))
        bins = np.searchsorted(edges[1:-1], t, side="right")
        ranges = [f" at {{}} {a:.4g} to {b:.4g}" for a, b in pairwise(edges)]
    squares = r**2
    squares[r != 0] -= squares[r != 0].mean()
    for feature, what in ((r, "mean"), (squares, "width")):
        yield from _scaled(feature, (what, ""))
        if len(ranges) > 1:
            for number, text in enumerate(ranges):
                yield from _scaled(np.where(bins == number, feature, 0.0), (what, text))


def _scaled(feature: Array, what: tuple[str, str]) -> Iterator[tuple[Array, tuple[str, str]]]:
    deviation = feature.std()
    if deviation > 0:
        yield feature / deviation, what
