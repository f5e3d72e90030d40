"""Anyone's Markov chain: autocorrelation times, errors, and observables beside what is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from physgen.batch import Batch
from physgen.errors import InputError
from physgen.systems.base import System
from physgen.validation.comparison import Comparison
from physgen.validation.means import Means, estimate
from physgen.validation.mixing import disagrees
from physgen.validation.scorecard import Curve, Row, Scorecard, judge_family

_POINTS = 200


def analyse(
    system: System, batch: Batch, *, provenance: Mapping[str, Any] | None = None
) -> tuple[Comparison, Scorecard]:
    """Return what was measured; means with Gamma-method errors, and tau_int of each of them.

    Samples without `chain` are taken as one chain in the order they come, which is what a file of
    configurations is. Where values are known, the chain is tested against them (it claims to be
    exact), all together by Holm's correction.

    Raises:
        InputError: there are fewer than two samples, of which no error can be known.
    """
    if len(batch) < 2:
        raise InputError(
            f"samples in the chain: {len(batch)}; a mean with an error needs two or more"
        )
    chain = torch.zeros(len(batch), dtype=torch.long) if batch.chain is None else batch.chain
    batch = batch.replace(chain=chain)
    comparison = Comparison(system=system, generated=batch, corrected=True)
    means = judge_family(Means().rows(comparison))
    known = comparison.measured["generated"].scalars.keys() | system.derived.keys()
    times = [_time(comparison, row) for row in means if row.value is not None and row.name in known]
    about = {"samples": len(batch), "chains": len(set(chain.tolist()))}
    card = Scorecard(rows=(*means, *times), provenance={**(provenance or {}), **about})
    return comparison, card


def _time(comparison: Comparison, row: Row) -> Row:
    found = estimate(comparison, comparison.measured["generated"], row.name)
    rho = found.correlation[:_POINTS]
    curves: dict[str, Curve] = {}
    if rho:
        curves["autocorrelation"] = (tuple(float(t) for t in range(len(rho))), rho)
    note = f"summed up to {found.window} steps"
    if disagrees(found):
        note += "; the chains do not mix"
    elif not found.converged:
        note += "; the chains are too short to be sure"
    return Row(
        name=f"tau_int {row.name}",
        metric="autocorrelation",
        value=found.tau_int,
        error=found.tau_int_error or None,
        note=note,
        curves=curves,
    )
