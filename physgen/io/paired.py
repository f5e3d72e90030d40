"""Rows of one source, with those of another as their conditions: pairs of events.

A fast and a full simulation of the same collisions are two files whose rows belong together: by
their order, or by columns that identify an event.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from physgen.batch import Batch, Schema, Variable
from physgen.errors import FormatError, InputError
from physgen.io.source import HasNotes, Source, blocks, digest_of


class Paired:
    """Rows of a source, with the values of their partners among the conditions.

    If both sources have keys, rows of the same key are pairs: rows without a partner are left out,
    and the values of all partners are held in memory. Else row i belongs to row i.

    Args:
        source: of the rows.
        partner: of their partners, whose columns are flat.
        variables: what the partner's columns are called as conditions.

    Attributes:
        schema: of the source, with the conditions.

    Raises:
        FormatError: one source has keys and the other has none, a key is there twice, none is in
            both, or sources without keys are of different lengths.

    >>> from physgen.io.source import ArraySource
    >>> fast = ArraySource(Batch(torch.tensor([[1.0], [2.0]])), Schema((1,), (Variable("pt"),)))
    >>> full = ArraySource(Batch(torch.tensor([[1.1], [2.3]])), Schema((1,), (Variable("pt"),)))
    >>> pairs = Paired(full, fast, [Variable("fast_pt")])
    >>> pairs.read(1, 2).x, pairs.read(1, 2).condition
    (tensor([[2.3000]]), tensor([[2.]]))
    """

    def __init__(self, source: Source, partner: Source, variables: Sequence[Variable]) -> None:
        self._source, self._partner = source, partner
        self.name, self.block = source.name, source.block
        given = (*source.schema.condition, *variables)
        self.schema: Schema = replace(source.schema, condition=given)
        self._rows: NDArray[np.int64] | None = None
        self._values: torch.Tensor | None = None
        keys, others = source.keys(), partner.keys()
        if (keys is None) != (others is None):
            one, other = (partner, source) if keys is None else (source, partner)
            raise FormatError(
                f"{one.name} has `group` columns and {other.name} has none: name those that "
                "identify an event in both sections, or in none to pair row by row"
            )
        if keys is not None and others is not None:
            self._rows, partners = _matched(keys, others, source.name, partner.name)
            values = torch.cat([_flat(batch, partner) for batch in blocks(partner)])
            self._values = values[torch.from_numpy(partners)]
        elif len(source) != len(partner):
            raise FormatError(
                f"{source.name} has {len(source)} rows and {partner.name} {len(partner)}: rows can "
                "only be paired one by one if there are as many; name the columns that identify an "
                "event in `group` of both sections"
            )

    def __len__(self) -> int:
        return len(self._source) if self._rows is None else len(self._rows)

    def read(self, start: int, stop: int) -> Batch:
        """Return rows [start, stop) that have a partner, with `condition`."""
        if self._rows is None or self._values is None:
            batch = self._source.read(start, stop)
            partners = _flat(self._partner.read(start, stop), self._partner)
        else:
            rows, partners = self._rows[start:stop], self._values[start:stop]
            first = int(rows[0]) if len(rows) else 0
            batch = self._source.read(first, int(rows[-1]) + 1 if len(rows) else 0)
            batch = batch[torch.from_numpy(rows - first)]
        if batch.condition is None:
            return batch.replace(condition=partners)
        kind = torch.promote_types(batch.condition.dtype, partners.dtype)
        given = torch.cat([batch.condition.to(kind), partners.to(kind)], 1)
        return batch.replace(condition=given)

    def digest(self) -> str:
        """Return the SHA-256 of samples and conditions."""
        return digest_of(blocks(self))

    def keys(self) -> NDArray[np.int64] | None:
        """Return the group keys of the rows that have a partner."""
        keys = self._source.keys()
        return keys if keys is None or self._rows is None else keys[self._rows]

    def notes(self) -> list[str]:
        """Return what the readers have to say, and how many rows have no partner."""
        sources = (self._source, self._partner)
        notes = [note for one in sources if isinstance(one, HasNotes) for note in one.notes()]
        for one in sources:
            if len(one) > len(self):
                notes.append(
                    f"{one.name}: {len(one) - len(self)} of {len(one)} rows have no partner, and "
                    "are left out"
                )
        return notes


def _flat(batch: Batch, partner: Source) -> torch.Tensor:
    """Return (n, C) values of the partners of rows."""
    if batch.mask is not None:
        raise InputError(f"{partner.name}: events with masks are no conditions; take flat columns")
    return batch.x.flatten(1)


def _matched(
    keys: NDArray[np.int64], others: NDArray[np.int64], name: str, other_name: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows of a source that have a partner, ascending, and the rows of the partners."""
    for these, where in ((keys, name), (others, other_name)):
        values, counts = np.unique(these, return_counts=True)
        if len(values) < len(these):
            rows = np.flatnonzero(these == values[counts.argmax()])
            raise FormatError(
                f"{where}: rows {rows[0]} and {rows[1]} have the same `group` columns, so that "
                "nobody can say which is whose partner; name columns that identify a row"
            )
    order = np.argsort(others)
    place = np.searchsorted(others, keys, sorter=order).clip(max=len(others) - 1)
    partners = order[place]
    rows = np.flatnonzero(others[partners] == keys)
    if len(rows) == 0:
        raise FormatError(
            f"{name} and {other_name} have no row in common by their `group` columns; name the "
            "same ones in both sections, in the same order"
        )
    return rows, partners[rows]
