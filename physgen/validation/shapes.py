"""Shapes of distributions: distances between the histograms of every observable.

Distances are one-sided, so that they are judged by a test (samples that claim to be exact) or by
value + 2 sigma against a stated tolerance, beside the same between two truth samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from physgen.errors import DomainError
from physgen.validation.comparison import Comparison, Measured, Role
from physgen.validation.distances import Distances, bin_edges, compare
from physgen.validation.exact_distributions import exact_rows
from physgen.validation.independence import select
from physgen.validation.means import refuse_unknown
from physgen.validation.resampling import Resampled, resample
from physgen.validation.sample import Sample
from physgen.validation.scorecard import Row, floor_of, row_by_role, verdict_within
from physgen.validation.uncertainty import Estimate

Array = NDArray[float64]
_KINDS = ("W1", "KS", "separation")


@dataclass(frozen=True, kw_only=True)
class Histograms:
    """W1, KS and separation power of every observable; of one with bins, those of its worst bin.

    The worst bin of several is the one whose value + 2 sigma is largest; floor and baseline
    have worst bins of their own. The p-value is that of the bin that is least probable, times the
    number of bins (Bonferroni).

    Errors and p-values are those of the rows that `physgen.validation.independence` counts. Samples
    that carry chains have no p-value: a chain that rejects repeats its samples, so that they are
    not exchangeable with others.
    The bins of the separation power are those of `physgen.validation.distances.bin_edges` on the
    truth.

    Attributes:
        tolerance: limit on value + 2 sigma by name of the row ("W1 E/N", "KS E/N",
            "separation E/N"); for W1 in units of the truth's standard deviation (of an observable
            with bins, the largest of theirs).

    >>> import torch
    >>> from physgen.batch import Batch
    >>> from physgen.systems.scalar import Phi4
    >>> x = torch.randn(3, 500, 4, generator=torch.Generator().manual_seed(0))
    >>> samples = Comparison(Phi4(shape=(4,)), *map(Batch, x))
    >>> row = next(row for row in Histograms().rows(samples) if row.name == "W1 m")
    >>> row.value < 0.2, row.p_value > 1e-4
    (True, True)
    """

    tolerance: dict[str, float] | None = None

    def rows(self, comparison: Comparison) -> list[Row]:
        """Return three rows an observable, and one more where its distribution is known exactly.

        Raises:
            RecipeError: a tolerance is stated for something that is not measured.
            InputError: there is no truth.
        """
        truth = comparison.measured_truth
        tolerance = self.tolerance or {}
        refuse_unknown(tolerance, [f"{kind} {name}" for name in truth.values for kind in _KINDS])
        rows = []
        for name in truth.values:
            try:
                bins = [_Bin.of(comparison, name, column) for column in _defined(truth, name)]
            except DomainError as error:
                rows.append(
                    Row(
                        name=f"W1 {name}",
                        metric="histograms",
                        value=None,
                        p_value=0.0 if comparison.corrected else None,
                        note=str(error),
                        verdict="fail" if f"W1 {name}" in tolerance else "info",
                    )
                )
                continue
            rows += [
                _row(comparison, name, kind, bins, tolerance.get(f"{kind} {name}"))
                for kind in _KINDS
            ]
        return rows + exact_rows(comparison)


@dataclass(frozen=True)
class _Bin:
    """One column of an observable: what was found between the truth and the others.

    Attributes:
        number: of the column.
        deviation: standard deviation of the truth.
        distances: by role.
        resampled: by role, without the baseline.
    """

    number: int
    deviation: float
    distances: Mapping[Role, Distances]
    resampled: Mapping[Role, Resampled]

    @classmethod
    def of(cls, comparison: Comparison, name: str, number: int) -> _Bin:
        truth = _column(comparison.measured["truth"], name, number)
        edges = bin_edges(truth.values[name], truth.weight)
        distances: dict[Role, Distances] = {}
        resampled: dict[Role, Resampled] = {}
        for role, measured in comparison.measured.items():
            if role == "truth":
                continue
            other = _column(measured, name, number)
            distances[role] = compare(
                truth.values[name], other.values[name], truth.weight, other.weight, edges=edges
            )
            if role != "baseline":
                paired = role in comparison.paired
                ours = _counted(comparison, "truth", truth.values[name], paired=paired)
                theirs = _counted(comparison, role, other.values[name], paired=paired)
                resampled[role] = resample(
                    ours,
                    theirs,
                    seed=comparison.seed,
                    tested=role == "generated" and truth.chain is None and other.chain is None,
                )
        return cls(number, _deviation(truth.values[name], truth.weight), distances, resampled)

    def estimate(self, kind: int, role: Role) -> Estimate:
        """Return a distance of a sample to the truth; that of the baseline has no error."""
        value = float(astuple(self.distances[role])[kind])
        resampled = self.resampled.get(role)
        return Estimate(value, math.nan if resampled is None else astuple(resampled.error)[kind])

    def highest(self, kind: int, role: Role) -> float:
        """Return value + 2 sigma of a sample's distance; that of the baseline has no error."""
        distance = self.estimate(kind, role)
        return distance.value + (0.0 if role == "baseline" else 2 * distance.error)


def _defined(truth: Measured, name: str) -> list[int]:
    """Return the columns that are defined in some true sample: others cannot be compared."""
    columns = truth.values[name].reshape(len(truth.values[name]), -1).T
    defined = [i for i, column in enumerate(columns) if np.isfinite(column).any()]
    if not defined:
        raise DomainError("not defined in any true sample")
    return defined


def _column(measured: Measured, name: str, number: int) -> Measured:
    """Return one column of one observable."""
    values = measured.values[name].reshape(len(measured.values[name]), -1)[:, number]
    return Measured({name: values}, measured.weight, measured.chain, measured.group)


def _counted(comparison: Comparison, role: Role, values: Array, *, paired: bool) -> Sample:
    """Return the rows of one column that count, with units unless all stand alone."""
    selected, weight = comparison.once(select)[role], comparison.measured[role].weight
    return Sample(
        values[selected.rows],
        None if weight is None else weight[selected.rows],
        selected.unit if paired or not selected.alone else None,
    )


def _deviation(values: Array, weight: Array | None) -> float:
    """Return the weighted standard deviation of the values that are defined."""
    keep = np.isfinite(values)
    w = np.ones(len(values)) if weight is None else weight
    x, w = values[keep], w[keep]
    mean = float(w @ x / w.sum())
    return math.sqrt(max(float(w @ (x - mean) ** 2 / w.sum()), 0.0))


def _row(
    comparison: Comparison, name: str, kind: str, bins: list[_Bin], tolerance: float | None
) -> Row:
    which = _KINDS.index(kind)
    # Of each sample its own worst bin: one that another sample chose would be none of the worst.
    worst = {
        role: bins[int(np.argmax([column.highest(which, role) for column in bins]))]
        for role in bins[0].distances
    }
    distances = {role: column.estimate(which, role) for role, column in worst.items()}
    tested = [column.resampled["generated"] for column in bins]
    p_values = [astuple(one.p_value)[which] for one in tested if one.p_value is not None]
    unit, limit = "1", tolerance
    if kind == "W1":
        unit = comparison.unit(name)
        scale = max(column.deviation for column in bins)
        limit = None if tolerance is None else tolerance * scale
    ours = distances["generated"]
    notes = []
    if comparison.measured["truth"].values[name].ndim > 1:
        n_bins = comparison.measured["truth"].values[name].shape[1]
        notes.append(f"bin {worst['generated'].number + 1}, the worst of {n_bins}")
    if p_values and not all(one.exact for one in tested):
        notes.append("p is asymptotic")
    return row_by_role(
        f"{kind} {name}",
        "histograms",
        distances,
        p_value=min(1.0, len(bins) * min(p_values)) if p_values else None,
        tolerance=limit,
        unit=unit,
        verdict=verdict_within(ours.value, ours.error, limit, floor_of(distances)),
        note="; ".join(notes),
    )
