"""Errors of statistics that resampling with replacement would bias, and their bias itself.

Let T(n) be a statistic of samples of n rows each. Halves drawn without replacement hold no row
twice, which the bootstrap's do: distances of nearest neighbours and ranks of covariances stay what
they are. For a statistic that is a mean to leading order

    Var over halves of T(n/2) = s^2 / (n/2) (1 - 1/2) = s^2 / n = Var T(n),

so the spread over random halves is the error of the whole (a delete-d jackknife, Shao & Wu 1989).
Where the bias is b / n to leading order, as for distances of fitted moments,

    2 T(n) - mean T(n/2)

is free of it. Rows that are not independent (a stretch of a Markov chain, a pair drawn at one
condition) stay in one half.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from physgen.validation.uncertainty import Estimate

Array = NDArray[float64]


@dataclass(frozen=True)
class HalfSampled:
    """A statistic of k numbers.

    Attributes:
        value: (k,) of all rows.
        error: (k,).
        extrapolated: (k,), free of a bias of order 1/n.
    """

    value: Array
    error: Array
    extrapolated: Array

    def estimate(self, index: int = 0) -> Estimate:
        """Return one of the numbers."""
        return Estimate(float(self.value[index]), float(self.error[index]))


def half_sampling(
    statistic: Callable[..., Array],
    samples: Sequence[NDArray[Any]],
    units: Sequence[NDArray[np.int64]] | None = None,
    *,
    seed: int,
    pairs: int = 10,
) -> HalfSampled:
    """Return `statistic(*samples)` with its error, from `pairs` divisions of all samples in two.

    Args:
        statistic: takes arrays (n, ...) of rows and returns (k,) numbers.
        samples: what it takes.
        units: (n,) numbers of what stays together, also across samples; `None` is no two rows.
        seed: of the divisions.
        pairs: how many divisions; each gives two halves.

    >>> x = np.random.default_rng(0).normal(size=(1000, 1))
    >>> mean = half_sampling(lambda rows: rows.mean(0), [x], seed=0).estimate()
    >>> 0.5 < mean.error * 1000**0.5 < 1.5
    True
    """
    generator = np.random.default_rng(seed)
    value = statistic(*samples)
    numbers = apart(*map(len, samples)) if units is None else units
    parts = []
    for _ in range(pairs):
        first = _division(numbers, generator)
        for half in (first, [~rows for rows in first]):
            parts.append(statistic(*(s[rows] for s, rows in zip(samples, half, strict=True))))
    # Halves of one division are not independent: their mean is nearly fixed, the spread is not.
    of_halves = np.stack(parts)
    return HalfSampled(value, of_halves.std(0, ddof=1), 2 * value - of_halves.mean(0))


def apart(*lengths: int) -> list[NDArray[np.int64]]:
    """Return unit numbers of samples of so many rows, no two of which belong together."""
    return np.split(np.arange(sum(lengths)), np.cumsum(lengths)[:-1])


def _division(
    units: Sequence[NDArray[np.int64]], generator: np.random.Generator
) -> list[NDArray[np.bool_]]:
    """Return which rows are in the first half: half of the units of each sample."""
    ends = np.cumsum([len(unit) for unit in units])[:-1]
    numbers, inverse = np.unique(np.concatenate(units), return_inverse=True)
    undecided = np.ones(len(numbers), dtype=bool)
    first = np.zeros(len(numbers), dtype=bool)
    for part in np.split(inverse, ends):
        fresh = generator.permutation(np.unique(part[undecided[part]]))
        first[fresh[: -(-len(fresh) // 2)]] = True
        undecided[fresh] = False
    return np.split(first[inverse], ends)
