"""Distributions that are known exactly, beside those of samples."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from physgen.systems.base import Distribution, HasDistributions
from physgen.validation.comparison import Comparison, Measured, Role
from physgen.validation.scorecard import Row, row_by_role
from physgen.validation.uncertainty import Estimate

Array = NDArray[float64]


def known(comparison: Comparison) -> Mapping[str, Distribution]:
    """Return what the system knows, by the name of the observable; take it by `once`."""
    system = comparison.system
    return system.distributions() if isinstance(system, HasDistributions) else {}


def exact_rows(comparison: Comparison) -> list[Row]:
    """Return a row for each known distribution: the Kolmogorov-Smirnov distance of samples to it.

    The floor is that of true samples; the distance of n independent ones is about 0.9 / sqrt n.
    """
    rows = []
    for name, exact in comparison.once(known).items():
        found: dict[Role, Estimate] = {}
        for role, measured in comparison.measured.items():
            if np.isfinite(measured.values[name]).any():
                found[role] = Estimate(distance(measured, name, exact), math.nan)
        if "generated" in found:
            title, note = f"KS {name}, exact", "to the exact distribution"
            rows.append(row_by_role(title, "histograms", found, note=note))
    return rows


def distance(measured: Measured, name: str, exact: Distribution) -> float:
    """Return the largest difference of the distribution functions of samples and theory.

    >>> coin = Distribution(np.array([0.0, 1.0]), np.array([0.5, 0.5]))
    >>> distance(Measured({"x": np.array([0.0, 1.0, 1.0, 1.0])}, None, None), "x", coin)
    0.25
    """
    values = measured.values[name]
    defined = np.isfinite(values)
    weight = np.ones(len(values)) if measured.weight is None else measured.weight
    # Each sample counts for the nearest level, whatever the rounding.
    between = (exact.values[1:] + exact.values[:-1]) / 2
    level = np.searchsorted(between, values[defined])
    shares = np.bincount(level, weight[defined], len(exact.values)) / weight[defined].sum()
    return float(abs(np.cumsum(shares - exact.probabilities)).max())


def density(exact: Distribution, edges: Array) -> Array:
    """Return (bins,) densities; what lies outside the edges is in the outer bins."""
    n_bins = len(edges) - 1
    number = np.searchsorted(edges, exact.values, side="right").clip(1, n_bins) - 1
    shares = np.bincount(number, exact.probabilities, n_bins)
    return np.asarray(shares / np.diff(edges), float64)
