"""Means of observables, and functions of them, against exact, published or true values.

For every row: bias = value - exact, sigma^2 = error^2 + exact_error^2, pull = bias / sigma, and the
two-sided p-value erfc(|pull| / sqrt 2). Errors are those of the Gamma-method where the samples
carry chains (`physgen.validation.uncertainty`).

Samples drawn at the conditions of the truth, row by row, are paired with it: what both owe to the
condition cancels in their difference, and sigma is the error of the mean of the paired differences
(of a function of means, of the differences of its fluctuations), as in a paired t-test.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from physgen.errors import DomainError, RecipeError, suggest
from physgen.validation.comparison import Comparison, Measured, Role
from physgen.validation.mixing import disagrees, mixing
from physgen.validation.scorecard import Row, Verdict, within
from physgen.validation.uncertainty import Estimate, Function, gamma_method

UNDEFINED = Estimate(math.nan, math.nan)

USABLE = 50
"""Effective samples below which weights give no numbers."""


@dataclass(frozen=True, kw_only=True)
class Means:
    """Means of observables and derived quantities.

    An observable of several bins (a profile, a correlation function) gets one row: where there is a
    limit, the bin with the largest |bias| + 2 sigma, which must be within it; else the bin that is
    farthest off in standard deviations. The p-value is that of the latter, corrected for having
    looked at all (Sidak).

    Attributes:
        tolerance: limit on |bias| + 2 sigma by name, relative to the value it should have (for a
            profile, to its largest bin).
    """

    tolerance: dict[str, float] | None = None

    def rows(self, comparison: Comparison) -> list[Row]:
        """Return one row an observable or derived quantity, and one of chains that do not mix.

        Where observables are not defined in all samples, another says how often they are.

        Raises:
            RecipeError: a tolerance is stated for something that is not measured.
        """
        values = comparison.measured["generated"].values
        scalars = [name for name, value in values.items() if value.ndim == 1]
        profiles = [name for name, value in values.items() if value.ndim > 1]
        tolerance = self.tolerance or {}
        refuse_unknown(tolerance, [*values, *comparison.system.derived])
        estimates = {
            name: {role: estimate(comparison, m, name) for role, m in comparison.measured.items()}
            for name in [*scalars, *comparison.system.derived]
        }
        rows = [
            _row(comparison, name, tolerance.get(name), found) for name, found in estimates.items()
        ]
        if "truth" in comparison.measured:
            rows += [_profile(comparison, name, tolerance.get(name)) for name in profiles]
            rows += _shares_defined(comparison)
        return [*rows, *mixing(comparison, estimates)]


def refuse_unknown(given: Iterable[str], known: Iterable[str]) -> None:
    """Raise `RecipeError` for the first tolerance that belongs to no row."""
    names = list(known)
    for name in given:
        if name not in names:
            raise RecipeError(
                f"a tolerance is stated for {name!r}, which is not measured" + suggest(name, names)
            )


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


def _deviation(
    comparison: Comparison, role: Role, name: str, estimates: Mapping[Role, Estimate]
) -> float:
    """Return the error of the difference of a sample's mean or derived quantity to the truth's."""
    if role not in comparison.paired:
        return math.hypot(estimates[role].error, estimates["truth"].error)
    ours, function = _columns(comparison, comparison.measured[role], name)
    truth, _ = _columns(comparison, comparison.measured["truth"], name)
    return paired_error(ours, truth, comparison.measured["truth"], function)


def paired_error(
    ours: NDArray[float64],
    truth: NDArray[float64],
    of: Measured,
    function: Function | None = None,
) -> float:
    """Return the error of a difference of means, or of functions of means, of paired rows.

    Args:
        ours, truth: (N, k) columns.
        of: the truth, whose groups and weights are those of the pairs.
        function: of the (k,) means of one sample; by default its only mean.
    """
    k = ours.shape[1]
    value = function or (lambda means: float(means[0]))
    try:
        return gamma_method(
            np.concatenate([ours, truth], axis=1),
            function=lambda means: value(means[:k]) - value(means[k:]),
            group=of.group,
            weight=of.weight,
        ).error
    except DomainError:
        return math.nan


def usable(measured: Measured) -> bool:
    """Return whether weights leave `USABLE` effective samples, or half of all if they are few."""
    weight = measured.weight
    if weight is None:
        return True
    worth = float(weight.sum() ** 2 / (weight**2).sum())
    return worth >= min(USABLE, len(weight) / 2)


def _row(
    comparison: Comparison, name: str, tolerance: float | None, estimates: Mapping[Role, Estimate]
) -> Row:
    ours, truth = estimates["generated"], estimates.get("truth")
    floor, baseline = estimates.get("floor"), estimates.get("baseline")
    content: dict[str, Any] = {
        "name": name,
        "metric": "means",
        "value": ours.value,
        "error": ours.error,
        "baseline": None if baseline is None else baseline.value,
        "unit": comparison.unit(name),
        "note": _note(comparison.measured["generated"], name, ours),
    }
    known: tuple[float, float, str] | None = comparison.known(name)
    if known is None and truth is not None:
        known = truth.value, truth.error, "truth"
    if known is None:
        if tolerance is not None:
            raise RecipeError(f"a tolerance is stated for {name!r}, but nobody knows its value")
        return Row(**content)
    exact, exact_error, source = known
    content |= {"exact": exact, "exact_error": exact_error, "exact_source": source}
    if floor is not None and truth is not None:
        content["floor"] = abs(floor.value - truth.value)
        content["floor_error"] = _deviation(comparison, "floor", name, estimates)
    bias, sigma = ours.value - exact, math.hypot(ours.error, exact_error)
    if source == "truth" and "generated" in comparison.paired:
        sigma = _deviation(comparison, "generated", name, estimates)
        content["note"] = "; ".join(filter(None, (content["note"], paired_note(sigma))))
    content["pull"], content["p_value"] = pull(bias, sigma)
    used = [ours, truth] if source == "truth" and truth is not None else [ours]
    if not all(one.converged for one in used):
        content["p_value"] = None  # An error that is a lower limit proves nothing.
    if tolerance is not None:
        content["tolerance"] = tolerance * abs(exact)
        content["verdict"] = within(bias, sigma, content["tolerance"])
        if content["verdict"] == "pass" and any(disagrees(one) for one in used):
            content["verdict"] = "info"
    return Row(**content)


def paired_note(sigma: float) -> str:
    """Return what a row says of a pull that is not that of its two errors."""
    return f"paired with the truth at the same conditions: error of the difference {sigma:.2g}"


def pull(bias: float, sigma: float) -> tuple[float, float]:
    """Return bias / sigma and its two-sided p-value; a bias without an error is impossible."""
    if math.isnan(bias):
        return math.nan, 0.0
    if not sigma > 0:
        return (0.0, 1.0) if bias == 0 else (math.copysign(math.inf, bias), 0.0)
    return bias / sigma, math.erfc(abs(bias / sigma) / math.sqrt(2))


def _note(measured: Measured, name: str, ours: Estimate) -> str:
    parts = [] if usable(measured) else ["no usable weights: a few samples have all the weight"]
    if measured.chain is not None and ours is not UNDEFINED:
        parts.append(f"tau_int {ours.tau_int:.2g}")
    if not ours.converged:
        parts.append(
            "the chains do not mix"
            if disagrees(ours)
            else "chains too short for this autocorrelation: the error is a lower limit"
        )
    if name in measured.values:
        missing = int(np.isnan(measured.values[name]).sum())
        if missing:
            parts.append(f"not defined in {missing} of {len(measured.values[name])} samples")
    return "; ".join(parts)


def _shares_defined(comparison: Comparison) -> list[Row]:
    """Return how often observables are defined, where some are not: means are of the others.

    Observables that are defined in the same samples share a row.
    """
    found: dict[bytes, list[str]] = {}
    shares: dict[str, dict[Role, NDArray[float64]]] = {}
    for name in comparison.measured["truth"].values:
        there = {r: ~np.isnan(m.values[name]) for r, m in comparison.measured.items()}
        if there["generated"].all() and there["truth"].all():
            continue
        shares[name] = {role: flag.reshape(len(flag), -1).mean(1) for role, flag in there.items()}
        pattern = b"".join(share.tobytes() for share in shares[name].values())
        found.setdefault(pattern, []).append(name)
    return [_share_defined(comparison, names, shares[names[0]]) for names in found.values()]


def _share_defined(
    comparison: Comparison, names: list[str], shares: Mapping[Role, NDArray[float64]]
) -> Row:
    name = f"{names[0]} is defined"
    estimates = {
        role: estimate(comparison, replace(measured, values={name: shares[role]}), name)
        for role, measured in comparison.measured.items()
    }
    ours, truth = estimates["generated"], estimates["truth"]
    sigma = math.hypot(ours.error, truth.error)
    if "generated" in comparison.paired:
        columns = shares["generated"][:, None], shares["truth"][:, None]
        sigma = paired_error(*columns, comparison.measured["truth"])
    off, p_value = pull(ours.value - truth.value, sigma)
    floor = estimates.get("floor")
    return Row(
        name=name,
        metric="means",
        value=ours.value,
        error=ours.error,
        exact=truth.value,
        exact_error=truth.error,
        exact_source="truth",
        floor=None if floor is None else abs(floor.value - truth.value),
        pull=off,
        p_value=p_value if ours.converged and truth.converged else None,
        note="share of the samples" + (f"; as {', '.join(names[1:])}" if names[1:] else ""),
    )


def _profile(comparison: Comparison, name: str, tolerance: float | None) -> Row:
    profiles = {r: profile(m, name) for r, m in comparison.measured.items()}
    truth, ours = profiles["truth"], profiles["generated"]
    bias = ours[0] - truth[0]
    sigma = profile_deviation(comparison, "generated", name, profiles)
    pulls = [pull(b, s) for b, s in zip(bias.tolist(), sigma.tolist(), strict=True)]
    compared = [i for i in range(truth.shape[1]) if not math.isnan(truth[0, i])]
    if not compared:
        verdict: Verdict = "info" if tolerance is None else "fail"
        note = "not defined in any true sample"
        return Row(name=name, metric="means", value=None, verdict=verdict, note=note)
    limit = None if tolerance is None else tolerance * float(np.nanmax(np.abs(truth[0])))
    highest = np.nan_to_num(np.abs(bias) + 2 * sigma, nan=math.inf)
    farthest = min(compared, key=lambda i: pulls[i][1])
    worst = farthest if limit is None else max(compared, key=lambda i: highest[i])
    content: dict[str, Any] = {}
    if "floor" in profiles:
        content["floor"] = abs(profiles["floor"][0, worst] - truth[0, worst])
        floor_sigma = profile_deviation(comparison, "floor", name, profiles)
        content["floor_error"] = floor_sigma[worst]
    if "baseline" in profiles:
        content["baseline"] = profiles["baseline"][0, worst]
    single = min(pulls[farthest][1], 1 - 1e-16)
    return Row(
        name=f"{name}, bin {worst + 1} of {truth.shape[1]}",
        metric="means",
        value=ours[0, worst],
        error=ours[1, worst],
        exact=truth[0, worst],
        exact_error=truth[1, worst],
        exact_source="truth",
        pull=pulls[worst][0],
        p_value=-math.expm1(len(compared) * math.log1p(-single)),
        tolerance=limit,
        unit=comparison.unit(name),
        verdict=within(bias[worst], sigma[worst], limit),
        note="; ".join(
            ["the bin that is farthest off"]
            + ([paired_note(sigma[worst])] if "generated" in comparison.paired else [])
        ),
        **content,
    )


def profile_deviation(
    comparison: Comparison, role: Role, name: str, profiles: Mapping[Role, NDArray[float64]]
) -> NDArray[float64]:
    """Return (bins,): errors of the differences of a sample's profile to the truth's."""
    if role not in comparison.paired:
        return np.asarray(np.hypot(profiles[role][1], profiles["truth"][1]))
    truth = comparison.measured["truth"]
    columns = zip(comparison.measured[role].values[name].T, truth.values[name].T, strict=True)
    return np.array([paired_error(a[:, None], b[:, None], truth) for a, b in columns])


def profile(measured: Measured, name: str) -> NDArray[float64]:
    """Return (2, bins): means and errors of an observable of several bins."""
    found = []
    for column in measured.values[name].T:
        try:
            found.append(
                gamma_method(
                    column,
                    chain=measured.chain,
                    group=measured.group,
                    weight=measured.weight,
                )
            )
        except DomainError:
            found.append(UNDEFINED)
    return np.array([[e.value for e in found], [e.error for e in found]])
