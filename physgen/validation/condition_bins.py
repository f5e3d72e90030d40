"""Response, resolution and AUC in bins of the condition, such as the incident energy.

In each bin of the first condition

    response     mean of the observable (of showers E_tot/E_inc, which should be linear in E_inc),
    resolution   its standard deviation over its mean,
    AUC          of one boosted classifier, trained on rows of all bins, on the rows of this bin,

stand beside those of the truth. Errors are those of halves (`half_sampling`), pulls those of the
differences of the same halves, so that samples drawn at the same conditions are seen as such;
whether anything differs at all is tested by `response`. A range that was left out of training is a
bin of its own, and the AUC within less the AUC elsewhere says how well a surrogate interpolates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from physgen.errors import NotMeasurable, RecipeError
from physgen.validation.auc import auc
from physgen.validation.classifier import ClassifierTest
from physgen.validation.classifier_score import ClassifierScore
from physgen.validation.comparison import Comparison, Role
from physgen.validation.half_sampling import HalfSampled, half_sampling
from physgen.validation.independence import Selection, select
from physgen.validation.linearity import LEFT_OUT
from physgen.validation.scorecard import Row, row_by_role
from physgen.validation.uncertainty import Estimate

Array = NDArray[float64]
Rows = NDArray[np.int64]

FEWEST = 50
"""Rows of the truth without which a bin is joined to no number."""

PAIRS = 50
"""Divisions in halves: errors are known to 10%."""


@dataclass(frozen=True, kw_only=True)
class ConditionBins:
    """Response, resolution and AUC in bins of equal true content of the first condition.

    Attributes:
        observable: the first of the system's if absent.
        bins: how many; a condition with at most so many values has a bin for each.
        left_out: the range of the condition that was left out of training (`data.left_out`).
        classify: whether to train the classifier.

    >>> from physgen.systems.calorimeter import Calorimeter
    >>> system = Calorimeter()
    >>> samples = Comparison(system, *(system.simulate(400, seed=i) for i in range(3)))
    >>> rows = ConditionBins(bins=2, classify=False).rows(samples)
    >>> [row.name.partition(" at ")[0] for row in rows]
    ['response', 'response', 'resolution', 'resolution']
    """

    observable: str | None = None
    bins: int = 8
    left_out: tuple[float, float] | None = None
    classify: bool = True

    def __post_init__(self) -> None:
        """Refuse a range that is none."""
        if self.left_out is not None and not self.left_out[0] < self.left_out[1]:
            raise RecipeError(f"left_out must be [low, high], not {list(self.left_out)}")
        if self.bins < 1:
            raise RecipeError(f"bins must be 1 or more, not {self.bins}")

    def rows(self, comparison: Comparison) -> list[Row]:
        """Return the rows of all bins; none where samples have no conditions.

        Raises:
            InputError: there is no truth, or too little to train a classifier.
            RecipeError: no such observable of one number a sample.
            NotMeasurable: no true sample lies in the range that was left out.
        """
        truth = comparison.measured_truth
        if any(measured.condition is None for measured in comparison.measured.values()):
            return []
        name = self.observable or next(iter(truth.scalars))
        if name not in truth.scalars:
            known = ", ".join(list(truth.scalars)[:8])
            raise RecipeError(f"observable: no {name!r} of one number a sample; there is {known}")
        selected = comparison.once(select)
        t = {role: _first(comparison, role, one) for role, one in selected.items()}
        edges = self._edges(t["truth"])
        inside = {role: np.searchsorted(edges, at, side="right") - 1 for role, at in t.items()}
        labels = _Labels.of(comparison, edges, self.left_out)
        found: dict[Role, HalfSampled] = {
            role: _compared(comparison, name, role, selected, inside, len(edges) - 1)
            for role in selected
            if role != "truth"
        }
        rows = _moment_rows(comparison, name, labels, found)
        if self.classify:
            rows += self._auc_rows(comparison, labels, inside)
        return rows

    def _edges(self, t: Array) -> Array:
        """Return ascending edges; the last one is above all values."""
        kinds = np.unique(t)
        if len(kinds) <= self.bins:
            return np.append(kinds, np.inf)
        edges = np.quantile(t, np.linspace(0, 1, self.bins + 1))
        if self.left_out is not None:
            low, high = self.left_out
            if not ((t >= low) & (t < high)).any():
                raise NotMeasurable(f"no true sample between {low:g} and {high:g} was left out")
            # No bin beside it of less than half of the content of others.
            share = np.searchsorted(np.sort(t), [low, high]) / len(t)
            steps = np.linspace(0, 1, self.bins + 1)
            far = (steps < share[0] - 0.5 / self.bins) | (steps > share[1] + 0.5 / self.bins)
            far[[0, -1]] = True
            edges = np.concatenate([edges[far & ((edges < low) | (edges > high))], [low, high]])
        edges = np.unique(edges)
        edges[-1] = np.nextafter(edges[-1], np.inf)
        return np.asarray(edges)

    def _auc_rows(
        self, comparison: Comparison, labels: _Labels, inside: Mapping[Role, Rows]
    ) -> list[Row]:
        test = ClassifierTest(model="boosted", level="high", folds=4)
        scores = {
            role: (score, _bins_of(score, inside["truth"], inside[role]))
            for role, score in test.scores(comparison).items()
        }
        rows = []
        for number, label in enumerate(labels.names):
            values = {role: _auc(score, bins == number) for role, (score, bins) in scores.items()}
            ours = values["generated"].value
            rows.append(
                row_by_role(
                    f"AUC {label}",
                    "condition-bins",
                    values,
                    note="boosted classifier, high level, trained on all bins, 4-fold",
                    curves=labels.segment(number, ours),
                )
            )
        if labels.left_out is not None:
            differences = {
                role: _difference(score, bins == labels.left_out)
                for role, (score, bins) in scores.items()
            }
            rows.append(
                row_by_role(
                    "AUC, left out of training less elsewhere",
                    "condition-bins",
                    differences,
                    note="0 where a surrogate interpolates as well as it learned",
                )
            )
        return rows


@dataclass(frozen=True)
class _Labels:
    """Names of the bins, and where they are.

    Attributes:
        names: of the bins, as in "at E_inc 512 to 1024 MeV".
        edges: (bins + 1,).
        left_out: number of the bin that was left out of training.
    """

    names: tuple[str, ...]
    edges: Array
    left_out: int | None

    @classmethod
    def of(
        cls, comparison: Comparison, edges: Array, left_out: tuple[float, float] | None
    ) -> _Labels:
        variable = next(iter(comparison.system.schema.condition), None)
        about = "condition" if variable is None else variable.name
        unit = "" if variable is None or variable.unit == "1" else f" {variable.unit}"
        names, number = [], None
        for place, (a, b) in enumerate(pairwise(edges)):
            if variable is not None and variable.classes:
                name = f"at {about} {variable.classes[int(a)]}"
            elif np.isinf(edges[-1]):
                name = f"at {about} {a:.4g}{unit}"
            else:
                name = f"at {about} {a:.4g} to {b:.4g}{unit}"
            if left_out is not None and left_out[0] <= a < left_out[1]:
                number, name = place, f"{name}{LEFT_OUT}"
            names.append(name)
        return cls(tuple(names), edges, number)

    def segment(self, number: int, value: float) -> dict[str, Any]:
        """Return the curve of one value over its bin."""
        low, high = self.edges[number], self.edges[number + 1]
        ends = (float(low), float(low if np.isinf(self.edges[-1]) else high))
        return {"bin": (ends, (value, value))} if math.isfinite(value) else {}


def _first(comparison: Comparison, role: Role, selection: Selection) -> Array:
    """Return (n,), the first condition of the rows that count."""
    condition = comparison.measured[role].condition
    assert condition is not None
    return np.asarray(condition[selection.rows, 0])


def _compared(
    comparison: Comparison,
    name: str,
    role: Role,
    selected: Mapping[Role, Selection],
    inside: Mapping[Role, Rows],
    n_bins: int,
) -> HalfSampled:
    """Return (6 n_bins,): response and resolution of the truth, of the other, the differences."""
    sides: list[tuple[Array, Rows, Array]] = []
    both: tuple[Role, Role] = ("truth", role)
    for of in both:
        measured, chosen = comparison.measured[of], selected[of].rows
        weight = np.ones(len(chosen)) if measured.weight is None else measured.weight[chosen]
        sides.append((measured.values[name][chosen], inside[of], weight))

    def statistic(first: Rows, second: Rows) -> Array:
        truth, ours = (
            _moments(values[rows], inside[rows], weight[rows], n_bins)
            for (values, inside, weight), rows in zip(sides, (first, second), strict=True)
        )
        return np.concatenate([truth, ours, ours - truth])

    rows = [np.arange(len(side[0])) for side in sides]
    units = [selected["truth"].unit, selected[role].unit]
    return half_sampling(statistic, rows, units, seed=comparison.seed, pairs=PAIRS)


def _moments(values: Array, inside: Rows, weight: Array, n_bins: int) -> Array:
    """Return (2 n_bins,), mean and relative width of each bin; NaN of one without content."""
    keep = np.isfinite(values) & (inside >= 0) & (inside < n_bins)
    values, inside, weight = values[keep], inside[keep], weight[keep]
    sums = [np.bincount(inside, weight * values**k, minlength=n_bins) for k in range(3)]
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums[1] / sums[0]
        spread = np.bincount(inside, weight * (values - mean[inside]) ** 2, minlength=n_bins)
        return np.concatenate([mean, np.sqrt(np.maximum(spread / sums[0], 0.0)) / np.abs(mean)])


def _moment_rows(
    comparison: Comparison, name: str, labels: _Labels, found: Mapping[Role, HalfSampled]
) -> list[Row]:
    n = len(labels.names)
    rows = []
    for kind in range(2):
        for number, label in enumerate(labels.names):
            at = [part * 2 * n + kind * n + number for part in range(3)]
            ours = found["generated"]
            true, value, off = (ours.estimate(i) for i in at)
            content: dict[str, Any] = {}
            if "floor" in found:
                floor = found["floor"].estimate(at[2])
                content |= {"floor": abs(floor.value), "floor_error": floor.error}
            if "baseline" in found:
                content["baseline"] = found["baseline"].value[at[1]]
            rows.append(
                Row(
                    name=f"{'response' if kind == 0 else 'resolution'} {label}",
                    metric="condition-bins",
                    value=value.value,
                    error=value.error,
                    exact=true.value,
                    exact_error=true.error,
                    exact_source="truth",
                    pull=off.value / off.error if off.error > 0 else None,
                    unit=comparison.unit(name) if kind == 0 else "1",
                    note=f"of {name}" if kind == 0 else f"width over mean of {name}",
                    curves=labels.segment(number, value.value),
                    **content,
                )
            )
    return rows


def _bins_of(score: ClassifierScore, truth: Rows, other: Rows) -> Rows:
    """Return (k,), the bins of the rows that were tested."""
    of_truth = score.labels == 1
    bins = np.empty(len(score.rows), dtype=np.int64)
    bins[of_truth], bins[~of_truth] = truth[score.rows[of_truth]], other[score.rows[~of_truth]]
    return bins


def _auc(score: ClassifierScore, chosen: NDArray[np.bool_]) -> Estimate:
    """Return the AUC of some of the rows that were tested."""
    labels = score.labels[chosen]
    if min((labels == 1).sum(), (labels == 0).sum()) < FEWEST:
        return Estimate(math.nan, math.nan)
    return auc(score.scores[chosen], labels, score.weights[chosen], score.unit[chosen])


def _difference(score: ClassifierScore, chosen: NDArray[np.bool_]) -> Estimate:
    within, elsewhere = _auc(score, chosen), _auc(score, ~chosen)
    return Estimate(within.value - elsewhere.value, math.hypot(within.error, elsewhere.error))
