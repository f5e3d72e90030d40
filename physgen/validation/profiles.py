"""Means of observables of several bins: profiles, spectra, correlation functions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from physgen.validation.comparison import Comparison, Measured, Role
from physgen.validation.estimates import (
    NOT_CONVERGED,
    UNKNOWN_ERROR,
    caveats,
    degrees_of_freedom,
    estimate,
    paired_error,
    paired_note,
    pull,
    usable,
)
from physgen.validation.mixing import disagrees
from physgen.validation.scorecard import Row, Verdict, verdict_within
from physgen.validation.uncertainty import Estimate

Profile = list[Estimate]
"""An estimate a bin; NaN where nothing is defined."""


def profile(comparison: Comparison, measured: Measured, name: str) -> Profile:
    """Return the mean of each bin of an observable with its error."""
    return [
        estimate(comparison, replace(measured, values={name: column}), name)
        for column in measured.values[name].T
    ]


def least_mixed(bins: Profile) -> Estimate:
    """Return the bin whose chains are shown to mix the least."""
    return min(bins, key=lambda one: (one.converged, not disagrees(one), -one.tau_int))


def profile_row(
    comparison: Comparison, name: str, tolerance: float | None, profiles: Mapping[Role, Profile]
) -> Row:
    """Return the row of one profile, which shows the bin that decides.

    Args:
        comparison: with a truth.
        name: of the observable.
        tolerance: limit on |bias| + 2 sigma, relative to the largest bin of the truth.
        profiles: by role.
    """
    values = {role: np.array([one.value for one in bins]) for role, bins in profiles.items()}
    truth, ours = values["truth"], _Bias.of(comparison, "generated", name, profiles)
    compared = [i for i in range(len(truth)) if not math.isnan(truth[i])]
    # Of a bin that is defined in one sample, or none, there is a mean at most, and no error.
    judged = [i for i in compared if not math.isnan(ours.pulls[i][1])]
    limited = [i for i in compared if i in judged or math.isnan(ours.value[i])]
    if not compared:
        verdict: Verdict = "info" if tolerance is None else "fail"
        note = "not defined in any true sample"
        return Row(name=name, metric="means", value=None, verdict=verdict, note=note)
    limit = None if tolerance is None else tolerance * float(np.nanmax(np.abs(truth)))
    farthest = ours.farthest(judged or compared)
    worst = farthest if limit is None else ours.highest(limited or compared)
    content: dict[str, Any] = {}
    # In the worst bin of the floor itself: that of the generated sample would be none of the worst.
    floor = _Bias.of(comparison, "floor", name, profiles) if "floor" in profiles else None
    if floor and (there := [i for i in compared if not math.isnan(floor.pulls[i][1])]):
        bin_number = floor.farthest(there) if limit is None else floor.highest(there)
        content |= {"floor": abs(floor.value[bin_number]), "floor_error": floor.error[bin_number]}
    if "baseline" in profiles:
        content["baseline"] = values["baseline"][worst]
    used = [profiles[role][i] for role in ("generated", "truth") for i in compared]
    single = min(ours.pulls[farthest][1], 1 - 1e-16)
    p_value = -math.expm1(len(judged) * math.log1p(-single)) if judged else None
    converged = all(one.converged for one in used)
    verdict = verdict_within(ours.value[worst], ours.error[worst], limit, content.get("floor", 0.0))
    if limit is not None and not limited:
        verdict, content["warning"] = "info", UNKNOWN_ERROR
    if verdict == "pass" and not converged:
        verdict, content["warning"] = "info", NOT_CONVERGED
    notes = ["the bin that is farthest off" if limit is None else "the bin nearest to the limit"]
    if len(judged) < len(compared):
        notes.append(f"{len(compared) - len(judged)} bins are not judged: no error is known")
    notes += caveats(comparison.measured["generated"], least_mixed(profiles["generated"]))
    if "generated" in comparison.paired:
        notes.append(paired_note(ours.error[worst]))
    return Row(
        name=f"{name}, bin {worst + 1} of {len(truth)}",
        metric="means",
        value=values["generated"][worst],
        error=profiles["generated"][worst].error,
        exact=truth[worst],
        exact_error=profiles["truth"][worst].error,
        exact_source="truth",
        pull=ours.pulls[worst][0],
        # An error that is a lower limit, or weights that give no number, prove nothing.
        p_value=p_value if converged and usable(comparison.measured["generated"]) else None,
        tolerance=limit,
        unit=comparison.unit(name),
        verdict=verdict,
        note="; ".join(notes),
        **content,
    )


@dataclass(frozen=True)
class _Bias:
    """How far the bins of a sample are off those of the truth.

    Attributes:
        value, error: (bins,) differences and their errors.
        pulls: of each bin, with its p-value.
    """

    value: NDArray[float64]
    error: NDArray[float64]
    pulls: list[tuple[float, float]]

    @classmethod
    def of(
        cls, comparison: Comparison, role: Role, name: str, profiles: Mapping[Role, Profile]
    ) -> _Bias:
        pairs = list(zip(profiles[role], profiles["truth"], strict=True))
        value = np.array([ours.value - true.value for ours, true in pairs])
        error = _deviation(comparison, role, name, profiles)
        known = [degrees_of_freedom(*pair) for pair in pairs]
        pulls = [pull(*one) for one in zip(value.tolist(), error.tolist(), known, strict=True)]
        return cls(value, error, pulls)

    def farthest(self, compared: list[int]) -> int:
        """Return the bin that is least probable."""
        return min(compared, key=lambda i: self.pulls[i][1])

    def highest(self, compared: list[int]) -> int:
        """Return the bin of the largest |bias| + 2 sigma."""
        highest = np.nan_to_num(np.abs(self.value) + 2 * self.error, nan=math.inf)
        return max(compared, key=lambda i: highest[i])


def _deviation(
    comparison: Comparison, role: Role, name: str, profiles: Mapping[Role, Profile]
) -> NDArray[float64]:
    """Return (bins,): errors of the differences of a sample's profile to the truth's."""
    truth = comparison.measured["truth"]
    if role not in comparison.paired:
        pairs = zip(profiles[role], profiles["truth"], strict=True)
        return np.array([math.hypot(ours.error, true.error) for ours, true in pairs])
    sides = comparison.measured[role], truth
    columns = zip(*(side.values[name].T for side in sides), strict=True)
    return np.array([paired_error(a[:, None], b[:, None], sides) for a, b in columns])
