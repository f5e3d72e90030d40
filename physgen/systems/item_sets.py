"""Jagged events (the jets of an event, the hits of a track) as sets of items, with a mask.

The system `events` makes a table of them; here an event stays (n_items, F), for surrogates that
know masks. Measured are the number of items and, of every column, its sum, its mean and its largest
value (neither of the latter two where there are no items).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import DomainError, FormatError
from physgen.io.formats import format_of
from physgen.io.hdf5_source import HDF5Source
from physgen.io.npz import NpzSource
from physgen.io.source import Source
from physgen.io.writer import Append, hdf5_writer, npz_writer, root_writer
from physgen.systems.base import Derived
from physgen.systems.event_files import Unrolled
from physgen.systems.events import EventTable


@dataclass(frozen=True, kw_only=True)
class ItemSets:
    """Events of jagged branches of a ROOT file, or of masked arrays that physgen wrote.

    Args:
        path, tree, fields, condition, weight, group, max_items: see `EventTable`.
    """

    path: str | tuple[str, ...] | None = None
    tree: str | None = None
    fields: tuple[str | dict[str, Any], ...] | None = None
    condition: tuple[str | dict[str, Any], ...] | None = None
    weight: str | None = None
    group: tuple[str, ...] | None = None
    max_items: int | None = None

    @cached_property
    def _table(self) -> EventTable:
        return EventTable(**{name: getattr(self, name) for name in self.__dataclass_fields__})

    @cached_property
    def schema(self) -> Schema:
        """(n_items, F), masked; `FormatError` if the columns are flat."""
        table, n_items = self._table, self.max_items
        if n_items is None:
            shape = table.source.schema.shape
            if len(shape) != 2:
                raise self._flat(table.source.name)
            n_items = shape[0]
        shape = n_items, len(table.items)
        return Schema(shape, tuple(table.items), tuple(table.given), masked=True)

    @property
    def derived(self) -> Mapping[str, Derived]:
        """Nothing."""
        return {}

    @property
    def units(self) -> Mapping[str, str]:
        """Unit of every observable that has one."""
        kinds = ("sum of", "mean of", "largest")
        return {f"{kind} {v.name}": v.unit for v in self.schema.variables for kind in kinds}

    def observables(self, batch: Batch) -> dict[str, Tensor]:
        """Return (B,) each: the number of items, and sum, mean and largest value of the columns."""
        mask = _mask_of(batch)
        n = mask.sum(1)
        values = {"number of items": n.double()}
        for column, variable in zip(
            batch.x.double().unbind(-1), self.schema.variables, strict=True
        ):
            total = torch.where(mask, column, 0.0).sum(1)
            largest = torch.where(mask, column, -math.inf).amax(1)
            values[f"sum of {variable.name}"] = total
            values[f"mean of {variable.name}"] = torch.where(n > 0, total / n, math.nan)
            values[f"largest {variable.name}"] = torch.where(n > 0, largest, math.nan)
        return values

    def features(self, batch: Batch, level: Literal["low", "high"]) -> Tensor:
        """Return conditions, and the number of items and all of them, or the observables, (B, F).

        Absent items, and what is not defined, are 0.
        """
        mask = _mask_of(batch)
        if level == "low":
            items = torch.where(mask[..., None], batch.x, 0.0).flatten(1)
            columns = torch.cat([mask.sum(1, keepdim=True).to(items), items], 1)
        else:
            columns = torch.stack(list(self.observables(batch).values()), 1).nan_to_num(0.0)
        given = [] if batch.condition is None else [batch.condition.to(columns)]
        return torch.cat([*given, columns], 1)

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Suffixes of the files that `writer` makes."""
        return (".root", ".h5", ".hdf5", ".npz")

    def open(self, path: Path) -> Source:
        """Open a file of jagged branches, or of `x` and `mask` that physgen wrote.

        Raises:
            FormatError: it is absent or unfit, or its columns are flat.
        """
        kind = format_of(path)
        if kind in ("HDF5", "npz"):
            arrays: Source = NpzSource(path) if kind == "npz" else HDF5Source(path)
            if arrays.read(0, 1).mask is None or arrays.schema.shape != self.schema.shape:
                raise FormatError(
                    f"{path}: samples of shape {arrays.schema.shape}, expected x and mask of up to "
                    f"{self.schema.shape[0]} items of {self.schema.shape[1]} columns, as physgen "
                    "writes them"
                )
            return arrays
        source = self._table.open(path)
        if not isinstance(source, Unrolled):
            raise self._flat(str(path))
        return source.masked

    def writer(
        self, path: Path, n: int, facts: Mapping[str, Any] | None = None
    ) -> AbstractContextManager[Append]:
        """Write events as jagged branches (.root), or as `x` and `mask` (.h5, .npz)."""
        if path.suffix == ".root":
            return root_writer(path, self.schema, tree=self.tree or "events", attributes=facts)
        write = npz_writer if path.suffix == ".npz" else hdf5_writer
        return write(path, schema=self.schema, attributes=facts)

    def _flat(self, file: str) -> FormatError:
        names = ", ".join(item.name for item in self._table.items)
        return FormatError(
            f"{file}: {names} are flat, a number an event; take the system events, or name jagged "
            "branches in data.fields"
        )


def _mask_of(batch: Batch) -> Tensor:
    if batch.mask is None:
        raise DomainError("these samples are sets of items, and their mask is missing")
    return batch.mask
