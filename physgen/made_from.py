"""Samples that are made from other samples, which are not paired with them."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from physgen.batch import Batch
from physgen.io.source import Source
from physgen.io.stream import Stream
from physgen.run import Run
from physgen.run_data import RunData
from physgen.validation.comparison import Role, varies
from physgen.validation.scorecard import ALARM
from physgen.validation.sources import SEED

COMPARED = 20_000
"""Rows of two files that are compared with each other, one by one."""
FEWEST = 50


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
    if _go_together(run.origin.source, run.data.source):
        return (
            f"rows of {names} go together, one by one: if they are the same events, {remedy}; if "
            "they are only sorted alike, shuffle one"
        )
    return ""


def _go_together(source: Source, target: Source) -> bool:
    """Return whether a column of two sources is correlated row by row, beyond chance."""
    n = min(len(source), len(target), COMPARED)
    if n < FEWEST or source.schema.shape != target.schema.shape:
        return False
    from scipy.stats import spearmanr  # It takes a second to import.

    def correlated(a: Tensor, b: Tensor) -> bool:
        both = torch.isfinite(a) & torch.isfinite(b)
        values = [column[both].double().numpy() for column in (a, b)]
        if len(values[0]) < FEWEST or not all(map(varies, values)):
            return False
        return bool(spearmanr(*values).pvalue < ALARM / source.schema.shape[-1])

    columns = [one.read(0, n).x.flatten(1).unbind(1) for one in (source, target)]
    return any(itertools.starmap(correlated, zip(*columns, strict=True)))
