r"""What a generated sample is worth: how many true events describe the truth as badly.

Let phi be features of an event, P the truth and Q the generator. The squared distance of the mean
features of a sample from those of the truth is on average

    V_P / n                for n true events,       V_P = tr Cov_P phi,
    b^2 + V_Q / m          for m generated ones,    b^2 = |<phi>_Q - <phi>_P|^2,

so that m generated events are worth N(m) = V_P / (b^2 + V_Q / m) true ones, at most
N(\infty) = V_P / b^2 however many are generated, 90% of which are reached at
m = 9 N(\infty) V_Q / V_P.

The features of an observable say in which of K bins of equal probability an event lies, times
1/sqrt((K - 1) p_k) (the metric of chi^2, V_P = 1). Those of all observables together have N with
1/N the mean of their 1/N; their outermost bins alone are those of the tails, the bins of a region
those of this. Events of the whole sample are counted all the same. The joint features are random
Fourier features of the whitened observables (Rahimi & Recht, NIPS 2007), which see what no single
observable does.

With d the difference of the mean features and S its covariance, b^2 is |d|^2 - tr S without bias,
and |d|^2 / g is noncentral chi^2 of nu degrees of freedom, g = tr S^2 / tr S and nu = (tr S)^2 /
tr S^2 (Satterthwaite, Biometrics Bull. 2 (1946) 110), from which the interval of b^2 follows. A
resolved bias has its own g, as b^2 is known worse or better where S along b is larger or smaller
than tr S^2 / tr S. N depends on the question: a bias of one mean counts less the more bins it is
divided among. Say K.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy import float64
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import brentq
from scipy.stats import ncx2

from physgen.validation.comparison import Comparison, Role
from physgen.validation.event_features import FREQUENCIES, Features, binned, fourier, in_region
from physgen.validation.feature_covariance import Covariance, Sums
from physgen.validation.independence import Selection, select
from physgen.validation.means import refuse_unknown
from physgen.validation.scorecard import Row, row_by_role
from physgen.validation.uncertainty import Estimate

Array = NDArray[float64]
Part = slice | list[int]
"""Rising numbers of features."""

_WIDE = 512
"""Columns of a covariance that are held."""

_OF_ALL = "N_equiv, mean of observables", "N_equiv, tails of observables"

CONFIDENCE = 0.95
TOO_GOOD = 1e-4
"""Independent samples agree so well with no more than this probability."""
FEWEST_FREE = 8.0
"""Degrees of freedom below which the counts of a few bins may be the very same by chance."""


@dataclass(frozen=True)
class Worth:
    """What m generated events are worth in true ones.

    Attributes:
        truth: V_P, the sum of the variances of the features of a true event.
        generated: V_Q / m, that of the mean of the generated ones.
        distance: |d|^2, between the means of the generated sample and the reference.
        trace, square: tr S and tr S^2 of the covariance S of d.
        along: d^T S d.
        counted: whether features are counts in bins.
    """

    truth: float
    generated: float
    distance: float
    trace: float
    square: float
    along: float
    counted: bool = False

    @property
    def bias(self) -> float:
        """b^2, of the generator, without bias; negative by chance where it is small."""
        return self.distance - self.trace

    @property
    def number(self) -> float:
        """N(m)."""
        return self.truth / (max(self.bias, 0.0) + self.generated)

    @cached_property
    def biases(self) -> tuple[float, float]:
        """Ends of the interval of b^2; the lower one is 0 where no bias is resolved."""
        g_0 = self.square / self.trace
        of_bias = g_0
        if self.distance > self.trace + 2 * math.sqrt(2 * self.square):
            along = (self.along - self.square) / (self.distance - self.trace)
            # Below half of g_0 it is an estimate that scatters too much.
            of_bias = min(max(along, g_0 / 2), math.sqrt(self.square))
        # Samples that agree better than half of all would exclude any bias by chance: no limit is
        # below the median one of samples without (Cowan et al., 1105.3166).
        median = g_0 * float(ncx2.median(self.trace / g_0, 0.0))
        distances = self.distance, max(self.distance, median)
        shares = (1 + CONFIDENCE) / 2, (1 - CONFIDENCE) / 2
        ends = []
        for distance, share in zip(distances, shares, strict=True):
            above = 4 * (distance + self.trace + 30 * max(g_0, of_bias))

            def excess(bias: float, share: float = share, distance: float = distance) -> float:
                # The variance of |d|^2 is 2 tr S^2 + 4 b^T S b; g has it, or a little more.
                g = of_bias
                if of_bias < g_0:
                    g = (self.square + 2 * bias * of_bias) / (self.trace + 2 * bias)
                return float(ncx2.cdf(distance / g, self.trace / g, bias / g)) - share

            # A noncentral chi^2 moves to the right with its parameter.
            resolved = excess(0.0) > 0
            ends.append(float(brentq(excess, 0.0, above)) if resolved else 0.0)
        return ends[0], ends[1]

    @property
    def interval(self) -> tuple[float, float]:
        """Ends of the interval of N(m)."""
        low, high = self.biases
        return self.truth / (high + self.generated), self.truth / (low + self.generated)

    @property
    def limit(self) -> tuple[float, float]:
        """Ends of the interval of N(infinity); the upper one is infinite if no bias is resolved."""
        low, high = self.biases
        below = self.truth / high if high > 0 else math.inf
        return below, self.truth / low if low > 0 else math.inf

    def enough(self, m: int) -> float:
        """Return how many generated events give 90% of N(infinity), seen from `m`; or infinity."""
        if self.biases[0] <= 0:
            return math.inf
        return 9 * m * self.generated / max(self.bias, self.biases[0])

    @property
    def too_good(self) -> bool:
        """Whether the samples agree better than independent ones can."""
        g, nu = self.square / self.trace, self.trace**2 / self.square
        if self.counted and nu < FEWEST_FREE:
            return False
        return bool(ncx2.cdf(self.distance / g, nu, 0.0) < TOO_GOOD)


@dataclass(frozen=True, kw_only=True)
class EquivalentEvents:
    """N_equiv: how many true events the generated sample is worth, per observable and jointly.

    Attributes:
        bins: K of every observable, and of a region; fewer where it has fewer values.
        regions: from where to where an observable is looked at, by its name.

    >>> import torch
    >>> from physgen.batch import Batch
    >>> from physgen.systems.scalar import Phi4
    >>> x = torch.randn(2, 4000, 4, generator=torch.Generator().manual_seed(0))
    >>> comparison = Comparison(Phi4(shape=(4,)), Batch(x[0] + 0.1), Batch(x[1]))
    >>> rows = {row.name: row for row in EquivalentEvents().rows(comparison)}
    >>> rows["N_equiv m"].value < 1500  # of 4000: <m> moved by a fifth of its deviation
    True
    """

    bins: int = 20
    regions: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def rows(self, comparison: Comparison) -> list[Row]:
        """Return a row for all observables jointly, their mean, their tails, and for each.

        Raises:
            InputError: there is no truth.
            RecipeError: a region is of an observable that there is not.
            NotMeasurable: too few rows are independent, or weights leave too few.
        """
        truth = comparison.measured_truth
        refuse_unknown(self.regions, truth.scalars, "region")
        selected = comparison.once(select)
        bins, columns = binned(comparison, selected, self.bins)
        joint, of_what = fourier(comparison, selected)
        # Of each observable, the last bin is of events in which it is not defined.
        ends = [end for part in columns.values() for end in (part.start, part.stop - 2)]
        regions = {
            name: in_region(comparison, selected, name, region, self.bins)
            for name, region in self.regions.items()
        }
        worths: dict[str, dict[Role, Worth]] = {}
        whole = slice(None)
        parts: dict[str, Part] = dict(zip(_OF_ALL, (whole, ends), strict=True))
        parts |= {f"N_equiv {name}": part for name, part in columns.items()}
        for role in selected:
            if role == "truth":
                continue
            jointly = _difference(comparison, selected, role, joint)
            singly = _difference(comparison, selected, role, bins)
            found = jointly.worths({"N_equiv": whole}) | singly.worths(parts)
            for name, phi in regions.items():
                low, high = self.regions[name]
                label = f"N_equiv {name} from {low:g} to {high:g}"
                found |= _difference(comparison, selected, role, phi).worths({label: whole})
            for name, worth in found.items():
                worths.setdefault(name, {})[role] = worth
        m = len(selected["generated"].rows)
        without = f"; {left_out}" if (left_out := comparison.left_out()) else ""
        of_all = {"N_equiv": f"{FREQUENCIES} frequencies of {of_what}{without}"}
        of_all |= dict.fromkeys(_OF_ALL, f"{self.bins} bins{without}")
        return [
            _row(name, worth, m, of_all.get(name, f"{self.bins} bins"))
            for name, worth in worths.items()
        ]


def _row(name: str, worth: Mapping[Role, Worth], m: int, features: str) -> Row:
    ours = worth["generated"]
    low, high = ours.interval
    least, most = ours.limit
    if math.isfinite(most):
        many = f"{least:.3g} to {most:.3g}, of which 90% at {ours.enough(m):.2g}"
    else:
        many = f"above {least:.3g}: no bias is resolved"
    return row_by_role(
        name,
        "equivalent-events",
        {role: _estimate(one) for role, one in worth.items()},
        unit="true events",
        note=f"{m} generated events are worth {low:.3g} to {high:.3g} (95%), any number of them "
        f"{many}; {features}",
        warning=_TOO_GOOD if ours.too_good else "",
    )


_TOO_GOOD = (
    "the generated sample agrees better with the truth than independent samples can: the truth may "
    "hold events that it was made from, or that were trained on"
)


def _estimate(worth: Worth) -> Estimate:
    low, high = worth.interval
    return Estimate(worth.number, (high - low) / 3.92)


@dataclass(frozen=True)
class _Difference:
    """Mean features of a sample and of the truth.

    Attributes:
        truth: (F,) variances of the features of a true event.
        generated: (F,) variances of the mean features of the sample.
        d: (F,), the difference of the means.
        covariance: of it.
        counted: whether features are counts in bins.
    """

    truth: Array
    generated: Array
    d: Array
    covariance: Covariance
    counted: bool

    def worths(self, parts: Mapping[str, Part]) -> dict[str, Worth]:
        """Return what the sample is worth in the light of some of the features, by name.

        The covariance of all features of many observables would take gigabytes: it is gone through
        in columns.
        """
        numbers = np.arange(len(self.d))
        rows = {name: numbers[part] for name, part in parts.items()}
        sums = {name: np.zeros(3) for name in parts}  # tr S, tr S^2 and d^T S d
        for start in range(0, len(self.d), _WIDE):
            columns = numbers[start : start + _WIDE]
            block = self.covariance.columns(slice(start, start + _WIDE))
            for name, part in rows.items():
                own = part[np.searchsorted(part, start) : np.searchsorted(part, columns[-1] + 1)]
                if len(own):
                    s = block[part][:, own - start]
                    diagonal = block[own, own - start]
                    sums[name] += (
                        diagonal.sum(),
                        np.square(s).sum(),
                        self.d[part] @ s @ self.d[own],
                    )
        return {
            name: Worth(
                truth=float(self.truth[part].sum()),
                generated=float(self.generated[part].sum()),
                distance=float(np.square(self.d[part]).sum()),
                trace=float(sums[name][0]),
                square=float(sums[name][1]),
                along=float(sums[name][2]),
                counted=self.counted,
            )
            for name, part in rows.items()
        }


def _difference(
    comparison: Comparison,
    selected: Mapping[Role, Selection],
    role: Role,
    features: Mapping[Role, Features],
) -> _Difference:
    """Set the sample of a role beside the truth. Rows of one unit vary together."""
    units = np.unique(np.concatenate([selected[role].unit, selected["truth"].unit]))
    ours = Sums.of(comparison, selected, role, features[role], units)
    truth = Sums.of(comparison, selected, "truth", features["truth"], units)
    minus = replace(truth, sums=-truth.sums, shares=-truth.shares)
    generated, counted = (
        Covariance.of(ours.sums, [ours]).diagonal(),
        sparse.issparse(features[role]),
    )
    if counted:
        # Where the truth has events and the sample none, its variance is that of half an event.
        square = np.divide(truth.square, truth.mean, np.zeros_like(generated), where=truth.mean > 0)
        generated = np.maximum(generated, square**2 * 0.5 * np.square(ours.shares).sum() ** 2)
    return _Difference(
        truth=truth.square - truth.mean**2,
        generated=generated,
        d=ours.mean - truth.mean,
        covariance=Covariance.of(ours.sums + minus.sums, [ours, minus]),
        counted=bool(counted),
    )
