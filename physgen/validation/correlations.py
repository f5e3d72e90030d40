"""Correlations of the observables, against those of the truth, where both are defined."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from physgen.validation.comparison import Comparison, Measured, Role, varies
from physgen.validation.independence import Selection, select
from physgen.validation.scorecard import Row, floor_of, row_by_role, verdict_within
from physgen.validation.uncertainty import Estimate

Array = NDArray[float64]
Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]

FEWEST = 30
"""Rows that must define both observables of a pair, for a correlation worth comparing."""


@dataclass(frozen=True, kw_only=True)
class Correlations:
    """The largest and the mean difference of the correlation matrices of the observables.

    Each pair is taken over the rows in which both are defined, of chains over those that
    `physgen.validation.independence` counts, whose units are resampled as wholes. Pairs that fewer
    than `FEWEST` rows of a sample define (the momenta of a fourth muon) are left out, and counted.

    Attributes:
        tolerance: limit on value + 2 sigma of the largest difference.
        resamples: bootstrap resamplings for the errors.

    >>> import torch
    >>> from physgen.batch import Batch
    >>> from physgen.systems.scalar import Phi4
    >>> x = torch.randn(3, 500, 4, generator=torch.Generator().manual_seed(0))
    >>> samples = Comparison(Phi4(shape=(4,)), *map(Batch, x))
    >>> [row.name for row in Correlations().rows(samples)]
    ['largest |d correlation|', 'mean |d correlation|']
    """

    tolerance: float | None = None
    resamples: int = 50

    def rows(self, comparison: Comparison) -> list[Row]:
        """Return two rows, or none where no two observables vary together.

        Raises:
            InputError: there is no truth.
        """
        names = varying(comparison.measured_truth)
        if len(names) < 2:
            return []
        samples = {
            role: tabulated(measured, names, comparison.once(select)[role])
            for role, measured in comparison.measured.items()
        }
        target = samples["truth"].correlations()
        shown = [sample.pairs() for role, sample in samples.items() if role != "baseline"]
        first, second = np.nonzero(np.triu(np.all(shown, axis=0), 1))
        if not len(first):
            return []
        pairs = first, second
        roles = [role for role in samples if role != "truth"]
        differences = {r: _differences(samples[r].correlations(), target, pairs) for r in roles}
        errors = {
            role: self._errors(samples["truth"], samples[role], pairs, comparison.seed)
            for role in roles
            if role != "baseline"
        }
        difference = np.abs(samples["generated"].correlations() - target)[pairs]
        worst = int(np.argmax(difference))
        rare = len(names) * (len(names) - 1) // 2 - len(difference)
        notes = (
            f"{names[first[worst]]} with {names[second[worst]]}",
            f"over {len(difference)} pairs"
            + (f"; {rare} that fewer than {FEWEST} rows define are left out" if rare else ""),
        )
        rows = []
        for i, name in enumerate(("largest |d correlation|", "mean |d correlation|")):
            scores: dict[Role, Estimate] = {}
            for role, value in differences.items():
                error = float(errors[role][i]) if role in errors else math.nan
                scores[role] = Estimate(float(value[i]), error)
            ours = scores["generated"]
            limit = self.tolerance if i == 0 else None
            rows.append(
                row_by_role(
                    name,
                    "correlations",
                    scores,
                    tolerance=limit,
                    verdict=verdict_within(ours.value, ours.error, limit, floor_of(scores)),
                    note=notes[i],
                )
            )
        return rows

    def _errors(self, first: Table, second: Table, pairs: Pairs, seed: int) -> Array:
        """Return the errors from resampling whole units of the two samples."""
        generator = np.random.default_rng(seed)
        n_units = int(max(first.unit.max(), second.unit.max())) + 1
        parts = []
        for _ in range(self.resamples):
            times = generator.poisson(1.0, n_units)
            drawn = first.correlations(times), second.correlations(times)
            parts.append(_differences(*drawn, pairs))
        return np.asarray(np.std(parts, axis=0, ddof=1))


@dataclass(frozen=True)
class Table:
    """Observables of a sample, a column each.

    Attributes:
        values: (N, F), NaN where not defined.
        weight: (N,).
        unit: (N,), numbers of the units.
    """

    values: Array
    weight: Array
    unit: NDArray[np.int64]

    def pairs(self) -> NDArray[np.bool_]:
        """Return (F, F), which observables are defined together in rows enough."""
        there = np.isfinite(self.values).astype(float64)
        enough: NDArray[np.bool_] = there.T @ there >= min(FEWEST, len(there))
        return enough

    def correlations(self, times: NDArray[np.int64] | None = None) -> Array:
        """Return the (F, F) correlations, each unit counted as many `times` as is said."""
        weight = self.weight if times is None else self.weight * times[self.unit]
        return correlation_matrix(self.values, weight)


def varying(measured: Measured) -> list[str]:
    """Return the names of the scalar observables that are not constant."""
    return [name for name, value in measured.scalars.items() if varies(value)]


def tabulated(measured: Measured, names: list[str], selected: Selection | None = None) -> Table:
    """Return the observables `names` of all rows, or of those that count."""
    rows = np.arange(measured.n) if selected is None else selected.rows
    unit = rows if selected is None else selected.unit
    values = np.stack([measured.values[name][rows] for name in names], axis=1)
    weight = np.ones(measured.n) if measured.weight is None else measured.weight
    return Table(values, weight[rows], unit)


def correlation_matrix(values: Array, weight: Array) -> Array:
    """Return the (F, F) weighted Pearson correlations of (N, F) values.

    Each is that of the rows in which both values are finite, and 0 where one does not vary.

    >>> correlation_matrix(np.array([[0.0, 0.0], [1.0, 2.0], [2.0, 4.0]]), np.ones(3)).round(6)
    array([[1., 1.],
           [1., 1.]])
    """
    there = np.isfinite(values)
    known = np.where(there, values, 0.0)
    # About where they lie, so that little is subtracted from squares.
    centre = (weight @ known) / np.maximum(weight @ there, np.finfo(float64).tiny)
    x = np.where(there, values - centre, 0.0)
    product = (x * weight[:, None]).T @ x
    if there.all():
        return _normalised(product, np.diag(product)[:, None])
    flag = there.astype(float64)
    weighed = flag * weight[:, None]
    number = np.maximum(weighed.T @ flag, np.finfo(float64).tiny)
    mean = (x * weight[:, None]).T @ flag / number
    square = (x**2 * weight[:, None]).T @ flag / number - mean**2
    return _normalised(product / number - mean * mean.T, square)


def _normalised(covariance: Array, variance: Array) -> Array:
    """Divide (F, F) covariances by the deviations of both; `variance` is of the first of a pair."""
    size = np.sqrt(np.maximum(variance, 0.0) * np.maximum(variance.T, 0.0))
    result: Array = np.divide(covariance, size, out=np.zeros_like(covariance), where=size > 0)
    return result


def _differences(a: Array, b: Array, pairs: Pairs) -> Array:
    off = np.abs(a - b)[pairs]
    return np.array([off.max(), off.mean()])
