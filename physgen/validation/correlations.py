"""Correlations of the observables, against those of the truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from physgen.errors import InputError
from physgen.validation.comparison import Comparison, Measured, varies
from physgen.validation.independence import Selection
from physgen.validation.scorecard import Row, within

Array = NDArray[float64]


@dataclass(frozen=True, kw_only=True)
class Correlations:
    """The largest and the mean difference of the correlation matrices of the observables.

    Only samples in which all observables are defined enter, of chains those that
    `physgen.validation.independence` counts, whose units are resampled as wholes.

    Attributes:
        tolerance: limit on value + 2 sigma of the largest difference.
        resamples: bootstrap resamplings for the errors.
    """

    tolerance: float | None = None
    resamples: int = 50

    def rows(self, comparison: Comparison) -> list[Row]:
        """Return two rows, or none where fewer than two observables vary.

        Raises:
            InputError: there is no truth, or no sample has all observables.
        """
        names = varying(comparison.measured_truth)
        if len(names) < 2:
            return []
        samples = {
            role: complete(measured, names, comparison.selected[role])
            for role, measured in comparison.measured.items()
        }
        target = samples["truth"].correlations()
        upper = np.triu_indices(len(names), 1)
        roles = [role for role in samples if role != "truth"]
        found = {r: _differences(samples[r].correlations(), target) for r in roles}
        errors = {
            role: self._errors(samples["truth"], samples[role], comparison.seed)
            for role in roles
            if role != "baseline"
        }
        difference = np.abs(samples["generated"].correlations() - target)[upper]
        worst = int(np.argmax(difference))
        notes = (
            f"{names[upper[0][worst]]} with {names[upper[1][worst]]}",
            f"over {len(difference)} pairs",
        )
        rows = []
        for i, name in enumerate(("largest |d correlation|", "mean |d correlation|")):
            value, error = float(found["generated"][i]), float(errors["generated"][i])
            limit = self.tolerance if i == 0 else None
            rows.append(
                Row(
                    name=name,
                    metric="correlations",
                    value=value,
                    error=error,
                    floor=float(found["floor"][i]) if "floor" in found else None,
                    floor_error=float(errors["floor"][i]) if "floor" in found else None,
                    baseline=float(found["baseline"][i]) if "baseline" in found else None,
                    tolerance=limit,
                    verdict=within(value, error, limit),
                    note=notes[i],
                )
            )
        return rows

    def _errors(self, first: Complete, second: Complete, seed: int) -> Array:
        """Return the errors from resampling whole units of the two samples."""
        generator = np.random.default_rng(seed)
        n_units = int(max(first.unit.max(), second.unit.max())) + 1
        parts = []
        for _ in range(self.resamples):
            times = generator.poisson(1.0, n_units)
            parts.append(_differences(first.correlations(times), second.correlations(times)))
        return np.asarray(np.std(parts, axis=0, ddof=1))


@dataclass(frozen=True)
class Complete:
    """The rows of a sample in which all observables are defined.

    Attributes:
        values: (N, F).
        weight: (N,).
        unit: (N,), numbers of the units.
    """

    values: Array
    weight: Array
    unit: NDArray[np.int64]

    def correlations(self, times: NDArray[np.int64] | None = None) -> Array:
        """Return the (F, F) correlations, each unit counted as many `times` as is said."""
        weight = self.weight if times is None else self.weight * times[self.unit]
        return correlation_matrix(self.values, weight)


def varying(measured: Measured) -> list[str]:
    """Return the names of the scalar observables that are not constant."""
    return [name for name, value in measured.scalars.items() if varies(value)]


def complete(measured: Measured, names: list[str], selected: Selection | None = None) -> Complete:
    """Return the rows in which all `names` are defined, of all rows or of those that count.

    Raises:
        InputError: there are none.
    """
    rows = np.arange(measured.n) if selected is None else selected.rows
    unit = rows if selected is None else selected.unit
    values = np.stack([measured.values[name][rows] for name in names], axis=1)
    keep = np.isfinite(values).all(1)
    if keep.sum() < 2:
        raise InputError("correlations: no sample has all observables defined")
    weight = np.ones(measured.n) if measured.weight is None else measured.weight
    return Complete(values[keep], weight[rows][keep], unit[keep])


def correlation_matrix(values: Array, weight: Array) -> Array:
    """Return the (F, F) weighted Pearson correlations of (N, F) values."""
    centred = values - weight @ values / weight.sum()
    covariance = (centred * weight[:, None]).T @ centred
    deviation = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    deviation = np.where(deviation > 0, deviation, 1.0)
    result: Array = covariance / np.outer(deviation, deviation)
    return result


def _differences(a: Array, b: Array) -> Array:
    off = np.abs(a - b)[np.triu_indices(len(a), 1)]
    return np.array([off.max(), off.mean()])
