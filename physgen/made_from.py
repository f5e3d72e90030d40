"""Samples that are made from other samples, which are not paired with them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from physgen.batch import Batch
from physgen.io.stream import Stream
from physgen.run import Run
from physgen.run_data import RunData
from physgen.validation.comparison import Role
from physgen.validation.sources import SEED


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
    if len(known) < 2 and len(run.origin.source) == len(run.data.source):
        return (
            f"{names} have as many rows, {len(run.data.source)}: if these are the same events, "
            f"{remedy}; if not, name their `group` columns"
        )
    return ""
