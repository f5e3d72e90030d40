"""Residuals of observables given the conditions.

A scale that is .3% off is lost in a histogram over three decades of energy, and seen in residuals

    r = (y - mu(t)) / sigma(t),     mu of degree 5, log sigma of degree 3, in t or log t

(by value of t where there are few), clipped at 6; of several conditions the terms are added.
"""

from __future__ import annotations

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from physgen.validation.comparison import varies

Array = NDArray[float64]

FEW_VALUES = 12
"""A condition with at most so many values has a bin for each."""

_CLIP = 6.0


def residuals(values: Array, conditions: Array) -> Array:
    """Return those of (N, d) values given (N, C) conditions; (N, 0) if no condition varies.

    They are 0 where a value is not defined (NaN).
    """
    varying = [t for t in conditions.T if usable(t)]
    if not varying:
        return np.empty((len(values), 0))
    designs = [_design(t) for t in varying]
    mean = np.concatenate([design[0] for design in designs], 1)
    width = np.concatenate([design[1] for design in designs], 1)
    return np.stack([_residual(y, mean, width) for y in values.T], 1)


def usable(t: Array) -> bool:
    """Return whether a condition is known of all rows, and varies."""
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
