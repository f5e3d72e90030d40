"""The rows of the truth and of the generated sample together, from which features are made.

Whatever shapes a feature (means, widths, thresholds, whitening, regression on the condition) comes
from the pooled rows, without looking at labels: a relabelling then needs nothing to be made anew,
and p-values stay exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from physgen.errors import NotMeasurable
from physgen.validation.comparison import Comparison, Role, evenly_spaced, random_rows, varies
from physgen.validation.independence import LENGTH, REMEDY, select
from physgen.validation.permutation import Relabelling
from physgen.validation.two_sample.residuals import residuals

Array = NDArray[float64]
Rows = NDArray[np.int64]

MOST_BINS = 32
"""Bins of an observable that count as columns of their own; of more, such as images, none do."""

RATIO = 20
"""How many times more rows the larger sample has at most."""

EXPECTED = 25
"""Effective rows of each sample in a tail, by which its p-value is asymptotically right."""

FEWEST = 200
"""Effective units of each sample, of rows with weights or in groups, without which p is wrong."""

DIGITS = 20
"""Binary digits of a value that count: one part in a million."""

_ROUNDING = 1e-12
"""Differences of features, whose variance is 1, are rounding below."""

FLOORED = 1e-6
"""Eigenvalues of a covariance, of the largest, below which whitening does not amplify."""


@dataclass(frozen=True)
class Family:
    """Statistics of one kind.

    Attributes:
        names: of the k statistics.
        sums: (M, F), of the features by block: `Relabelling.sums`.
        statistics: maps (n, F) differences of mean features to (n, k) statistics. They are on a
            quadratic scale (KS^2, chi^2, MMD^2), where tails are exponential.
        causes: maps the (F,) mean features of the truth and of the generated sample to what
            differs most, for each of the k.
    """

    names: tuple[str, ...]
    sums: NDArray[np.floating[Any]]
    statistics: Callable[[Array], Array]
    causes: Callable[[Array, Array], list[str]]


@dataclass(frozen=True)
class Columns:
    """(N, D) rows, and the names of their columns."""

    names: tuple[str, ...]
    rows: Array


@dataclass(frozen=True)
class Pool:
    """Pooled rows, those of the truth first.

    Attributes:
        names: of the observables that vary.
        values: (N, d) of them, NaN where one is not defined.
        condition_names: of the conditions.
        conditions: (N, C).
        labels: (N,), whether a row is a true one.
        weights: (N,).
        units: (N,) numbers from 0 of what the rows hang together in; of a row that stands alone,
            its own.
        alone: whether all rows stand alone.
        paired: whether row i of both samples was drawn at one condition.
        seed: of everything that is drawn.
        left_out: words on observables that are not among them; none where all are.
        correlated: how rows are that follow one another; "" where none do.
    """

    names: tuple[str, ...]
    values: Array
    condition_names: tuple[str, ...]
    conditions: Array
    labels: NDArray[np.bool_]
    weights: Array
    units: Rows
    alone: bool = True
    paired: bool = False
    seed: int = 0
    left_out: str = ""
    correlated: str = ""

    @classmethod
    def of(cls, comparison: Comparison) -> Pool:
        """Pool the rows that count (`physgen.validation.independence`), of files as many as can be.

        Raises:
            InputError: there is no truth.
            NotMeasurable: too few rows are independent, or weights leave too few.
        """
        comparison.measured_truth  # noqa: B018 (raises if there is none)
        both: tuple[Role, Role] = ("truth", "generated")
        if comparison.whole is None:
            samples, selected = comparison.measured, comparison.once(select)
        else:
            samples = comparison.whole()
            selected = select(comparison, {role: samples[role] for role in both})
        measured, chosen = [samples[role] for role in both], [selected[role] for role in both]

        def pooled(parts: Iterable[NDArray[Any]]) -> NDArray[Any]:
            return np.concatenate([p[c.rows] for p, c in zip(parts, chosen, strict=True)])

        least = min(len(rows.rows) for rows in chosen)
        if "generated" not in comparison.paired:
            # More rows would not be seen beside so few, and labels of all of them are drawn.
            most, seed = RATIO * least, comparison.seed
            chosen = [
                part[
                    random_rows(len(part.rows), most, seed)
                    if one.chain is None
                    else evenly_spaced(len(part.rows), most)
                ]
                for part, one in zip(chosen, measured, strict=True)
            ]
        columns = [one.columns(MOST_BINS) for one in measured]
        values = {
            name: without_rounding(pooled(part[name] for part in columns)) for name in columns[0]
        }
        values = {name: value for name, value in values.items() if _differs(value)}
        n = sum(len(part.rows) for part in chosen)
        given = [one.condition for one in measured if one.condition is not None]
        conditions = pooled(given) if len(given) == len(both) else np.empty((n, 0))
        known = [variable.name for variable in comparison.system.schema.condition]
        n_given = conditions.shape[1]
        known = known if len(known) == n_given else [f"condition {i + 1}" for i in range(n_given)]
        units = np.concatenate([part.unit for part in chosen])
        return cls(
            tuple(values),
            np.stack(list(values.values()), 1) if values else np.empty((n, 0)),
            tuple(known),
            conditions,
            np.repeat([True, False], [len(part.rows) for part in chosen]),
            pooled(np.ones(one.n) if one.weight is None else one.weight for one in measured),
            np.unique(units, return_inverse=True)[1],
            all(part.alone for part in chosen),
            "generated" in comparison.paired,
            comparison.seed,
            comparison.left_out(MOST_BINS),
            " and ".join(part.correlated for part in chosen if part.correlated),
        )

    @property
    def sizes(self) -> tuple[int, int]:
        """Rows of the truth, and of the generated sample."""
        n = int(self.labels.sum())
        return n, len(self.labels) - n

    @cached_property
    def relabelling(self) -> Relabelling:
        """Of all rows."""
        return self.relabelling_of(np.arange(len(self.labels)))

    def relabelling_of(self, rows: Rows) -> Relabelling:
        """Return that of some of the rows, given in order."""
        truth, ours = rows[self.labels[rows]], rows[~self.labels[rows]]
        grouped = self.paired or not self.alone
        return Relabelling(
            len(truth),
            len(ours),
            weights=(self.weights[truth], self.weights[ours]),
            groups=(self.units[truth], self.units[ours]) if grouped else (None, None),
            seed=self.seed,
        )

    @cached_property
    def least_share(self) -> float:
        """Share of the rows that a feature needs for its p-value to hold.

        Random signs know the variance of what happened: of a tail in which the smaller sample has
        no row by chance it is too small. There must be `EXPECTED` effective ones in it.
        """
        if self.relabelling.exact:
            return 0.0
        sides = [self.weights[self.labels], self.weights[~self.labels]]
        effective = min(float(w.sum() ** 2 / (w**2).sum()) for w in sides)
        return min(EXPECTED / effective, 0.5)

    def effective_units(self, rows: NDArray[np.bool_] | None = None) -> float:
        """Return (sum w)^2 / sum w^2 of the weights w of the units, of the sample that has fewer.

        Args:
            rows: (N,) those that are looked at; all by default.
        """
        found = []
        for side in (self.labels, ~self.labels):
            chosen = side if rows is None else side & rows
            w = np.bincount(self.units[chosen], self.weights[chosen])
            square = float((w**2).sum())
            found.append(float(w.sum() ** 2) / square if square > 0 else 0.0)
        return min(found)

    def refuse_few(self) -> None:
        """Raise `NotMeasurable` where p-values are asymptotic, and rows too few for that."""
        if self.relabelling.exact or self.effective_units() >= FEWEST:
            return
        if self.correlated:
            raise NotMeasurable(
                "rows that follow one another are correlated, and taken for a Markov chain: "
                f"{self.correlated}; they hold {self.effective_units():.3g} stretches of "
                f"{2 * LENGTH} tau_int, and a test needs {FEWEST} of each sample: {REMEDY}"
            )
        raise NotMeasurable(
            f"weighted rows, or rows in groups, that are worth {self.effective_units():.3g} "
            f"independent ones are too few for a test: give {FEWEST} at least of each sample"
        )

    def in_deviations(self, sums: Array) -> Array:
        """Return (M, F) sums of features of variance 1, with D in its standard deviations."""
        n, m = self.sizes
        spread = np.full(sums.shape[1], np.sqrt(1 / n + 1 / m))
        if self.paired or not self.relabelling.exact:
            spread = self.relabelling.deviations(sums)
        known = spread > _ROUNDING
        return np.asarray(sums * np.where(known, 1 / np.where(known, spread, 1.0), 0.0))

    @staticmethod
    def largest(truth: Array, generated: Array, labels: Sequence[str]) -> str:
        """Say which of the mean features, in standard deviations of D, differs most."""
        off = generated - truth
        worst = int(np.abs(off).argmax())
        return (
            f"{labels[worst]}: {off[worst]:+.1f} standard deviations, the largest of "
            f"{len(labels)} deviations"
        )

    @cached_property
    def residuals(self) -> Array:
        """(N, d), of the observables given the conditions; (N, 0) where none of these varies."""
        return residuals(self.values, self.conditions)

    @cached_property
    def standardised(self) -> Columns:
        """Columns of mean 0 and variance 1.

        They are the observables (their residuals, where there are conditions), which of them are
        defined where some are not, and the conditions.
        """
        parts = [self.residuals if self.residuals.shape[1] else self.values]
        defined = np.isfinite(self.values)
        # Observables that lack a value together, such as those of an empty layer, count once.
        lacking = np.unique(defined, axis=1, return_index=True)[1]
        share = defined[:, lacking].mean(0)
        rare = np.minimum(share, 1 - share) < self.least_share
        lacking = np.sort(lacking[(share < 1) & ~rare])
        parts += [defined[:, lacking], self.conditions]
        stacked = np.concatenate(parts, 1, dtype=float64)
        names = (
            *self.names,
            *(f"whether {self.names[i]} is defined" for i in lacking),
            *self.condition_names,
        )
        width = np.nanstd(stacked, 0)
        z = np.nan_to_num((stacked - np.nanmean(stacked, 0)) / np.where(width > 0, width, 1.0))
        varying = np.flatnonzero(width > 0)
        return Columns(tuple(names[i] for i in varying), z[:, varying])

    @cached_property
    def whitened(self) -> Columns:
        """The standardised columns, rotated to unit covariance.

        Directions of hardly any spread stay small.
        """
        z = self.standardised.rows
        values, vectors = np.linalg.eigh(np.cov(z.T).reshape(z.shape[1], -1))
        root = vectors / np.sqrt(np.maximum(values, FLOORED * values[-1]))
        return Columns(tuple(f"direction {i + 1}" for i in range(len(values))), z @ root)


def without_rounding(values: Array) -> Array:
    """Return values of which those that differ by rounding are equal, and infinite ones NaN.

    A centre of gravity of one voxel is 2.5 in one sample, and 2.4999999 in another whose energies
    have other digits: no threshold may come to lie between. Values are rounded to `DIGITS` binary
    digits of their own, or of the spread of all where that is finer; what is below 1e-9 of their
    median size is 0.
    """
    known = np.isfinite(values)
    x = values[known]
    result = np.full(len(values), np.nan)
    if not len(x):
        return result
    spread = float(np.subtract(*np.quantile(x, [0.75, 0.25]))) or float(x.std())
    size = np.abs(x)
    own = np.ldexp(0.5, np.frexp(x)[1])
    step = np.where(size > 0, own, 1.0)
    if spread > 0:
        step = np.minimum(step, np.ldexp(0.5, np.frexp(spread)[1]))
    step = step * 2.0 ** (1 - DIGITS)
    rounded = np.round(x / step) * step
    if (size > 0).any():
        rounded[size < 1e-9 * np.median(size[size > 0])] = 0.0
    result[known] = rounded
    return result


def _differs(values: Array) -> bool:
    """Return whether values differ, or only some of them are defined."""
    return varies(values) or 0 < int(np.isfinite(values).sum()) < len(values)
