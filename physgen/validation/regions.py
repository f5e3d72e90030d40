"""Where the generated sample has too many rows, or too few, in words.

Both samples are cut in halves. On one half, the box of one or two observables (or conditions) in
which they depart most is looked for (`physgen.validation.boxes`), then the next one among the rows
outside of it, and so on. On the other half, which had no part in the choice, the ratio of the
shares of both samples is measured. So ratio and interval are those of a question asked beforehand;
p-values are those of Bonferroni for the number of boxes that were chosen, and no region is named
whose own half does not confirm it at three sigma.

Of rows of equal weight that stand alone, given all that lie in the box, those of the generated
sample are binomial: interval (Clopper & Pearson, Biometrika 26 (1934) 404) and p-value are exact.
Of others the shares are taken for normal, with the variance of sums over units: right for many.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy import float64
from numpy.typing import NDArray
from scipy.special import bdtr, bdtrc, betaincinv

from physgen.validation.boxes import Box, Table, farthest
from physgen.validation.comparison import Comparison, Role, varies
from physgen.validation.independence import select
from physgen.validation.judging import SIGNIFICANCE
from physgen.validation.scorecard import Row

Array = NDArray[float64]
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]

FEWEST = 10.0
"""Effective rows in a box, and expected ones of the smaller sample, without which normal errors say
nothing."""

INTERVAL, SIGMAS = 0.95, 1.96
"""Content of the intervals, and their ends in standard deviations."""


@dataclass(frozen=True)
class Ratio:
    """The share of the generated rows in a region, over that of the true ones.

    Attributes:
        generated, truth: both shares.
        low, high: an interval of 95% for their ratio.
        p_value: of the hypothesis that the shares are equal.
    """

    generated: float
    truth: float
    low: float
    high: float
    p_value: float

    @property
    def value(self) -> float:
        """The ratio; NaN where both are 0."""
        if self.truth > 0:
            return self.generated / self.truth
        return math.inf if self.generated > 0 else math.nan

    def __str__(self) -> str:
        """Say how many too many there are, or too few."""
        if self.generated <= 0:
            return f"none of the {_percent(self.truth)} of the truth, at most {self.high:.2g} of it"
        if self.truth <= 0:
            few = f"{_percent(self.generated)} of the sample"
            return f"{few}, at least {self.low:.2g}x too many: the truth has none"
        shares = f"{_percent(self.generated)} of the sample, {_percent(self.truth)} of the truth"
        if self.value >= 1:
            return f"{self.value:.3g}x too many ({self.low:.3g} to {self.high:.3g}), {shares}"
        most = f"{1 / self.low:.3g}" if self.low > 0 else "any number"
        return f"{1 / self.value:.3g}x too few ({1 / self.high:.3g} to {most}), {shares}"


def _percent(share: float) -> str:
    return f"{100 * share:.2g}%"


@dataclass(frozen=True, kw_only=True)
class Regions:
    """The regions of one or two observables with the most, or the least, generated rows.

    Attributes:
        most: so many regions are named at most.

    >>> import torch
    >>> from physgen.batch import Batch
    >>> from physgen.systems.scalar import Phi4
    >>> x = torch.randn(2, 4000, 4, generator=torch.Generator().manual_seed(0))
    >>> x[0, :1000] += 1.0  # a quarter of the generated ones
    >>> row, *_ = Regions().rows(Comparison(Phi4(shape=(4,)), Batch(x[0]), Batch(x[1])))
    >>> row.name.split(" above ")[0], row.value > 2, "too many" in row.note
    ('region: m', True, True)
    """

    most: int = 6

    def rows(self, comparison: Comparison) -> list[Row]:
        """Return a row for each region, or one that says that there is none.

        Raises:
            InputError: there is no truth.
            NotMeasurable: too few rows are independent, or weights leave too few.
        """
        comparison.measured_truth  # noqa: B018 (raises if there is none)
        samples = _samples(comparison)
        choose, test = (
            dict(zip(_SIDES, half, strict=True))
            for half in zip(
                *_halves([samples[role] for role in _SIDES], comparison.seed), strict=True
            )
        )
        names = list(samples["truth"].columns)
        boxes = self._chosen(choose, _units(comparison, names))
        usual = _halves([test["truth"]], comparison.seed + 1)[0]
        rows = []
        ratios = [ratio_in(box, test["truth"], test["generated"]) for box in boxes]
        adjusted = [min(1.0, one.p_value * len(boxes)) for one in ratios]
        for box, ratio, p_value in zip(boxes, ratios, adjusted, strict=True):
            if p_value <= SIGNIFICANCE:
                rows.append(_row(box, ratio, ratio_in(box, *usual), p_value))
        if rows:
            return rows
        what = f"no region of one or two of {len(names)} observables"
        left_out = comparison.left_out()
        also = f"; {left_out}" if left_out else ""
        return [
            Row(
                name="regions",
                metric="regions",
                value=0,
                p_value=min(adjusted, default=1.0),
                note=f"{what} has too many rows, or too few, beyond chance{also}",
            )
        ]

    def _chosen(self, half: Mapping[Role, _Half], units: Mapping[str, str]) -> list[Box]:
        truth, ours = (Table(half[role].columns, half[role].weight) for role in _SIDES)
        boxes: list[Box] = []
        while len(boxes) < self.most and min(len(truth.weight), len(ours.weight)) > FEWEST:
            found = farthest(truth, ours, units)
            if found is None or found[1] <= 0:
                break
            boxes.append(found[0])
            truth, ours = truth.without(found[0]), ours.without(found[0])
        return boxes


_SIDES: tuple[Role, Role] = ("truth", "generated")


def _row(box: Box, ratio: Ratio, usual: Ratio, p_value: float) -> Row:
    return Row(
        name=f"region: {box}",
        metric="regions",
        value=ratio.value,
        error=(ratio.high - ratio.low) / (2 * SIGMAS),
        floor=usual.value,
        floor_error=(usual.high - usual.low) / (2 * SIGMAS),
        exact=1.0,
        exact_error=0.0,
        exact_source="truth",
        p_value=p_value,
        note=f"{ratio}; found on one half of the rows, measured on the other",
    )


@dataclass(frozen=True)
class _Half:
    """Rows of a sample, or half of them.

    Attributes:
        columns: (n,) by name.
        weight: (n,).
        unit: (n,), equal for rows that are not independent.
        counted: whether all rows are alone and have equal weights.
    """

    columns: Mapping[str, Array]
    weight: Array
    unit: Rows
    counted: bool

    def __getitem__(self, rows: Mask) -> _Half:
        columns = {name: values[rows] for name, values in self.columns.items()}
        return _Half(columns, self.weight[rows], self.unit[rows], self.counted)


def _units(comparison: Comparison, names: Sequence[str]) -> dict[str, str]:
    given = {variable.name: variable.unit for variable in comparison.system.schema.condition}
    return {name: comparison.unit(name) for name in names} | given


def _samples(comparison: Comparison) -> dict[Role, _Half]:
    """Return the rows that count, of whole files where they are there, with their conditions."""
    whole = comparison.measured if comparison.whole is None else comparison.whole()
    measured = {role: whole[role] for role in _SIDES}
    selected = select(comparison, measured)
    names = [n for n, values in measured["truth"].scalars.items() if varies(values)]
    samples: dict[Role, _Half] = {}
    for role, one in measured.items():
        rows = selected[role].rows
        columns = {name: one.values[name][rows] for name in names}
        if one.condition is not None:
            given = zip(comparison.system.schema.condition, one.condition.T, strict=False)
            columns |= {variable.name: values[rows] for variable, values in given}
        weight = np.ones(len(rows)) if one.weight is None else one.weight[rows]
        counted = selected[role].alone and one.weight is None
        samples[role] = _Half(columns, weight, selected[role].unit, counted)
    return samples


def _halves(samples: Sequence[_Half], seed: int) -> list[tuple[_Half, _Half]]:
    """Deal the units of samples into two halves each; samples that are paired share their units."""
    generator = np.random.default_rng(seed)
    numbers = np.unique(np.concatenate([sample.unit for sample in samples]))
    first = np.zeros(len(numbers), dtype=bool)
    for sample in samples:
        own = np.searchsorted(numbers, np.unique(sample.unit))
        first[own] = generator.permutation(len(own)) < len(own) // 2
    places = [first[np.searchsorted(numbers, sample.unit)] for sample in samples]
    return [(one[place], one[~place]) for one, place in zip(samples, places, strict=True)]


def ratio_in(box: Box, truth: _Half, other: _Half) -> Ratio:
    """Return the ratio of the shares of two samples in a box."""
    inside = [box.holds(one.columns) for one in (other, truth)]
    if truth.counted and other.counted:
        k, rest = (int(one.sum()) for one in inside)
        return _of_counts((k, len(other.weight)), (rest, len(truth.weight)))
    return _of_sums((other, inside[0]), (truth, inside[1]))


def _of_counts(ours: tuple[int, int], truth: tuple[int, int]) -> Ratio:
    """Return the ratio of two shares k / n; exact but for pairs, whose errors are less."""
    (k, n), (rest, m) = ours, truth
    total, odds = k + rest, m / n
    if not total:
        return Ratio(0.0, 0.0, 0.0, math.inf, 1.0)
    usual = n / (n + m)
    tails = float(bdtr(k, total, usual)), float(bdtrc(k - 1, total, usual))
    tail = (1 - INTERVAL) / 2
    low = float(betaincinv(k, rest + 1, tail)) if k else 0.0
    high = float(betaincinv(k + 1, rest, 1 - tail)) if rest else 1.0
    return Ratio(
        k / n,
        rest / m,
        odds * low / (1 - low),
        odds * high / (1 - high) if high < 1 else math.inf,
        min(1.0, 2 * min(tails)),
    )


def _effective_units(half: _Half) -> float:
    """Return (sum w)^2 / sum w^2 of the weights w of the units."""
    w = np.bincount(np.unique(half.unit, return_inverse=True)[1], half.weight)
    return float(w.sum() ** 2 / np.square(w).sum())


def _of_sums(ours: tuple[_Half, Mask], truth: tuple[_Half, Mask]) -> Ratio:
    """Return the ratio of two sums of weights over all weights."""
    shares, terms, keys, effective = [], [], [], 0.0
    for half, inside in (ours, truth):
        weight = half.weight / half.weight.sum()
        share = float(weight[inside].sum())
        shares.append(share)
        terms.append(weight * (inside - share))
        keys.append(half.unit)
        square = float(np.square(weight[inside]).sum())
        effective += share**2 / square if square > 0 else 0.0
    unit = np.unique(np.concatenate(keys), return_inverse=True)[1]
    parts = np.split(unit, [len(keys[0])])
    q, p = (np.bincount(u, t, unit.max() + 1) for u, t in zip(parts, terms, strict=True))
    # A sample that has no row there by chance knows nothing of its variance: the hypothesis does.
    sizes = [_effective_units(half) for half, _ in (ours, truth)]
    pooled = min(max(float(np.dot(shares, sizes)) / sum(sizes), 0.0), 1.0)
    of_hypothesis = pooled * (1 - pooled) * sum(1 / n for n in sizes)
    sigma = math.sqrt(max(float(np.square(q - p).sum()), of_hypothesis))
    if effective < FEWEST or pooled * min(sizes) < FEWEST or sigma == 0:
        return Ratio(shares[0], shares[1], 0.0, math.inf, 1.0)
    p_value = math.erfc(abs(shares[0] - shares[1]) / sigma / math.sqrt(2))
    if min(shares) <= 0:
        most = max(shares[0], 0.0) + SIGMAS * math.sqrt(float(np.square(q).sum()))
        high = most / shares[1] if shares[1] > 0 else math.inf
        return Ratio(max(shares[0], 0.0), max(shares[1], 0.0), 0.0, high, p_value)
    # Errors of a ratio are more nearly normal in its logarithm.
    spread = math.exp(SIGMAS * math.sqrt(float(np.square(q / shares[0] - p / shares[1]).sum())))
    value = shares[0] / shares[1]
    return Ratio(shares[0], shares[1], value / spread, value * spread, p_value)
