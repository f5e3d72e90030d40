"""Correlations of the observables, against those of the truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from physgen.errors import InputError
from physgen.validation.comparison import Comparison, Measured, varies
from physgen.validation.scorecard import Row, within

Array = NDArray[float64]


@dataclass(frozen=True, kw_only=True)
class Correlations:
    """The largest and the mean difference of the correlation matrices of the observables.

    Only samples in which all observables are defined enter.

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
        samples = {role: complete(m, names) for role, m in comparison.measured.items()}
        groups = {r: complete_groups(m, names) for r, m in comparison.measured.items()}
        target = correlation_matrix(*samples["truth"])
        upper = np.triu_indices(len(names), 1)
        roles = [role for role in samples if role != "truth"]
        found = {r: _differences(correlation_matrix(*samples[r]), target) for r in roles}
        errors = {
            role: self._errors([(*samples[r], groups[r]) for r in ("truth", role)], comparison.seed)
            for role in roles
            if role != "baseline"
        }
        difference = np.abs(correlation_matrix(*samples["generated"]) - target)[upper]
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

    def _errors(self, samples: list[tuple[Array, Array, NDArray[np.int64]]], seed: int) -> Array:
        """Return the errors from resampling whole groups of the two samples."""
        generator = np.random.default_rng(seed)
        parts = []
        for _ in range(self.resamples):
            first, second = (
                correlation_matrix(
                    values, weight * generator.poisson(1.0, int(group.max()) + 1)[group]
                )
                for values, weight, group in samples
            )
            parts.append(_differences(first, second))
        return np.asarray(np.std(parts, axis=0, ddof=1))


def varying(measured: Measured) -> list[str]:
    """Return the names of the scalar observables that are not constant."""
    return [name for name, value in measured.scalars.items() if varies(value)]


def complete(measured: Measured, names: list[str]) -> tuple[Array, Array]:
    """Return (N, F) values and (N,) weights of the samples in which all `names` are defined."""
    values = np.stack([measured.values[name] for name in names], axis=1)
    keep = np.isfinite(values).all(1)
    if keep.sum() < 2:
        raise InputError("correlations: no sample has all observables defined")
    weight = np.ones(len(values)) if measured.weight is None else measured.weight
    return values[keep], weight[keep]


def complete_groups(measured: Measured, names: list[str]) -> NDArray[np.int64]:
    """Return the numbers of the groups of the rows of `complete`; each its own without groups."""
    values = np.stack([measured.values[name] for name in names], axis=1)
    keep = np.asarray(np.isfinite(values).all(1))
    keys = np.arange(len(keep)) if measured.group is None else measured.group
    return np.asarray(np.unique(keys[keep], return_inverse=True)[1], dtype=np.int64)


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
