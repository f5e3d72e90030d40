"""Shapes of distributions: histograms of observables, their correlations, a kernel on all of them.

Distances are one-sided, so that they are judged by a permutation test (samples corrected to be
exact) or by value + 2 sigma against a stated tolerance, beside the same between two truth samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from physgen.batch import Batch
from physgen.errors import DomainError, InputError
from physgen.validation.comparison import Comparison, Measured, evenly
from physgen.validation.distances import (
    Distances,
    MaximumMean,
    bin_edges,
    compare,
    maximum_mean_discrepancy,
    resample,
)
from physgen.validation.means import refuse_unknown
from physgen.validation.scorecard import Row, within
from physgen.validation.uncertainty import gamma_method

Array = NDArray[float64]
_KINDS = {"W1": "wasserstein", "KS": "kolmogorov_smirnov", "separation": "separation"}


@dataclass(frozen=True, kw_only=True)
class Histograms:
    """W1, KS and separation power of every observable; of one with bins, the mean over its bins.

    Samples that carry chains are thinned to 2 tau_int for the error, and have no p-value: a chain
    that rejects repeats its samples, so that thinning does not make them exchangeable with others.
    Rows of one group are resampled together, and have no p-value either.
    The bins of the separation power are those of `physgen.validation.distances.bin_edges` on the
    truth.

    Attributes:
        tolerance: limit on value + 2 sigma by name of the row ("W1 E/N", "KS E/N",
            "separation E/N"); for W1 in units of the truth's standard deviation.
        permutations: for each p-value.
    """

    tolerance: dict[str, float] | None = None
    permutations: int = 100

    def rows(self, comparison: Comparison) -> list[Row]:
        """Return three rows an observable.

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
                numbers = self._distances(comparison, truth, name)
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
                _distance_row(comparison, kind, name, numbers, tolerance.get(f"{kind} {name}"))
                for kind in _KINDS
            ]
        return rows

    def _distances(
        self, comparison: Comparison, truth: Measured, name: str
    ) -> dict[str, Distances]:
        """Return distances by role, and for scalars "p", and "error" by role."""
        columns = truth.values[name].reshape(len(truth.values[name]), -1).T
        # A bin that is not defined in any true sample has nothing to be compared with.
        defined = [i for i, column in enumerate(columns) if np.isfinite(column).any()]
        if not defined:
            raise DomainError("not defined in any true sample")
        edges = {i: bin_edges(columns[i], truth.weight) for i in defined}
        numbers: dict[str, Distances] = {}
        for role, other in comparison.measured.items():
            if role == "truth":
                continue
            theirs = other.values[name].reshape(len(other.values[name]), -1).T
            found = [
                compare(columns[i], theirs[i], truth.weight, other.weight, edges=edges[i])
                for i in defined
            ]
            numbers[role] = Distances(
                *(float(np.mean([getattr(d, a) for d in found])) for a in _KINDS.values())
            )
            if truth.values[name].ndim == 1 and role != "baseline":
                ours, others = _thinned(truth, name), _thinned(other, name)
                resampled = resample(
                    ours.values[name],
                    others.values[name],
                    ours.weight,
                    others.weight,
                    seed=comparison.seed,
                    group_a=ours.group,
                    group_b=others.group,
                    edges=edges[0],
                    n_permutations=self.permutations if role == "generated" else 1,
                )
                numbers[f"{role} error"] = resampled.error
                grouped = truth.group is not None or other.group is not None
                if role == "generated" and other.chain is None and not grouped:
                    numbers["p"] = resampled.p_value
        return numbers


def _thinned(measured: Measured, name: str) -> Measured:
    """Return one observable, every (2 tau_int)-th sample of a chain."""
    values = measured.values[name]
    if measured.chain is None:
        return measured
    tau = gamma_method(values, chain=measured.chain).tau_int
    rows = np.argsort(measured.chain, kind="stable")[:: max(1, round(2 * tau))]
    weight = None if measured.weight is None else measured.weight[rows]
    return Measured({name: values[rows]}, weight, measured.chain[rows])


def _distance_row(
    comparison: Comparison,
    kind: str,
    name: str,
    numbers: Mapping[str, Distances],
    tolerance: float | None,
) -> Row:
    def number(key: str) -> float | None:
        return float(getattr(numbers[key], _KINDS[kind])) if key in numbers else None

    unit, limit = "1", tolerance
    if kind == "W1":
        unit = comparison.unit(name)
        deviation = float(np.nanstd(comparison.measured["truth"].values[name]))
        limit = None if tolerance is None else tolerance * deviation
    value, error = number("generated"), number("generated error")
    pooled = comparison.measured["truth"].values[name].ndim > 1
    return Row(
        name=f"{kind} {name}",
        metric="histograms",
        value=value,
        error=error,
        floor=number("floor"),
        floor_error=number("floor error"),
        baseline=number("baseline"),
        p_value=number("p"),
        tolerance=limit,
        unit=unit,
        verdict=within(number("generated") or 0.0, error or 0.0, limit),
        note="mean over the bins" if pooled else "",
    )


@dataclass(frozen=True, kw_only=True)
class MaximumMeanDiscrepancy:
    """MMD^2 with a Gaussian kernel on features standardised by the truth.

    Attributes:
        level: which features (`HasFeatures`).
        n: rows of each sample, evenly spaced; the cost grows as n^2.
        permutations: for the p-value.
        tolerance: limit on value + 2 sigma.
    """

    level: Literal["low", "high"] = "high"
    n: int = 2000
    permutations: int = 200
    tolerance: float | None = None

    def rows(self, comparison: Comparison) -> list[Row]:
        """Return one row; `InputError` if there is no truth."""
        truth, truth_weight = self._features(comparison, "truth")
        centre, width = np.nanmean(truth, 0), np.nanstd(truth, 0)
        width = np.where(width > 0, width, 1.0)

        def standardised(values: Array) -> Array:
            scaled = (values - centre) / width
            return np.asarray(np.nan_to_num(scaled, nan=0.0, posinf=1e3, neginf=-1e3))

        found: dict[str, MaximumMean] = {}
        for role in comparison.measured:
            if role != "truth":
                values, weight = self._features(comparison, role)
                found[role] = maximum_mean_discrepancy(
                    standardised(truth),
                    standardised(values),
                    truth_weight,
                    weight,
                    seed=comparison.seed,
                    n_permutations=self.permutations if role == "generated" else 20,
                )
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
                # Rows of one group are not exchangeable with others.
                p_value=None if comparison.groups else ours.p_value,
                tolerance=self.tolerance,
                verdict=within(max(ours.value, 0.0), ours.error, self.tolerance),
                note=f"{len(truth)} rows of each sample, bandwidth {ours.bandwidth:.3g}",
            )
        ]

    def _features(self, comparison: Comparison, role: str) -> tuple[Array, Array | None]:
        batch: Batch | None = getattr(comparison, role)
        if batch is None:
            raise InputError(f"MMD needs a sample of the {role}; this system cannot make one")
        rows = evenly(len(batch), self.n)
        weight = next(m.weight for r, m in comparison.measured.items() if r == role)
        values: Array = comparison.features(batch, self.level)[rows]
        return values, None if weight is None else weight[rows]
