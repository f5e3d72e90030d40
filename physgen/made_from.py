"""Samples that are made from other samples, which are not paired with them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from physgen.batch import Batch
from physgen.errors import FormatError
from physgen.io.source import Source, blocks
from physgen.io.stream import Stream
from physgen.run import Run
from physgen.run_data import RunData
from physgen.validation.comparison import Role, varies
from physgen.validation.scorecard import ALARM
from physgen.validation.sources import SEED

COMPARED = 20_000
"""Rows of two files that are compared with each other, one by one."""
FEWEST = 50
ENOUGH = 1000
"""Pairs without any correlation that are no accident."""
EXPECTED = 20.0
"""Events of a class that a sample lacks beyond chance: e^-20 is the probability of none."""


def rows_made_from(origin: RunData, n: int) -> tuple[Batch, dict[Role, NDArray[np.int64]]]:
    """Return `n` rows that generated samples are made from, which training never saw.

    With the numbers of their chains, or those of their groups.
    """
    test = origin.parts.test
    rows = np.sort(np.random.default_rng(SEED).choice(test, min(n, len(test)), replace=False))
    batch = Stream(origin.source, rows, batch_size=1).sample(len(rows))
    if batch.chain is None and origin.chain is not None:
        batch = batch.replace(chain=torch.from_numpy(origin.chain[rows]))
    keys = origin.source.keys()
    if keys is None:
        return batch, {}
    # Of numbers of their own: events of the truth are others.
    return batch, {"generated": -1 - np.unique(keys[rows], return_inverse=True)[1]}


def shared_events(run: Run) -> str:
    """Return what is wrong if samples are made from the very events they are compared with."""
    if run.origin is None or run.data is None:
        return ""
    source, target = run.recipe.inputs
    names = f"data.{source} and data.{target}"
    remedy = (
        "scores take the two for independent, and look better than they are: pair them by "
        "`paired_with`, or take different events"
    )
    keys = [data.source.keys() for data in (run.origin, run.data)]
    known = [key for key in keys if key is not None]
    common = len(np.intersect1d(known[0], known[1])) if len(known) == 2 else 0
    if common:
        return f"{names} have {common} events in common, by their `group` columns: {remedy}"
    if run.origin.section.path == run.data.section.path:
        return f"{names} are the same file: {remedy}"
    if _related(run.origin.source, run.data.source):
        return (
            f"rows of {names} go together, one by one: if they are the same events, {remedy}; if "
            "they are only sorted alike, shuffle one"
        )
    return ""


def check_classes(run: Run) -> None:
    """Refuse two samples of which one lacks a class of the other: nothing can be made into it.

    Classes are the values of binary columns, and of integer ones that state `low` and `high` or
    have at most two values in one of the samples; so rare ones that they may be absent by chance do
    not count.

    Raises:
        FormatError: naming the column, its value, and a row of the sample that has it.
    """
    if run.origin is None or run.data is None:
        return
    one, other = run.origin.source, run.data.source
    for place, variable in enumerate(run.data.system.schema.variables):
        bounded = variable.low is not None and variable.high is not None
        if variable.domain not in ("binary", "integer"):
            continue
        found = [(source, *_classes(source, place)) for source in (one, other)]
        few = min(len(rows) for _, rows, _ in found) <= 2
        if variable.domain == "integer" and not (bounded or few):
            continue
        for (has, rows, counts), (lacks, others, _) in (found, found[::-1]):
            for value in sorted(rows.keys() - others.keys()):
                if counts[value] * len(lacks) < EXPECTED * len(has):
                    continue
                raise FormatError(
                    f"{lacks.name}: no event has {variable.name} = {value:g}, which row "
                    f"{rows[value]} of {has.name} and {counts[value] - 1} others have: events of "
                    "one class are not made from others; take files of the same classes, or leave "
                    "such events out"
                )


def _classes(source: Source, place: int) -> tuple[dict[float, int], Counter[float]]:
    """Return the values of a column, with the first row that has each, and how many have."""
    rows: dict[float, int] = {}
    number: Counter[float] = Counter()
    start = 0
    for batch in blocks(source):
        column = batch.x.flatten(1)[:, place].numpy()
        values, first, counts = np.unique(column, return_index=True, return_counts=True)
        rows = {**dict(zip(values.tolist(), (start + first).tolist(), strict=True)), **rows}
        number.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        start += len(batch)
    return rows, number


def unrelated_pairs(run: Run) -> str:
    """Return what is wrong if rows are paired by their order, and seem to be of other events."""
    if run.data is None or run.data.partner is None or run.data.source.keys() is not None:
        return ""
    full, fast = run.data.source, run.data.partner.source
    common = _columns(full, 1).keys() & _columns(fast, 1).keys()
    if len(full) < ENOUGH or not common or _related(fast, full):
        return ""
    return (
        f"{full.name} and {fast.name} are paired row by row, and none of their columns "
        f"{', '.join(sorted(common))} is correlated with that of its partner: if rows are not in "
        "the same order, name the columns that identify an event in `group` of both sections"
    )


def _related(source: Source, target: Source) -> bool:
    """Return whether columns of the same name are correlated row by row, beyond chance."""
    n = min(len(source), len(target), COMPARED)
    one, other = _columns(source, n), _columns(target, n)
    names = [name for name in one if name in other]
    if n < FEWEST or not names:
        return False
    from scipy.stats import spearmanr  # It takes a second to import.

    def correlated(a: Tensor, b: Tensor) -> bool:
        both = torch.isfinite(a) & torch.isfinite(b)
        values = [column[both].double().numpy() for column in (a, b)]
        if len(values[0]) < FEWEST or not all(map(varies, values)):
            return False
        return bool(spearmanr(*values).pvalue < ALARM / len(names))

    return any(correlated(one[name], other[name]) for name in names)


def _columns(source: Source, n: int) -> dict[str, Tensor]:
    """Return the columns of the first rows by their names, or their numbers if they have none."""
    columns = source.read(0, n).x.flatten(1).unbind(1)
    names = source.schema.names
    if len(names) != len(columns):
        names = tuple(map(str, range(len(columns))))
    return dict(zip(names, columns, strict=True))
