r"""The Frechet distance of features, as normal distributions (Dowson & Landau 1982).

Between normal distributions of means m, m' and covariances C, C' the squared 2-Wasserstein distance
is

    d^2 = |m - m'|^2 + Tr C + Tr C' - 2 Tr (C^{1/2} C' C^{1/2})^{1/2},

the last trace being the sum of the singular values of C^{1/2} C'^{1/2}. Heusel et al. (arXiv
1706.08500) score images with it, Kansal et al. (2211.10295) physics. Fitted moments give a value
that is too large by about b / n (Chong & Forsyth, 1911.07023), as the floor of the same n shows;
extrapolated to n -> infinity it vanishes where the distributions agree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from physgen.validation.comparison import Comparison
from physgen.validation.features import embed
from physgen.validation.half_sampling import half_sampling
from physgen.validation.permutation import Relabelling
from physgen.validation.scorecard import Row, floor_of, row_by_role, verdict_within
from physgen.validation.uncertainty import Estimate

Array = NDArray[float64]

ROWS_PER_FEATURE = 5
"""With fewer rows a covariance is mostly noise."""


@dataclass(frozen=True, kw_only=True)
class Frechet:
    """Frechet distance of the features in units of the truth's variance; see `features`.

    Attributes:
        tolerance: limit on value + 2 sigma.

    >>> import torch
    >>> from physgen.batch import Batch
    >>> from physgen.systems.scalar import Phi4
    >>> x = torch.randn(3, 500, 4, generator=torch.Generator().manual_seed(0))
    >>> samples = Comparison(Phi4(shape=(4,)), *map(Batch, x))
    >>> row = Frechet().rows(samples)[0]
    >>> row.value < 2 * row.floor + 0.1
    True
    """

    tolerance: float | None = None

    def rows(self, comparison: Comparison) -> list[Row]:
        """Return the distance at the number of rows there is, and extrapolated to infinitely many.

        Raises:
            InputError: there is no truth, or too little; see `physgen.validation.features.embed`.
        """
        embedded = comparison.once(embed)
        truth, ours = embedded.values["truth"], embedded.values["generated"]
        half_sampled = {
            role: half_sampling(
                _distance,
                (truth, values),
                (embedded.unit["truth"], embedded.unit[role]),
                seed=comparison.seed,
            )
            for role, values in embedded.others.items()
        }
        distances = {role: result.estimate() for role, result in half_sampled.items()}
        limits = {
            role: Estimate(float(result.extrapolated[0]), float(result.error[0]))
            for role, result in half_sampled.items()
        }
        distance = distances["generated"]
        note = embedded.note
        if len(truth) < ROWS_PER_FEATURE * truth.shape[1]:
            note += "; few rows for so many features: mostly the bias that the floor shows"
        chance = None
        if embedded.exchangeable:
            units = (embedded.unit["truth"], embedded.unit["generated"])
            paired = "generated" in embedded.paired
            chance = p_value(truth, ours, comparison.seed, units if paired else None)
        return [
            row_by_role(
                "Frechet distance",
                "frechet",
                distances,
                p_value=chance,
                tolerance=self.tolerance,
                verdict=verdict_within(
                    distance.value, distance.error, self.tolerance, floor_of(distances)
                ),
                note=note,
            ),
            row_by_role(
                "Frechet distance, n to infinity",
                "frechet",
                limits,
                note="extrapolated from halves: near 0 where the distributions agree",
            ),
        ]


def frechet_distance(a: Array, b: Array) -> float:
    """Return d^2 of the normal distributions with the moments of (N, F) and (M, F) rows."""
    return between_normals(*_moments(a), *_moments(b))


def between_normals(
    mean_a: Array, covariance_a: Array, mean_b: Array, covariance_b: Array
) -> float:
    """Return d^2 of two normal distributions; covariances may be singular.

    >>> between_normals(np.zeros(2), np.eye(2), np.array([3.0, 4.0]), np.eye(2))
    25.0
    """
    roots = _root(covariance_a) @ _root(covariance_b)
    overlap = np.linalg.svd(roots, compute_uv=False).sum()
    traces = np.trace(covariance_a) + np.trace(covariance_b)
    return float(max(np.sum((mean_a - mean_b) ** 2) + traces - 2 * overlap, 0.0))


def p_value(
    a: Array, b: Array, seed: int, pairs: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None
) -> float:
    """Return the p-value of exchangeable (N, F) and (M, F) rows: exact, by permutation.

    Rows that share a number of `pairs`, (N,) and (M,), are exchanged with each other alone.

    The statistic is the distance to second order in the differences of the moments, in the
    eigenvectors of the pooled covariance with its eigenvalues l,

        |dm|^2 + sum_ij dC_ij^2 / 2 (l_i + l_j).
    """
    pooled = np.concatenate([a, b])
    centred = pooled - pooled.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(pooled))
    values = np.maximum(values, 1e-6 * values[-1])
    rows = centred @ vectors
    relabelling = Relabelling(len(a), len(b), groups=pairs or (None, None), seed=seed)
    sums, scales = [relabelling.sums(rows)], [np.ones(len(values))]
    for i in range(len(values)):
        sums.append(relabelling.sums(rows[:, i : i + 1] * rows[:, i:]))
        twice = np.where(np.arange(i, len(values)) == i, 1.0, 2.0)
        scales.append(twice / (2 * (values[i] + values[i:])))
    scale = np.concatenate(scales)
    p_values = relabelling.p_values(np.concatenate(sums, axis=1), lambda d: (d**2 @ scale)[:, None])
    return float(p_values[0])


def _distance(a: Array, b: Array) -> Array:
    return np.array([frechet_distance(a, b)])


def _moments(rows: Array) -> tuple[Array, Array]:
    mean = rows.mean(0)
    centred = rows - mean
    return mean, centred.T @ centred / (len(rows) - 1)


def _root(covariance: Array) -> Array:
    """Return the symmetric square root of a matrix whose eigenvalues are not negative."""
    values, vectors = np.linalg.eigh(covariance)
    result: Array = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    return result
