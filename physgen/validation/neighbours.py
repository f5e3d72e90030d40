"""Nearest neighbours of features: do those of a sample tend to belong to the same sample?

The two-sample accuracy of a nearest-neighbour classifier, leaving out the row itself (Lopez-Paz &
Oquab, arXiv 1610.06545), is

    A = mean over both samples of [the nearest other row belongs to the same sample],

1/2 where the distributions agree, 1 where they lie apart, and 0 where every generated row is a copy
of a true one. Of rows that are equally near one is drawn; rows of one unit (a stretch of a Markov
chain, a pair drawn at one condition) are no neighbours. Given all positions, labels are
exchangeable if the distributions agree, those of pairs within each: permuting them gives p-value
and error without new distances (Schilling 1986). Where they are not, the error is that of random
halves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from physgen.validation.comparison import Comparison
from physgen.validation.features import embed
from physgen.validation.half_sampling import apart, half_sampling
from physgen.validation.permutation import sequential
from physgen.validation.scorecard import Row, row_by_role, verdict_within
from physgen.validation.uncertainty import Estimate

Array = NDArray[float64]
Rows = NDArray[np.int64]

CHUNK = 1024
"""Rows whose distances to all others are held at once."""

AT_ONCE = 500
"""Permutations drawn at once."""

_EQUAL = 1e-9
"""Squared distances closer than this to the smallest, relative to the squared norms, are equal."""


@dataclass(frozen=True, kw_only=True)
class NearestNeighbour:
    """Two-sample accuracy of one nearest neighbour on features; ideal is 1/2.

    Attributes:
        n: at most so many rows of each sample; the cost grows as n^2.
        tolerance: limit on |accuracy - 1/2| + 2 sigma.

    >>> import torch
    >>> from physgen.batch import Batch
    >>> from physgen.systems.scalar import Phi4
    >>> x = torch.randn(3, 500, 4, generator=torch.Generator().manual_seed(0))
    >>> samples = Comparison(Phi4(shape=(4,)), *map(Batch, x))
    >>> abs(NearestNeighbour().rows(samples)[0].value - 0.5) < 0.1
    True
    """

    n: int = 5000
    tolerance: float | None = None

    def rows(self, comparison: Comparison) -> list[Row]:
        """Return one row; `InputError` as `physgen.validation.features.embed` says."""
        embedded = comparison.once(embed).first(self.n)
        truth = embedded.values["truth"]
        tests = {
            role: two_sample(
                truth,
                values,
                comparison.seed,
                units=(embedded.unit["truth"], embedded.unit[role]),
                exchangeable=embedded.exchangeable,
                paired=role in embedded.paired,
            )
            for role, values in embedded.others.items()
        }
        ours = tests["generated"]
        floor = abs(tests["floor"].accuracy - 0.5) if "floor" in tests else 0.0
        return [
            row_by_role(
                "1-NN accuracy",
                "nearest-neighbour",
                {role: Estimate(test.accuracy, test.error) for role, test in tests.items()},
                exact=0.5,
                exact_error=0.0,
                exact_source="exact",
                pull=(ours.accuracy - 0.5) / ours.error if ours.error > 0 else None,
                p_value=ours.p_value,
                tolerance=self.tolerance,
                verdict=verdict_within(ours.accuracy - 0.5, ours.error, self.tolerance, floor),
                note=f"{len(truth)} rows of each sample: of true ones {ours.first:.2f}, of "
                f"generated ones {ours.second:.2f}",
            )
        ]


@dataclass(frozen=True)
class TwoSample:
    """What nearest neighbours say of two samples.

    Attributes:
        accuracy: of both.
        first, second: of the rows of either sample.
        error: of `accuracy`.
        p_value: two-sided, by permutation of labels; `None` where they are not exchangeable.
    """

    accuracy: float
    first: float
    second: float
    error: float
    p_value: float | None


def two_sample(
    a: Array,
    b: Array,
    seed: int,
    *,
    units: tuple[Rows, Rows] | None = None,
    exchangeable: bool = True,
    paired: bool = False,
) -> TwoSample:
    """Return the leave-one-unit-out accuracy on (N, F) and (M, F) rows.

    Args:
        a, b: features.
        seed: of permutations, of divisions, and of the choice between equally near rows.
        units: (N,) and (M,); rows that share a number are no neighbours. `None` is no two rows.
        exchangeable: whether labels of rows, or of the rows of a pair, may be permuted.
        paired: whether rows i of both are a pair.
    """
    generator = np.random.default_rng(seed)
    points = np.concatenate([a, b])
    unit = np.concatenate(units or apart(len(a), len(b)))
    nearest = neighbours(points, generator, unit)
    labels = np.repeat([True, False], [len(a), len(b)])
    same = labels[nearest] == labels
    accuracy = float(same.mean())
    first, second = float(same[: len(a)].mean()), float(same[len(a) :].mean())
    if not exchangeable:

        def statistic(*halves: Rows) -> Array:
            rows = np.concatenate(halves)
            mine = labels[rows]
            other = mine[neighbours(points[rows], generator, unit[rows])]
            return np.array([(other == mine).mean()])

        samples = np.split(np.arange(len(points)), [len(a)])
        error = half_sampling(statistic, samples, units, seed=seed, pairs=5).error[0]
        return TwoSample(accuracy, first, second, float(error), None)
    n, m = len(a), len(b)
    # What is expected of permuted labels, of one row and of the other row that is its neighbour.
    centre = 0.5 if paired else (n * (n - 1) + m * (m - 1)) / ((n + m) * (n + m - 1))

    def permuted(index: int) -> Array:
        draws = np.random.default_rng([seed, index])
        if paired:
            orders = np.tile(draws.integers(0, 2, (AT_ONCE, n), dtype=bool), 2) ^ labels
        else:
            orders = draws.permuted(np.tile(labels, (AT_ONCE, 1)), axis=1)
        return np.asarray((orders[:, nearest] == orders).mean(1)[:, None] - centre)

    off = np.array([abs(accuracy - centre)])
    p_value = float(sequential(off, lambda index: np.abs(permuted(index)))[0])
    # The spread of the null, less where nearly all neighbours are of one kind.
    shrink = 2 * math.sqrt(accuracy * (1 - accuracy))
    return TwoSample(accuracy, first, second, float(permuted(0).std()) * shrink, p_value)


def neighbours(
    points: Array, generator: np.random.Generator, unit: Rows | None = None
) -> NDArray[np.int64]:
    """Return (N,), the number of the other row that is nearest; one of several, drawn at random.

    Rows that share a (N,) unit number are no neighbours.

    >>> neighbours(np.array([[0.0], [1.0], [5.0]]), np.random.default_rng(0))
    array([1, 0, 1])
    """
    unit = np.arange(len(points)) if unit is None else unit
    scale = _EQUAL * float((points**2).sum(1).max())
    nearest = np.empty(len(points), dtype=np.int64)
    for start in range(0, len(points), CHUNK):
        squares = squared_distances(points[start : start + CHUNK], points)
        squares[unit[start : start + CHUNK, None] == unit] = np.inf
        equal = squares <= squares.min(1, keepdims=True) + scale
        nearest[start : start + CHUNK] = equal.argmax(1)
        for row in np.flatnonzero(equal.sum(1) > 1):
            nearest[start + row] = generator.choice(np.flatnonzero(equal[row]))
    return nearest


def squared_distances(a: Array, b: Array) -> Array:
    """Return (N, M), |a - b|^2 of (N, F) and (M, F) rows."""
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2 * a @ b.T
    result: Array = np.maximum(squares, 0.0)
    return result
