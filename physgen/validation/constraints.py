"""What all true samples obey, and how many generated ones do not.

Relations are found in the floor sample: an observable that is never negative, one that is never
below another of its unit (leading and subleading momenta), and energies that are never below their
momenta, E >= |p|, for observables named alike (E1, px1, py1, pz1). The truth, in which they were
not looked for, says how often they are broken by chance.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from physgen.systems.base import HasUnits
from physgen.validation.comparison import Comparison
from physgen.validation.scorecard import Row

Columns = Mapping[str, NDArray[float64]]
Rule = Callable[[Columns], NDArray[np.bool_]]
"""Whether each row breaks a relation; what is not defined (NaN) breaks none."""

ROUNDING = 1e-5
"""Relative amount by which single precision may break a relation."""
SHOWN = 3
"""So many broken relations are named."""
MOST = 64
"""Of so many observables, pairs are looked at."""


class Constraints:
    """Share of samples that break what all true ones obey; more than chance is a warning.

    >>> import torch
    >>> from physgen.batch import Batch
    >>> from physgen.systems.scalar import Phi4
    >>> x = torch.randn(3, 500, 4, generator=torch.Generator().manual_seed(0))
    >>> samples = Comparison(Phi4(shape=(4,)), *map(Batch, x))
    >>> Constraints().rows(samples)[0].value
    0.0
    """

    def rows(self, comparison: Comparison) -> list[Row]:
        """Return one row, or none where there is no truth, or nothing to obey."""
        measured = comparison.measured
        if "truth" not in measured or "floor" not in measured:
            return []
        units = comparison.system.units if isinstance(comparison.system, HasUnits) else {}
        known = measured["floor"].scalars
        rules = {
            relation: broken
            for relation, broken in _candidates(known, units)
            if not broken(known).any()
        }
        if not rules:
            return []
        shares, worst = {}, ""
        for role in ("generated", "truth"):
            columns = measured[role].scalars
            violations = {relation: broken(columns) for relation, broken in rules.items()}
            shares[role] = float(np.any(list(violations.values()), axis=0).mean())
            if role == "generated":
                counts = sorted(((v.mean(), name) for name, v in violations.items()), reverse=True)
                worst = ", ".join(f"{name} ({p:.2%})" for p, name in counts[:SHOWN] if p)
        n = len(next(iter(known.values())))
        error, chance = (math.sqrt((p * (1 - p) + 1 / n) / n) for p in shares.values())
        off = shares["generated"] - shares["truth"] > 3 * math.hypot(error, chance)
        return [
            Row(
                name="broken constraints",
                metric="constraints",
                value=shares["generated"],
                error=error,
                floor=shares["truth"],
                floor_error=chance,
                note=f"{len(rules)} relations that hold in {n} true samples",
                warning=f"never so in the truth: {worst}; order columns, or bound them"
                if off
                else "",
            )
        ]


def _candidates(columns: Columns, units: Mapping[str, str]) -> Iterator[tuple[str, Rule]]:
    for name, values in columns.items():
        if np.nanmax(values, initial=-np.inf) > 0:
            yield f"{name} < 0", lambda c, name=name: c[name] < 0  # type: ignore[misc]
    for a, b in itertools.permutations(list(columns)[:MOST], 2):
        lowest, highest = (
            np.nanmin(columns[a], initial=np.inf),
            np.nanmax(columns[b], initial=-np.inf),
        )
        # Ranges that do not meet say nothing of the pair.
        if units.get(a, "1") == units.get(b, "1") and highest > lowest:
            yield f"{a} < {b}", _below(a, b)
    for name in columns:
        for x, others in (("px", ("py", "pz", "E")), ("Px", ("Py", "Pz", "E"))):
            names = [name, *(name.replace(x, other, 1) for other in others)]
            if x in name and set(names) <= set(columns):
                yield f"{names[3]} < |p|", _spacelike(names)


def _below(a: str, b: str) -> Rule:
    return lambda c: c[a] < c[b] - ROUNDING * np.abs(c[b])


def _spacelike(names: list[str]) -> Rule:
    def broken(c: Columns) -> NDArray[np.bool_]:
        momentum = np.sqrt(sum(c[name] ** 2 for name in names[:3]))
        spacelike: NDArray[np.bool_] = c[names[3]] < momentum * (1 - ROUNDING)
        return spacelike

    return broken
