"""Jagged events as rows of a flat table: the number of items, then the columns of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from physgen.batch import Batch, Schema, Variable
from physgen.errors import FormatError, RecipeError
from physgen.io.source import HasNotes, Source, blocks, digest_of


class Unrolled:
    """A source of jagged events (items, columns), seen as a flat table.

    Args:
        masked: the source; its first conditions may be columns of the table.
        n_flat: how many of them are.

    Attributes:
        masked: the source itself.
        schema: made by `unrolled`.

    Raises:
        FormatError: there are events, and all of them are empty.
    """

    def __init__(self, masked: Source, n_flat: int = 0) -> None:
        self.masked, self._n_flat = masked, n_flat
        self.name, self.block = masked.name, masked.block
        given, most = masked.schema.condition, masked.schema.shape[0]
        if len(masked) and not most:
            raise FormatError(
                f"{self.name}: all {len(masked)} events are empty: none has an item of "
                f"{', '.join(masked.schema.names)}; name other branches, or a file with items"
            )
        self.schema = unrolled(masked.schema.variables, most, given[n_flat:], given[:n_flat])

    def __len__(self) -> int:
        return len(self.masked)

    def read(self, start: int, stop: int) -> Batch:
        """Return rows [start, stop)."""
        batch = self.masked.read(start, stop)
        if batch.mask is None:
            raise FormatError(f"{self.name}: events of shape {tuple(batch.x.shape)} have no mask")
        counts = batch.mask.sum(1, keepdim=True).to(batch.x.dtype)
        columns, given = [counts, batch.x.flatten(1)], batch.condition
        if given is not None and self._n_flat:
            columns = [given[:, : self._n_flat], *columns]
            given = given[:, self._n_flat :] if given.shape[1] > self._n_flat else None
        return batch.replace(x=torch.cat(columns, 1), condition=given, mask=None)

    def digest(self) -> str:
        """Return the SHA-256 of the samples."""
        return digest_of(blocks(self))

    def keys(self) -> NDArray[np.int64] | None:
        """Return the group keys of the file."""
        return self.masked.keys()

    def notes(self) -> list[str]:
        """Return what the file's reader has to say."""
        return self.masked.notes() if isinstance(self.masked, HasNotes) else []


def n_beside(source: Source, columns: Iterable[str]) -> int:
    """Return how many of some columns are flat beside jagged ones: the first conditions."""
    if not source.schema.masked:
        return 0
    return sum(name not in source.schema.names for name in columns)


def unrolled(
    items: Sequence[Variable],
    most: int,
    condition: tuple[Variable, ...] = (),
    flat: Sequence[Variable] = (),
) -> Schema:
    """Return the table of flat columns, the number of items (up to `most`), and those of each.

    Raises:
        RecipeError: a flat column is that number, which the table has anyway.
    """
    prefixes = {item.name.partition("_")[0] for item in items}
    count = f"n{prefixes.pop()}" if len(prefixes) == 1 else "n_items"
    if count in {variable.name for variable in flat}:
        raise RecipeError(
            f"data.fields: {count} is the number of items of the jagged columns, and a column of "
            "the table without being named; leave it out"
        )
    variables = [*flat, Variable(count, domain="integer", dtype="int32", low=0, high=most)]
    for k in range(most):
        for item in items:
            name, rule = f"{item.name}[{k}]", f"{count} > {k}"
            variables.append(Variable(**{**vars(item), "name": name, "present": rule}))
    return Schema((len(variables),), tuple(variables), condition)


def rolled_schema(table: Schema, items: Sequence[Variable], n_flat: int = 0) -> Schema:
    """Return the masked events (items, columns) that an unrolled table was made of.

    Its flat columns are conditions again.
    """
    shape = (table.shape[0] - 1 - n_flat) // len(items), len(items)
    condition = (*table.variables[:n_flat], *table.condition)
    return Schema(shape, tuple(items), condition, masked=True)


def rolled(batch: Batch, n_columns: int, n_flat: int = 0) -> Batch:
    """Turn rows of an unrolled table back into masked events of `n_columns` columns an item."""
    counts = batch.x[:, n_flat : n_flat + 1]
    x = batch.x[:, n_flat + 1 :].reshape(len(batch), -1, n_columns)
    condition = batch.condition
    if n_flat:
        given = [] if condition is None else [condition]
        condition = torch.cat([batch.x[:, :n_flat], *given], 1)
    mask = torch.arange(x.shape[1], device=x.device) < counts
    return batch.replace(x=x, condition=condition, mask=mask)
