"""Jagged events (the jets of an event, the hits of a track) as sets of items, with a mask.

The system `events` makes a table of them; here an event stays (n_items, F), for surrogates that
know masks. Measured are the number of items and, of every column, its sum, its mean and its largest
value (neither of the latter two where there are no items).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from physgen.io.joined import joined
from physgen.io.npz import NpzSource
from physgen.io.source import Source
from physgen.io.writer import Append, hdf5_writer, npz_writer
from physgen.systems.event_files import branch_writer
from physgen.systems.events import EventTable
from physgen.systems.unrolled import Unrolled


@dataclass(frozen=True, kw_only=True)
class ItemSets(EventTable):
    """Events of jagged branches of ROOT or Parquet files, or of masked arrays that physgen wrote.

    Args:
        path, tree, fields, condition, weight, group, max_items: see `EventTable`.

    >>> import tempfile
    >>> import awkward, uproot
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with uproot.recreate(f"{folder}/jets.root") as file:
    ...         file["events"] = {"pt": awkward.Array([[30.0], [50.0, 40.0]])}
    ...     system = ItemSets(path=f"{folder}/jets.root", fields=("pt",), max_items=3)
    ...     jets = system.source.read(0, 2)
    >>> system.observables(jets)["number of items"].tolist()
    [1.0, 2.0]
    """

    @cached_property
    def schema(self) -> Schema:
        """(n_items, F), masked; `FormatError` if the columns are flat."""
        n_items = self.max_items
        if n_items is None:
            n_items = _masked(self.source).schema.shape[0]
        return Schema((n_items, len(self.items)), tuple(self.items), tuple(self.given), masked=True)

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

    def open(self, path: Path) -> Source:
        """Open a file of jagged branches, or of `x` and `mask` that physgen wrote.

        Raises:
            FormatError: it is absent or unfit, or its columns are flat.
        """
        source = super().open(path)
        return _masked(source.masked if isinstance(source, Unrolled) else source)

    @contextmanager
    def writer(
        self, path: Path, n: int, facts: Mapping[str, Any] | None = None
    ) -> Iterator[Append]:
        """Write `n` events as jagged branches (.root, .parquet), or as `x` and `mask` (.h5, .npz).

        Events without weights get equal ones, as those of tables do.
        """
        card = self.card
        if path.suffix in (".root", ".parquet"):
            opened = branch_writer(path, self.schema, card["tree"], card["weight"], facts)
        else:
            write = npz_writer if path.suffix == ".npz" else hdf5_writer
            opened = write(path, schema=self.schema, attributes=facts)
        with opened as append:
            yield lambda batch: append(self.weigh(batch, n))

    def _open(
        self,
        paths: Sequence[Path],
        group: tuple[str, ...],
        most: int | None,
        paired: tuple[str, ...] = (),
        *,
        tree: str | None,
    ) -> Source:
        """Open files with the columns of these items, and further conditions."""
        kinds = {format_of(path) for path in paths}
        if not kinds <= {"HDF5", "npz"}:
            source = super()._open(paths, group, most, paired, tree=tree)
            flat = [name for name in self._columns if name not in source.schema.names]
            if flat:
                raise FormatError(
                    f"{source.name}: data.fields mixes flat branches ({', '.join(flat)}) with "
                    "jagged ones; name the flat ones in data.condition, or take the system events"
                )
            return source
        return joined([self._arrays(path, most, paired) for path in paths])

    def _arrays(self, path: Path, most: int | None, paired: tuple[str, ...]) -> Source:
        """Open `x` and `mask` of a file that physgen wrote."""
        conditions = [*self._conditions, *paired]
        source = NpzSource(path) if format_of(path) == "npz" else HDF5Source(path)
        names = [variable.name for variable in source.schema.variables]
        given = [variable.name for variable in source.schema.condition]
        if not source.schema.masked or source.read(0, 1).mask is None:
            raise FormatError(
                f"{path}: sets of items are read from jagged branches of ROOT files, or from `x` "
                "and `mask` as physgen writes them"
            )
        if names != list(self._columns) or given != conditions:
            held = f"items of {', '.join(names)} at {', '.join(given) or 'no conditions'}"
            asked = f"{', '.join(self._columns)} at {', '.join(conditions) or 'none'}"
            raise FormatError(
                f"{path}: {held}, not of {asked}; set data.fields=[{','.join(names)}] and "
                f"data.condition=[{','.join(given)}]"
            )
        n_items = source.schema.shape[0]
        if most not in (None, n_items):
            raise FormatError(f"{path}: {n_items} items an event; set data.max_items={n_items}")
        return source


def _masked(source: Source) -> Source:
    """Return a source of sets of items; `FormatError` if it is one of flat columns."""
    if source.schema.masked:
        return source
    names = ", ".join(variable.name for variable in source.schema.variables)
    raise FormatError(
        f"{source.name}: {names} are flat, a number an event; take the system events, or name "
        "jagged branches in data.fields"
    )


def _mask_of(batch: Batch) -> Tensor:
    if batch.mask is None:
        raise DomainError("these samples are sets of items, and their mask is missing")
    return batch.mask
