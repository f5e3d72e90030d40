"""Anyone's Markov chain: autocorrelation times, errors, and observables beside what is known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from physgen.batch import Batch
from physgen.errors import InputError
from physgen.systems.base import System
from physgen.validation.comparison import Comparison, measure_parts
from physgen.validation.estimates import estimate
from physgen.validation.gaps import with_gaps
from physgen.validation.judging import judge_family, refuse_unreliable
from physgen.validation.means import Means
from physgen.validation.mixing import disagrees
from physgen.validation.scorecard import Curve, Row, Scorecard

_POINTS = 200


MOST_VALUES = 2**24
"""Numbers of a chain that are kept to be drawn; of the rest there are the observables."""


def analyse(
    system: System,
    parts: Iterable[Batch],
    n: int,
    *,
    provenance: Mapping[str, Any] | None = None,
    times: NDArray[np.int64] | None = None,
    fewest: int = 2,
) -> tuple[Comparison, Scorecard]:
    """Return what was measured; means with Gamma-method errors, and tau_int of each of them.

    Samples without `chain` are taken as one chain in the order they come, which is what a file of
    configurations is. Where values are known, the chain is tested against them (it claims to be
    exact), all together by Holm's correction.

    Args:
        system: measures the samples.
        parts: the samples in their order; no more than one part is held, and `MOST_VALUES`.
        n: how many samples they are in all.
        provenance: where they come from.
        times: (n,) steps since the beginning of the chain of each, where some are missing; `None`
            where they follow one another.
        fewest: samples there must be; of one alone no error can be known.

    Raises:
        InputError: there are fewer samples than that.
    """
    if n < fewest:
        raise InputError(f"samples in the chain: {n}; a mean with an error needs two or more")
    first_batches: list[Batch] = []
    measured = measure_parts(system, _labelled(parts, first_batches), n)
    if times is not None:
        measured = with_gaps(measured, times)
    beginning = Batch.concatenate(first_batches)
    comparison = Comparison(system=system, generated=beginning, series=measured, corrected=True)
    means = refuse_unreliable(judge_family(Means().rows(comparison)))
    means = _ask_for_parameters(system, means)
    if n == 1:  # A function of means, such as a variance, needs several.
        means = [row for row in means if row.name not in system.derived]
    known = measured.scalars.keys() | system.derived.keys()
    lasting = [
        _time(comparison, row)
        for row in means
        if row.value is not None and row.name in known and n > 1
    ]
    about = {"samples": n, "chains": len(np.unique(np.asarray(measured.chain)))}
    card = Scorecard(rows=(*means, *lasting), provenance={**(provenance or {}), **about})
    return comparison, card


def _ask_for_parameters(system: System, rows: list[Row]) -> list[Row]:
    """Return the rows, of which the farthest that failed asks for the parameters of the samples.

    Chains that do not mix are reason enough.
    """
    failed = [row for row in rows if row.verdict == "fail"]
    if not failed or any(row.metric == "mixing" for row in failed):
        return rows
    worst = max(failed, key=lambda row: row.departure)
    warning = f"far from its value for {system}: were the samples made with these parameters?"
    asking = worst.model_copy(update={"warning": warning})
    return [asking if row is worst else row for row in rows]


def _labelled(parts: Iterable[Batch], first_batches: list[Batch]) -> Iterator[Batch]:
    """Yield the parts, in one chain if they have no labels; `kept` gets the first samples."""
    budget = MOST_VALUES
    for part in parts:
        if part.chain is None:
            part = part.replace(chain=torch.zeros(len(part), dtype=torch.long))
        rows = max(budget // max(1, part.x[:1].numel()), 0 if first_batches else 1)
        if rows > 0:
            first_batches.append(part[:rows])
            budget -= part.x.numel()
        yield part


def _time(comparison: Comparison, row: Row) -> Row:
    mean = estimate(comparison, comparison.measured["generated"], row.name)
    rho = mean.correlation[:_POINTS]
    curves: dict[str, Curve] = {}
    if rho:
        curves["autocorrelation"] = (tuple(float(t) for t in range(len(rho))), rho)
    note = f"summed up to {mean.window} steps"
    if disagrees(mean):
        note += "; the chains do not mix"
    elif not mean.converged:
        note += "; the chains are too short to be sure"
    return Row(
        name=f"tau_int {row.name}",
        metric="autocorrelation",
        value=mean.tau_int,
        error=mean.tau_int_error or None,
        note=note,
        curves=curves,
    )
