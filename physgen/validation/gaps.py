"""Measurements of a Markov chain of which some are missing.

Where the places of the missing ones are kept, with NaN in them, the Gamma-method is right as it
stands: with n of N places filled, Gamma(t) is the mean over all places of products of fluctuations
that are scaled by N / n, in which pairs count as often as there are, and so

    error^2 = (1 / N) sum_t Gamma(t) = (1 / n) sum_t Gamma_full(t) pairs(t) / n.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physgen.validation.comparison import Measured


def with_gaps(measured: Measured, times: NDArray[np.int64]) -> Measured:
    """Return the measurements at their places in Monte Carlo time, with NaN where one is missing.

    Args:
        measured: (N,) of them, of one chain or several.
        times: (N,) steps since the beginning of the chain of each; no two of a chain are alike.

    >>> values = {"E": np.array([1.0, 2.0, 3.0])}
    >>> full = with_gaps(Measured(values, None, None), np.array([0, 3, 1]))
    >>> full.values["E"].tolist()
    [1.0, 3.0, nan, 2.0]
    """
    chain = np.zeros(len(times), np.int64) if measured.chain is None else measured.chain
    labels, number = np.unique(chain, return_inverse=True)
    lengths = np.zeros(len(labels), np.int64)
    np.maximum.at(lengths, number, times + 1)
    place = (np.cumsum(lengths) - lengths)[number] + times
    n = int(lengths.sum())

    def spread(values: NDArray[Any]) -> NDArray[Any]:
        result = np.full((n, *values.shape[1:]), np.nan)
        result[place] = values
        return result

    return replace(
        measured,
        values={name: spread(value) for name, value in measured.values.items()},
        chain=np.repeat(labels, lengths),
    )
