"""Tails of the hypergeometric distribution, far beyond what can be drawn."""

from __future__ import annotations

import numpy as np
from numpy import float64
from numpy.typing import NDArray
from scipy.special import gammaln

Array = NDArray[float64]


def hypergeometric_tail(reach: Array, marked: Array, drawn: float, rows: float) -> Array:
    """Bound P(X >= reach), X being how many of `drawn` out of `rows` rows are among the marked.

    The terms beyond the first fall at least as fast as the ratio of the first two, because the
    distribution is log-concave.
    """
    possible = reach <= np.minimum(marked, drawn)
    x = np.clip(reach, np.maximum(0.0, drawn + marked - rows), np.minimum(marked, drawn))

    def log_binomial(n: Array, k: Array) -> Array:
        return np.asarray(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1))

    log_first = (
        log_binomial(marked, x)
        + log_binomial(rows - marked, drawn - x)
        - log_binomial(np.asarray(rows), np.asarray(drawn))
    )
    ratio = (marked - x) * (drawn - x) / ((x + 1) * (rows - marked - drawn + x + 1))
    first = np.exp(log_first)
    bound = np.where(ratio < 1, first / np.where(ratio < 1, 1 - ratio, 1.0), 1.0)
    return np.where(possible, np.minimum(bound, 1.0), 0.0)
