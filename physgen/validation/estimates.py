"""Means of observables, and functions of them, of one sample and of the difference of two.

The means of samples that are drawn at the conditions of the truth, row by row, differ by less than
their errors say: what both owe to the condition cancels in the paired differences.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy import float64
from numpy.typing import NDArray
from scipy.special import stdtr

from physgen.errors import DomainError
from physgen.validation.comparison import Comparison, Measured, Role
from physgen.validation.mixing import disagrees
from physgen.validation.uncertainty import Estimate, Function, gamma_method

UNDEFINED = Estimate(math.nan, math.nan)

NOT_CONVERGED = "not judged: chains that do not mix, or too short to know their errors"

UNKNOWN_ERROR = "not judged: the error is not known"

USABLE = 50
"""Effective samples below which weights give no numbers."""


def estimate(comparison: Comparison, measured: Measured, name: str) -> Estimate:
    """Return an observable's mean or a derived quantity with its error; NaN if undefined."""
    if not usable(measured):
        return UNDEFINED
    columns, function = _columns(comparison, measured, name)
    try:
        return gamma_method(
            columns,
            function=function,
            chain=measured.chain,
            group=measured.group,
            weight=measured.weight,
        )
    except DomainError:
        return UNDEFINED


def _columns(
    comparison: Comparison, measured: Measured, name: str
) -> tuple[NDArray[float64], Function | None]:
    """Return the (N, k) columns of an observable or derived quantity, and what it makes of them."""
    derived = comparison.system.derived.get(name)
    if derived is None:
        return measured.values[name][:, None], None
    return np.stack([measured.values[mean] for mean in derived.means], axis=1), derived.function


def deviation(
    comparison: Comparison, role: Role, name: str, estimates: Mapping[Role, Estimate]
) -> float:
    """Return the error of the difference of a sample's mean or derived quantity to the truth's."""
    if role not in comparison.paired:
        return math.hypot(estimates[role].error, estimates["truth"].error)
    sides = comparison.measured[role], comparison.measured["truth"]
    (ours, function), (truth, _) = (_columns(comparison, side, name) for side in sides)
    return paired_error(ours, truth, sides, function)


def paired_error(
    ours: NDArray[float64],
    truth: NDArray[float64],
    sides: tuple[Measured, Measured],
    function: Function | None = None,
) -> float:
    """Return the error of a difference of means, or of functions of means, of paired rows.

    Args:
        ours, truth: (N, k) columns.
        sides: what they are of; the groups of the truth are those of the pairs.
        function: of the (k,) means of one sample; by default its only mean.
    """
    k = ours.shape[1]
    value = function or (lambda means: float(means[0]))
    columns = np.concatenate([ours, truth], axis=1)
    a, b = (np.ones(len(ours)) if side.weight is None else side.weight for side in sides)
    weight = a if np.array_equal(a, b) else None
    if weight is None:
        # Means of either side are ratios: of weighted values, and of the weights of these rows.
        weights = np.repeat(np.stack([a, b], 1), k, axis=1)
        weights = np.where(np.isnan(columns), np.nan, weights)
        columns = np.concatenate([weights * columns, weights], axis=1)

    def difference(means: NDArray[float64]) -> float:
        if weight is None:
            means = means[: 2 * k] / means[2 * k :]
        return value(means[:k]) - value(means[k:])

    try:
        return gamma_method(columns, function=difference, group=sides[1].group, weight=weight).error
    except DomainError:
        return math.nan


def effective_samples(measured: Measured) -> float:
    """Return how many samples of equal weights are as good: (sum w)^2 / sum w^2."""
    weight = measured.weight
    if weight is None:
        return float(measured.n)
    return float(weight.sum() ** 2 / (weight**2).sum())


def usable(measured: Measured) -> bool:
    """Return whether weights leave `USABLE` effective samples, or half of all if they are few."""
    return effective_samples(measured) >= min(USABLE, measured.n / 2)


def paired_note(sigma: float) -> str:
    """Return what a row says of a pull that is not that of its two errors."""
    return f"paired with the truth at the same conditions: error of the difference {sigma:.2g}"


def pull(bias: float, sigma: float, degrees_of_freedom: float = math.inf) -> tuple[float, float]:
    """Return bias / sigma and its two-sided p-value.

    A bias whose error is 0 is impossible; of one whose error is not known (NaN) nothing is.

    Args:
        bias, sigma: of what should be 0.
        degrees_of_freedom: degrees of freedom that sigma is known with, those of Student's t.

    >>> pull(1.0, 0.0), pull(1.0, math.nan)
    ((inf, 0.0), (nan, nan))
    """
    if math.isnan(sigma):
        return math.nan, math.nan
    if math.isnan(bias):
        return math.nan, 0.0
    if sigma == 0:
        return (0.0, 1.0) if bias == 0 else (math.copysign(math.inf, bias), 0.0)
    off = bias / sigma
    if math.isinf(degrees_of_freedom):
        return off, math.erfc(abs(off) / math.sqrt(2))
    return off, float(2 * stdtr(degrees_of_freedom, -abs(off)))


def degrees_of_freedom(*estimates: Estimate) -> float:
    """Return the degrees of freedom of the error of a difference (Welch, Biometrika 34 (1947) 28).

    Those of one estimate are half of the squared ratio of its error and the error of this.
    """
    known = [one for one in estimates if one.error_of_error > 0]
    spread = sum((one.error * one.error_of_error) ** 2 for one in known)
    total = sum(one.error**2 for one in estimates if one.error > 0)
    return total**2 / (2 * spread) if spread > 0 else math.inf


def unknown_error(estimates: Mapping[Role, Estimate]) -> str:
    """Say why the error of a difference to the truth is not known.

    An observable may be defined in no row of a sample, or in one: then there is no spread.
    """
    names: dict[Role, str] = {"generated": "generated", "truth": "true"}
    lacking = [
        f"{'no' if math.isnan(estimates[role].value) else 'one'} {name} sample"
        for role, name in names.items()
        if role in estimates and math.isnan(estimates[role].error)
    ]
    where = f": defined in {' and '.join(lacking)}" if lacking else ""
    return f"not judged: the error is not known{where}"


def caveats(measured: Measured, mean: Estimate) -> list[str]:
    """Return what must be said of an estimate of a sample that is not what it seems."""
    sentences = [] if usable(measured) else ["no usable weights: a few samples have all the weight"]
    if not mean.converged:
        sentences.append(
            "the chains do not mix"
            if disagrees(mean)
            else "chains too short for this autocorrelation: the error is a lower limit"
        )
    return sentences
