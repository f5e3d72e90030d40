"""How far apart the configurations of a Markov chain must be to count as nearly independent.

A rough estimate, for thinning only; errors of final numbers are the business of the validation.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def spacing(series: NDArray[np.float64]) -> int:
    """Return two integrated autocorrelation times of (T, C) series of C chains, at least 1.

    tau = 1/2 + sum_t rho(t), summed to a window of 5 tau (Sokal).
    """
    fluctuation = series - series.mean()
    length, variance = len(series), float((fluctuation**2).mean())
    tau = 0.5
    for t in range(1, length // 5):
        if variance == 0:
            break
        tau += float((fluctuation[: length - t] * fluctuation[t:]).mean()) / variance
        if t > 5 * tau:
            break
    return max(1, math.ceil(2 * tau))
