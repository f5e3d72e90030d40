"""Tails of the weights w = p / (1 - p) that a calibrated classifier gives to rows it never saw.

With p(x) the probability that a row is a true one at even odds, w estimates the ratio of densities,
true over generated. An AUC is a mean over all rows and may hide what the tails of w show (Das et
al., arXiv 2305.16774): generated rows of small w are too many, true rows of large w are missing
among the generated ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from physgen.validation.comparison import Role
from physgen.validation.scorecard import Curve, Row, row_by_role
from physgen.validation.uncertainty import Estimate, summed_error

Array = NDArray[float64]
Rows = NDArray[np.int64]

FACTOR = 2.0
"""Rows count as too many, or as missing, beyond this ratio of densities."""

QUANTILES = {"generated": (0.001, 0.01, 0.5), "true": (0.5, 0.99, 0.999)}

RANGE, N_BINS = 2.5, 40
"""Of log10 w in the histogram; what is beyond is in the outer bins."""


@dataclass(frozen=True)
class Tails:
    """What is known of the weights of one test.

    Attributes:
        surplus: share of the generated rows with w < 1 / `FACTOR`.
        missing: share of the true rows with w > `FACTOR`.
        quantiles: of w of the generated rows, and of the true ones: `QUANTILES`.
        histograms: (edges of log10 w, shares), of the generated rows and of the true ones.
    """

    surplus: Estimate
    missing: Estimate
    quantiles: Mapping[str, tuple[float, ...]]
    histograms: Mapping[str, Curve]

    @classmethod
    def of(
        cls, calibrated: Array, labels: Array, weights: Array, unit: Rows | None = None
    ) -> Tails:
        """Look at (N,) calibrated probabilities of label 1 (true), at even odds.

        >>> tails = Tails.of(np.array([0.9, 0.5, 0.5, 0.1]), np.array([1, 1, 0, 0]), np.ones(4))
        >>> tails.surplus.value, tails.missing.value, tails.quantiles["generated"][-1]
        (0.5, 0.5, 0.111)
        """
        w = _odds(calibrated)
        classes = {"generated": labels == 0, "true": labels == 1}
        return cls(
            surplus=_share(w < 1 / FACTOR, classes["generated"], weights, unit),
            missing=_share(w > FACTOR, classes["true"], weights, unit),
            quantiles={
                name: _quantiles(w[rows], weights[rows], QUANTILES[name])
                for name, rows in classes.items()
            },
            histograms={
                name: _histogram(np.log10(w[rows]), weights[rows]) for name, rows in classes.items()
            },
        )


def shares(calibrated: Array, labels: Array, weights: Array) -> tuple[float, float]:
    """Return the values of `Tails.surplus` and `Tails.missing` alone, as for resampled weights."""
    w = _odds(calibrated)
    sides = (labels == 0, w < 1 / FACTOR), (labels == 1, w > FACTOR)
    surplus, missing = (float(weights[of & tail].sum() / weights[of].sum()) for of, tail in sides)
    return surplus, missing


def _odds(calibrated: Array) -> Array:
    p = np.clip(calibrated, 1e-4, 1 - 1e-4)
    return np.asarray(p / (1 - p))


def rows_of(tails: Mapping[Role, Tails], classifier: str, also: str = "") -> list[Row]:
    """Return the rows about too many generated rows, and about missing ones.

    `also` ends their notes.
    """
    ours = tails["generated"]
    curves = {f"w of {name} rows": curve for name, curve in ours.histograms.items()}
    if "floor" in tails:
        floor = tails["floor"].histograms
        curves |= {f"floor, w of {name} rows": curve for name, curve in floor.items()}
    sides = (
        (f"generated rows of w < 1/{FACTOR:g}", "surplus", "generated"),
        (f"true rows of w > {FACTOR:g}", "missing", "true"),
    )
    return [
        row_by_role(
            f"{name}, {classifier}",
            "classifier-weights",
            {role: getattr(one, part) for role, one in tails.items()},
            note=_in_words(ours, which) + also,
            curves=curves if part == "surplus" else {},
        )
        for name, part, which in sides
    ]


def _in_words(tails: Tails, which: str) -> str:
    pairs = zip(QUANTILES[which], tails.quantiles[which], strict=True)
    listed = ", ".join(f"{100 * share:g}% {w:.3g}" for share, w in pairs)
    return f"quantiles of w of {which} rows: {listed}"


def _share(
    inside: NDArray[np.bool_], rows: NDArray[np.bool_], w: Array, unit: Rows | None
) -> Estimate:
    weight = np.where(rows, w, 0.0) / w[rows].sum()
    share = float(weight[inside].sum())
    return Estimate(share, summed_error(weight * (inside - share), unit))


def _quantiles(values: Array, weights: Array, shares: tuple[float, ...]) -> tuple[float, ...]:
    """Return weighted quantiles, to three digits; negative weights take rows away again."""
    order = np.argsort(values)
    reached = np.maximum.accumulate(np.cumsum(weights[order])) / weights.sum()
    places = np.searchsorted(reached, shares).clip(max=len(values) - 1)
    return tuple(float(f"{x:.3g}") for x in values[order][places])


def _histogram(log_w: Array, weights: Array) -> Curve:
    edges = np.linspace(-RANGE, RANGE, N_BINS + 1)
    inside = log_w.clip(-RANGE, math.nextafter(RANGE, 0))
    heights, _ = np.histogram(inside, edges, weights=weights / weights.sum())
    return tuple(edges.round(5).tolist()), tuple(heights.round(6).tolist())
