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
import torch
from numpy import float64
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from physgen.errors import InputError
from physgen.validation.comparison import Comparison, Role, evenly_spaced, random_rows
from physgen.validation.half_sampling import apart
from physgen.validation.independence import select
from physgen.validation.permutation import Relabelling
from physgen.validation.scorecard import Row, floor_of, row_by_role, verdict_within
from physgen.validation.uncertainty import Estimate

Array = NDArray[float64]

N_WAVES = 256
"""Frequencies drawn for the p-value."""


@dataclass(frozen=True, kw_only=True)
class MaximumMeanDiscrepancy:
    """MMD^2 with a Gaussian kernel on features standardised by the truth.

    Attributes:
        level: which features (`HasFeatures`).
        n: rows of each sample, drawn at random, of chains evenly spaced; the cost grows as n^2.
        tolerance: limit on value + 2 sigma.

    >>> import torch
    >>> from physgen.batch import Batch
    >>> from physgen.systems.scalar import Phi4
    >>> x = torch.randn(3, 500, 4, generator=torch.Generator().manual_seed(0))
    >>> samples = Comparison(Phi4(shape=(4,)), *map(Batch, x))
    >>> abs(MaximumMeanDiscrepancy(n=200).rows(samples)[0].value) < 0.05
    True
    """

    level: Literal["low", "high"] = "high"
    n: int = 2000
    tolerance: float | None = None

    def rows(self, comparison: Comparison) -> list[Row]:
        """Return one row; `InputError` if there is no truth."""
        shown = {role: self._shown(comparison, role) for role in comparison.measured}
        if "truth" not in shown:
            raise InputError("MMD needs a sample of the truth; this system cannot make one")
        truth = shown.pop("truth")
        centre, width = np.nanmean(truth.features, 0), np.nanstd(truth.features, 0)
        width = np.where(width > 0, width, 1.0)

        def standardised(values: Array) -> Array:
            scaled = (values - centre) / width
            return np.asarray(np.nan_to_num(scaled, nan=0.0, posinf=1e3, neginf=-1e3))

        first = standardised(truth.features)
        mmds: dict[Role, MaximumMean] = {}
        p_value = None
        for role, other in shown.items():
            second = standardised(other.features)
            mmds[role] = maximum_mean_discrepancy(
                first, second, truth.weight, other.weight, units=(truth.unit, other.unit)
            )
            if role == "generated" and not (truth.chain or other.chain):
                units = (truth.unit, other.unit)
                together = role in comparison.paired or not (truth.alone and other.alone)
                relabelling = Relabelling(
                    len(first),
                    len(second),
                    weights=(truth.weight, other.weight),
                    groups=units if together else (None, None),
                    seed=comparison.seed,
                )
                pooled = np.concatenate([first, second])
                if relabelling.usable:
                    p_value = kernel_p_value(relabelling, pooled, mmds[role].bandwidth)
        ours = mmds["generated"]
        scores = {role: Estimate(mmd.value, mmd.error) for role, mmd in mmds.items()}
        return [
            row_by_role(
                f"MMD^2 {self.level} level",
                "mmd",
                scores,
                p_value=p_value,
                tolerance=self.tolerance,
                verdict=verdict_within(
                    max(ours.value, 0.0), ours.error, self.tolerance, max(floor_of(scores), 0.0)
                ),
                note=f"{len(truth.features)} rows of each sample, bandwidth {ours.bandwidth:.3g}",
            )
        ]

    def _shown(self, comparison: Comparison, role: Role) -> _Shown:
        """Return some of the rows that count; of chains evenly spaced ones."""
        selected, measured = comparison.once(select)[role], comparison.measured[role]
        n, chains = len(selected.rows), measured.chain is not None
        selected = selected[
            evenly_spaced(n, self.n) if chains else random_rows(n, self.n, comparison.seed)
        ]
        batch = comparison.samples[role][torch.from_numpy(selected.rows)]
        return _Shown(
            comparison.features(batch, self.level).astype(float64),
            None if measured.weight is None else measured.weight[selected.rows],
            selected.unit,
            selected.alone,
            measured.chain is not None,
        )


@dataclass(frozen=True)
class _Shown:
    """Rows of one sample: features, weights and units; if all stand alone, if they are chains."""

    features: Array
    weight: Array | None
    unit: NDArray[np.int64]
    alone: bool
    chain: bool


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
    units: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
    bandwidth: float | None = None,
) -> MaximumMean:
    """Return the unbiased MMD^2 of (N, F) and (M, F).

    Rows that share a number of `units`, (N,) and (M,), are not independent, and not compared.
    The default bandwidth is the median distance within the pooled sample. Memory and time grow as
    (N + M)^2: pass a few thousand rows.

    >>> x = np.random.default_rng(0).normal(size=(2, 200, 1))
    >>> mmd = maximum_mean_discrepancy(x[0], x[1] + 1.0)
    >>> bool(mmd.value > 3 * mmd.error)
    True
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
    unit = np.unique(np.concatenate(units or apart(n, len(y))), return_inverse=True)[1]
    kernel[unit[:, None] == unit] = 0.0
    # Weights of each unit, by sample: pairs within a unit are not counted either.
    of_x, of_y = (
        np.bincount(part, weights=w, minlength=int(unit.max()) + 1)
        for part, w in ((unit[:n], u), (unit[n:], v))
    )
    to_x, to_y = kernel[:, :n] @ u, kernel[:, n:] @ v
    value = (
        float(u @ to_x[:n]) / (u.sum() ** 2 - float(of_x @ of_x))
        + float(v @ to_y[n:]) / (v.sum() ** 2 - float(of_y @ of_y))
        - 2 * float(u @ to_y[:n]) / (u.sum() * v.sum() - float(of_x @ of_y))
    )
    # First-order (Hoeffding) term of the variance ...
    witness = 2 * (to_x / u.sum() - to_y / v.sum())
    on_x, on_y = np.split(witness * np.concatenate([u, v]), [n])
    terms = np.concatenate([(on_x - on_x.mean()) / n, (on_y.mean() - on_y) / len(y)])
    linear = float((np.bincount(unit, weights=terms) ** 2).sum())
    # ... and the degenerate rest, that of a form sum_ab eps_a eps_b h_ab over units a != b, h being
    # the sum of s_i s_j k_ij over the rows of both, k centred.
    signed = np.concatenate([u / u.sum(), -v / v.sum()])
    rows = kernel.mean(1)
    kernel -= rows[:, None]
    kernel -= rows[None, :] - rows.mean()
    kernel[unit[:, None] == unit] = 0.0
    gather = csr_array((signed, (unit, np.arange(len(unit)))))
    form = gather @ (gather @ kernel).T
    degenerate = 2 * float((form**2).sum())
    return MaximumMean(value, float(np.sqrt(linear + degenerate)), bandwidth)


def kernel_p_value(relabelling: Relabelling, pooled: Array, bandwidth: float) -> float:
    """Return the p-value of (N, F) pooled rows, those of the first sample first."""
    generator = np.random.default_rng([relabelling.seed, 4])
    waves = pooled @ generator.normal(scale=1 / bandwidth, size=(pooled.shape[1], N_WAVES))
    features = np.concatenate([np.cos(waves), np.sin(waves)], axis=1)
    sums = relabelling.sums(features)
    p_value: float = relabelling.p_values(sums, lambda d: (d**2).sum(1, keepdims=True))[0]
    return p_value


def _normalised(weight: ArrayLike | None, n: int) -> Array:
    w = np.ones(n) if weight is None else np.asarray(weight, dtype=float64)
    return np.asarray(w / w.mean())
