"""The maximum mean discrepancy: a kernel on all features at once.

    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y),    k = exp(-|x - y|^2 / 2 bandwidth^2)

(Gretton et al. 2012), unbiased: no terms i = j. Its p-value is that of |D|^2, D being the
difference of the means of the random Fourier features of the same kernel (Rahimi & Recht 2007),

    phi = (cos omega x, sin omega x),    omega ~ N(0, 1 / bandwidth^2),

by `physgen.validation.permutation`: exact for rows without weights, asymptotic for others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy import float64
from numpy.typing import ArrayLike, NDArray

from physgen.batch import Batch
from physgen.errors import InputError
from physgen.validation.comparison import Comparison, Role, evenly
from physgen.validation.permutation import Relabelling
from physgen.validation.scorecard import Row, within

Array = NDArray[float64]

N_WAVES = 256
"""Frequencies drawn for the p-value."""


@dataclass(frozen=True, kw_only=True)
class MaximumMeanDiscrepancy:
    """MMD^2 with a Gaussian kernel on features standardised by the truth.

    Attributes:
        level: which features (`HasFeatures`).
        n: rows of each sample, evenly spaced; the cost grows as n^2.
        tolerance: limit on value + 2 sigma.
    """

    level: Literal["low", "high"] = "high"
    n: int = 2000
    tolerance: float | None = None

    def rows(self, comparison: Comparison) -> list[Row]:
        """Return one row; `InputError` if there is no truth."""
        truth, truth_weight, truth_group = self._features(comparison, "truth")
        centre, width = np.nanmean(truth, 0), np.nanstd(truth, 0)
        width = np.where(width > 0, width, 1.0)

        def standardised(values: Array) -> Array:
            scaled = (values - centre) / width
            return np.asarray(np.nan_to_num(scaled, nan=0.0, posinf=1e3, neginf=-1e3))

        first = standardised(truth)
        found: dict[str, MaximumMean] = {}
        p_value = None
        for role, measured in comparison.measured.items():
            if role == "truth":
                continue
            values, weight, group = self._features(comparison, role)
            second = standardised(values)
            found[role] = maximum_mean_discrepancy(first, second, truth_weight, weight)
            if role == "generated" and measured.chain is None:
                relabelling = Relabelling(
                    len(first),
                    len(second),
                    weights=(truth_weight, weight),
                    groups=(truth_group, group),
                    seed=comparison.seed,
                )
                pooled = np.concatenate([first, second])
                if relabelling.usable:
                    p_value = kernel_p_value(relabelling, pooled, found[role].bandwidth)
        ours, floor, baseline = found["generated"], found.get("floor"), found.get("baseline")
        return [
            Row(
                name=f"MMD^2 {self.level} level",
                metric="mmd",
                value=ours.value,
                error=ours.error,
                floor=None if floor is None else floor.value,
                floor_error=None if floor is None else floor.error,
                baseline=None if baseline is None else baseline.value,
                p_value=p_value,
                tolerance=self.tolerance,
                verdict=within(max(ours.value, 0.0), ours.error, self.tolerance),
                note=f"{len(truth)} rows of each sample, bandwidth {ours.bandwidth:.3g}",
            )
        ]

    def _features(
        self, comparison: Comparison, role: Role
    ) -> tuple[Array, Array | None, NDArray[np.int64] | None]:
        """Return features, weights and group keys of evenly spaced rows."""
        batch: Batch | None = comparison.batch(role)
        if batch is None:
            raise InputError(f"MMD needs a sample of the {role}; this system cannot make one")
        rows = evenly(len(batch), self.n)
        measured = comparison.measured[role]
        weight, group = measured.weight, measured.group
        values: Array = comparison.features(batch, self.level)[rows]
        return (
            values,
            None if weight is None else weight[rows],
            None if group is None else group[rows],
        )


@dataclass(frozen=True)
class MaximumMean:
    """The squared maximum mean discrepancy and its error."""

    value: float
    error: float
    bandwidth: float


def maximum_mean_discrepancy(
    a: ArrayLike,
    b: ArrayLike,
    weight_a: ArrayLike | None = None,
    weight_b: ArrayLike | None = None,
    *,
    bandwidth: float | None = None,
) -> MaximumMean:
    """Return the unbiased MMD^2 of (N, F) and (M, F).

    The default bandwidth is the median distance within the pooled sample. Memory and time grow as
    (N + M)^2: pass a few thousand rows.
    """
    x, y = np.asarray(a, dtype=float64), np.asarray(b, dtype=float64)
    n = len(x)
    u, v = _normalised(weight_a, n), _normalised(weight_b, len(y))
    pooled = np.concatenate([x, y])
    norms = (pooled**2).sum(1)
    squares = np.maximum(norms[:, None] + norms[None, :] - 2 * pooled @ pooled.T, 0.0)
    if bandwidth is None:
        stride = max(1, len(pooled) // 1000)
        part = squares[::stride, ::stride]
        bandwidth = float(np.sqrt(np.median(part[np.triu_indices(len(part), 1)]))) or 1.0
    kernel = np.exp(squares / (-2 * bandwidth**2))
    np.fill_diagonal(kernel, 0.0)
    to_x, to_y = kernel[:, :n] @ u, kernel[:, n:] @ v
    value = (
        float(u @ to_x[:n]) / (u.sum() ** 2 - float(u @ u))
        + float(v @ to_y[n:]) / (v.sum() ** 2 - float(v @ v))
        - 2 * float(u @ to_y[:n]) / (u.sum() * v.sum())
    )
    # First-order (Hoeffding) term of the variance ...
    witness = 2 * (to_x / u.sum() - to_y / v.sum())
    linear = (witness[:n] * u).var() / n + (witness[n:] * v).var() / len(y)
    # ... and the degenerate rest, that of a form sum_ij eps_i eps_j s_i s_j k_ij, k centred.
    squared = np.concatenate([(u / u.sum()) ** 2, (v / v.sum()) ** 2])
    rows = kernel.mean(1)
    kernel -= rows[:, None]
    kernel -= rows[None, :] - rows.mean()
    np.fill_diagonal(kernel, 0.0)
    degenerate = 2 * float(squared @ (kernel**2 @ squared))
    return MaximumMean(value, float(np.sqrt(linear + degenerate)), bandwidth)


def kernel_p_value(relabelling: Relabelling, pooled: Array, bandwidth: float) -> float:
    """Return the p-value of (N, F) pooled rows, those of the first sample first."""
    generator = np.random.default_rng([relabelling.seed, 4])
    waves = pooled @ generator.normal(scale=1 / bandwidth, size=(pooled.shape[1], N_WAVES))
    features = np.concatenate([np.cos(waves), np.sin(waves)], axis=1)
    sums = relabelling.sums(features)
    found: float = relabelling.p_values(sums, lambda d: (d**2).sum(1, keepdims=True))[0]
    return found


def _normalised(weight: ArrayLike | None, n: int) -> Array:
    w = np.ones(n) if weight is None else np.asarray(weight, dtype=float64)
    return np.asarray(w / w.mean())
