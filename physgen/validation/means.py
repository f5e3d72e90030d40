"""Means of observables, and functions of them, against exact, published or true values.

For every row: bias = value - exact, sigma^2 = error^2 + exact_error^2, pull = bias / sigma, and the
two-sided p-value that of Student's t, whose degrees of freedom say how well sigma is known: few
samples may define an observable. Errors are those of the Gamma-method where the samples
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

from physgen.errors import RecipeError, suggest
from physgen.validation.comparison import Comparison, Measured, Role
from physgen.validation.estimates import (
    NOT_CONVERGED,
    UNDEFINED,
    UNKNOWN_ERROR,
    caveats,
    degrees_of_freedom,
    deviation,
    estimate,
    paired_error,
    paired_note,
    pull,
    unknown_error,
    usable,
)
from physgen.validation.mixing import mixing
from physgen.validation.profiles import least_mixed, profile, profile_row
from physgen.validation.scorecard import Row, verdict_within
from physgen.validation.uncertainty import Estimate


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

    >>> import torch
    >>> from physgen.batch import Batch
    >>> from physgen.systems.scalar import Phi4
    >>> x = torch.randn(3, 500, 4, generator=torch.Generator().manual_seed(0))
    >>> samples = Comparison(Phi4(shape=(4,)), *map(Batch, x))
    >>> row = next(row for row in Means().rows(samples) if row.name == "m")
    >>> row.exact, row.exact_source, abs(row.pull) < 5
    (0.0, 'exact', True)
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
        measured = comparison.measured
        truth = measured.get("truth")
        if truth is not None and not usable(truth):
            # Nothing can be said of what only the truth knows.
            measured = {role: m for role, m in measured.items() if role == "generated"}
        estimates = {
            name: {role: estimate(comparison, m, name) for role, m in measured.items()}
            for name in [*scalars, *comparison.system.derived]
        }
        binned = {
            name: {role: profile(comparison, m, name) for role, m in measured.items()}
            for name in profiles
        }
        rows = [
            _row(comparison, name, tolerance.get(name), by_role)
            for name, by_role in estimates.items()
        ]
        if truth is not None and "truth" not in measured:
            rows += [_not_judged(name) for name in profiles if name in tolerance]
        if "truth" in measured:
            rows += [
                profile_row(comparison, name, tolerance.get(name), by_role)
                for name, by_role in binned.items()
            ]
            rows += _shares_defined(comparison)
        for name, by_role in binned.items():
            estimates[name] = {role: least_mixed(bins) for role, bins in by_role.items()}
        return [*rows, *mixing(comparison, estimates)]


def refuse_unknown(given: Iterable[str], known: Iterable[str], what: str = "tolerance") -> None:
    """Raise `RecipeError` for the first tolerance, or whatever it is, that belongs to no row."""
    names = list(known)
    for name in given:
        if name not in names:
            raise RecipeError(
                f"a {what} is stated for {name!r}, which is not measured" + suggest(name, names)
            )


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
        if tolerance is not None and "truth" in comparison.measured:
            return _not_judged(name)
        if tolerance is not None:
            raise RecipeError(f"a tolerance is stated for {name!r}, but nobody knows its value")
        return Row(**content)
    exact, exact_error, source = known
    content |= {"exact": exact, "exact_error": exact_error, "exact_source": source}
    if floor is not None and truth is not None:
        content["floor"] = abs(floor.value - truth.value)
        content["floor_error"] = deviation(comparison, "floor", name, estimates)
    bias, sigma = ours.value - exact, math.hypot(ours.error, exact_error)
    if source == "truth" and "generated" in comparison.paired:
        sigma = deviation(comparison, "generated", name, estimates)
        content["note"] = "; ".join(filter(None, (content["note"], paired_note(sigma))))
    used = [ours, truth] if source == "truth" and truth is not None else [ours]
    content["pull"], content["p_value"] = pull(bias, sigma, degrees_of_freedom(*used))
    if source == "truth" and math.isnan(sigma):
        content["note"] = "; ".join(filter(None, (content["note"], unknown_error(estimates))))
    elif math.isnan(ours.value):
        content["p_value"] = 0.0  # It is known what it should be, and it is nothing.
    if not (all(one.converged for one in used) and usable(comparison.measured["generated"])):
        # An error that is a lower limit, or weights that give no number, prove nothing.
        content["p_value"] = None
    if tolerance is not None:
        content["tolerance"] = tolerance * abs(exact)
        content["verdict"] = verdict_within(bias, sigma, content["tolerance"])
        if content["verdict"] == "pass" and not all(one.converged for one in used):
            content |= {"verdict": "info", "warning": NOT_CONVERGED}
        if math.isnan(sigma) and not math.isnan(ours.value):
            content |= {"verdict": "info", "warning": UNKNOWN_ERROR}
    return Row(**content)


def _not_judged(name: str) -> Row:
    """Return the row of what has a limit, and a truth without usable weights."""
    warning = "not judged: the truth has no usable weights"
    return Row(name=name, metric="means", value=None, warning=warning)


def _note(measured: Measured, name: str, ours: Estimate) -> str:
    parts = caveats(measured, ours)
    if measured.chain is not None and ours is not UNDEFINED:
        parts.insert(0, f"tau_int {ours.tau_int:.2g}")
    if name in measured.values:
        missing = int(np.isnan(measured.values[name]).sum())
        if missing:
            parts.append(f"not defined in {missing} of {len(measured.values[name])} samples")
    return "; ".join(parts)


def _shares_defined(comparison: Comparison) -> list[Row]:
    """Return how often observables are defined, where some are not: means are of the others.

    Observables that are defined in the same samples share a row.
    """
    alike: dict[bytes, list[str]] = {}
    shares: dict[str, dict[Role, NDArray[float64]]] = {}
    for name in comparison.measured["truth"].values:
        there = {r: ~np.isnan(m.values[name]) for r, m in comparison.measured.items()}
        if there["generated"].all() and there["truth"].all():
            continue
        shares[name] = {role: flag.reshape(len(flag), -1).mean(1) for role, flag in there.items()}
        pattern = b"".join(share.tobytes() for share in shares[name].values())
        alike.setdefault(pattern, []).append(name)
    return [_share_defined(comparison, names, shares[names[0]]) for names in alike.values()]


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
        sides = comparison.measured["generated"], comparison.measured["truth"]
        sigma = paired_error(*columns, sides)
    off, p_value = pull(ours.value - truth.value, sigma, degrees_of_freedom(ours, truth))
    floor = estimates.get("floor")
    known = ours.converged and truth.converged and usable(comparison.measured["generated"])
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
        p_value=p_value if known else None,
        note="share of the samples" + (f"; as {', '.join(names[1:])}" if names[1:] else ""),
    )
