"""Tables of collision events: named columns with units, of which some may be absent.

A flat file is taken as it is, a branch a column. Jagged branches (the muons of an event, the hits
of a track) become a flat table too: the number of items n, then the columns of item 0, item 1, ...,
those of item k being present if n > k. So an event is always a fixed number of columns, and a rule
on another column says which of them mean anything (`Variable.present`).

**Weights.** Simulated events carry weights w_i whose sum is the expected yield. A surrogate learns
the weighted distribution, so that its events are equally probable, and each of n generated ones
carries the weight sum(w) / n: the sum of weights of a generated file is that of the file learned
from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from physgen.batch import Batch, Schema, Variable
from physgen.columns import branches
from physgen.errors import FormatError, RecipeError
from physgen.io.cards import read_card
from physgen.io.joined import expand
from physgen.io.source import Source, blocks
from physgen.io.writer import Append, hdf5_writer, npz_writer
from physgen.systems import event_columns
from physgen.systems.base import Derived
from physgen.systems.event_files import (
    CARD_KEYS,
    EventCard,
    Named,
    branch_writer,
    columns_to_choose,
    located,
    of_other_file,
    open_columns,
)
from physgen.systems.presence import presence_rules
from physgen.systems.unrolled import Unrolled, n_beside, rolled, rolled_schema, unrolled

_WEIGHTS = "generated events weigh sum(w) / n each, so that the sum of weights is the data's"


@dataclass(frozen=True, kw_only=True)
class EventTable:
    """Events of a ROOT, Parquet, Arrow, HDF5 or npz file.

    Args:
        path: of the file, a pattern (part_*.root), or a list of files of one layout; or of a data
            set card (YAML, also one that physgen ships, by its name), whose section `read` holds
            path, tree, fields, condition, weight and group; or `skhep-testdata:NAME`, a file of
            the package scikit-hep-testdata.
        tree: of a ROOT file; `None` takes the only one.
        fields: columns, each a name or a mapping {name, unit, domain, dtype, low, high, present},
            of which all but the name may be left out (see `Variable`). Flat ones that stand beside
            jagged ones (the missing momentum of an event and its jets) come first. A column that is
            called like an azimuth (phi, jet1_phi) and lies in [-pi, pi] or [0, 2 pi] is an angle,
            unless its domain or range is said.
        condition: flat columns that events are generated for, described as fields are.
        weight: column of event weights.
        group: columns that together identify an event; rows of one stay together in a split.
        max_items: how many items of a jagged event are kept; `None` keeps all.
        paired: further conditions, which the file described does not hold: they are columns of
            generated files, and come from another file in training (`physgen.io.paired`).

    Raises:
        RecipeError: a field cannot be understood.
        FormatError: the file, or what is named in it, is absent or unfit.

    >>> import tempfile
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/events.npz", pt=np.array([20.0, 35.0]), phi=np.array([0.1, -3.0]))
    ...     table = EventTable(path=f"{folder}/events.npz", fields=("pt", "phi"))
    ...     [variable.domain for variable in table.schema.variables], len(table.source)
    (['real', 'angle'], 2)
    """

    file_keys: ClassVar[frozenset[str]] = frozenset(CARD_KEYS)

    path: str | tuple[str, ...] | None = None
    tree: str | None = None
    fields: tuple[str | dict[str, Any], ...] | None = None
    condition: tuple[str | dict[str, Any], ...] | None = None
    weight: str | None = None
    group: tuple[str, ...] | None = None
    max_items: int | None = None
    paired: tuple[Variable, ...] = ()

    @cached_property
    def schema(self) -> Schema:
        """The table: one variable a column, and the conditions."""
        items, given = self.items, tuple(self.given)
        # Described in full, flat columns need no file: the surrogate can be used without it.
        if self._is_described:
            return Schema((len(items),), tuple(items), given)
        shape, n_flat = self.source.schema.shape, n_beside(self.source, self._columns)
        if len(shape) == 2:
            return unrolled(items[n_flat:], shape[0], given, items[:n_flat])
        if shape != (len(items),):  # Jagged events that were written as a table, and are one.
            return dataclasses.replace(self.source.schema, condition=given)
        return Schema(shape, tuple(items), given)

    @property
    def derived(self) -> Mapping[str, Derived]:
        """Nothing: observables of tables are columns."""
        return {}

    @property
    def units(self) -> Mapping[str, str]:
        """Unit of every column."""
        every = (*self.schema.variables, *self.schema.condition)
        return {variable.name: variable.unit for variable in every}

    def observables(self, batch: Batch) -> dict[str, Tensor]:
        """Return the columns, (B,), NaN where absent."""
        columns = batch.x.unbind(-1)
        rules = presence_rules(self.schema)
        return {
            name: column if rule is None else torch.where(rule(columns), column, torch.nan)
            for name, column, rule in zip(self.schema.names, columns, rules, strict=True)
        }

    def features(self, batch: Batch, level: Literal["low", "high"]) -> Tensor:
        """Return conditions if given, columns, 0 where absent ("low"), ratios and differences.

        "high" appends, for every two of them of the same unit that are real numbers, their
        difference (of angles the shorter way round), or the logarithm of their ratio if neither is
        ever negative.
        """
        rules = presence_rules(self.schema)
        raw = batch.x.unbind(-1)
        columns = [
            column if rule is None else torch.where(rule(raw), column, torch.zeros_like(column))
            for column, rule in zip(raw, rules, strict=True)
        ]
        every = self.schema.variables
        if self.schema.condition and batch.condition is not None:
            every = (*self.schema.condition, *every)
            columns = [*batch.condition.unbind(-1), *columns]
            dtype = torch.promote_types(batch.x.dtype, batch.condition.dtype)
            columns = [column.to(batch.x.device, dtype) for column in columns]
        if level == "high":
            columns += event_columns.comparisons(every, columns)
        return torch.stack(columns, -1)

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Suffixes of the files that `writer` makes."""
        return (".root", ".parquet", ".h5", ".hdf5", ".npz")

    def open(self, path: Path) -> Source:
        """Open a file with the columns of this table."""
        if path.suffix in (".yaml", ".yml"):
            source = dataclasses.replace(self, path=str(path)).source
        else:
            # Generated files need not have event numbers; others do, as the files described.
            card, file = self.card, located(str(path))
            known = [] if card["path"] is None else _files(card["path"])
            group, tree = tuple(card["group"] or ()), card["tree"]
            if file not in known:
                where = None if self.fields else str(self.path)
                tree, group = of_other_file(file, tree, group, self._columns, where)
            names = tuple(variable.name for variable in self.paired)
            source = self._open([file], group, self._most, names, tree=tree)
        self._check_units(source)
        return Unrolled(source, n_beside(source, self._columns)) if source.schema.masked else source

    @property
    def _most(self) -> int | None:
        """How many items an event has, in every file: as in the ones described."""
        if self.max_items is not None or self.card["path"] is None or self._is_described:
            return self.max_items
        shape = self.source.schema.shape
        return shape[0] if len(shape) == 2 else None

    def _check_units(self, source: Source) -> None:
        described = self._columns | self._conditions
        stated = {name: options.get("unit") for name, options in described.items()}
        stated |= {variable.name: variable.unit for variable in self.paired}
        for variable in (*source.schema.variables, *source.schema.condition):
            unit = stated.get(variable.name)
            if unit is not None and variable.unit not in ("1", unit):
                key = "fields" if variable.name in self._columns else "condition"
                raise FormatError(
                    f"{source.name}: {variable.name!r} is in {variable.unit}, and data.{key} says "
                    f"{unit}; convert the file, or correct the recipe"
                )

    @contextmanager
    def writer(
        self, path: Path, n: int, facts: Mapping[str, Any] | None = None
    ) -> Iterator[Append]:
        """Write `n` events with the names and types they were read with: see `suffixes`.

        Jagged events are jagged again in ROOT and Parquet. HDF5 and npz have an array a column,
        whose unit HDF5 keeps. Events without weights get equal ones, see `weigh`, if the table has
        a weight column.
        """
        schema, card = self.schema, self.card
        n_jagged, n_flat = 0, 0
        if path.suffix in (".root", ".parquet"):
            if schema.names != tuple(self._columns):
                n_flat = n_beside(self.source, self._columns)
                n_jagged = len(self.items) - n_flat
            items = self.items[n_flat:]
            written = rolled_schema(schema, items, n_flat) if n_jagged else schema
            opened = branch_writer(path, written, card["tree"], card["weight"], facts)
        elif path.suffix in (".h5", ".hdf5"):
            stated = {**(facts or {}), **({"weights": _WEIGHTS} if card["weight"] else {})}
            opened = hdf5_writer(
                path, self._layout, schema=schema, attributes=stated, units=self.units
            )
        elif path.suffix == ".npz":
            opened = npz_writer(path, self._layout, schema=schema, attributes=facts)
        else:
            raise FormatError(f"{path}: event tables are written as {', '.join(self.suffixes)}")
        with opened as put:

            def append(batch: Batch) -> None:
                batch = self.weigh(batch, n)
                put(rolled(batch, n_jagged, n_flat) if n_jagged else batch)

            yield append

    def _layout(self, batch: Batch) -> dict[str, Any]:
        return branches(batch, self.schema, self.card["weight"] or "weight")

    def weigh(self, batch: Batch, total: int) -> Batch:
        """Give generated events the weight sum(w) / total, `total` being how many are generated.

        Events that have weights, and those of tables without a weight column, stay as they are.
        """
        if batch.weight is not None or not self.card.get("weight"):
            return batch
        written = self.source.read(0, 1).weight
        kind = torch.float64 if written is None else written.dtype
        weight = torch.full((len(batch),), self.sum_of_weights / max(total, 1), dtype=kind)
        return batch.replace(weight=weight.to(batch.x.device))

    @cached_property
    def sum_of_weights(self) -> float:
        """Of the file, all rows of it; its number of rows if it has no weights."""
        total = 0.0
        for batch in blocks(self.source):
            rows = torch.ones(len(batch)) if batch.weight is None else batch.weight
            total += float(rows.double().sum())
        return total

    @cached_property
    def card(self) -> dict[str, Any]:
        """What is given here, else what the card says: path, tree, fields and the others."""
        given = {key: getattr(self, key) for key in CARD_KEYS}
        if isinstance(self.path, str) and Path(self.path).suffix in (".yaml", ".yml"):
            card = read_card(Path(self.path), EventCard).model_dump()
            given = {key: given[key] or card[key] for key in CARD_KEYS} | {"path": card["path"]}
        if not given["fields"]:
            paths = _files(given["path"])
            known = columns_to_choose(paths[0], given["tree"]) if paths else ""
            raise RecipeError(f"system events: name the columns of the table in data.fields{known}")
        return given

    @cached_property
    def _columns(self) -> dict[str, dict[str, Any]]:
        """Options of every column by its name."""
        return event_columns.checked(self.card["fields"], self._where("fields"))

    @cached_property
    def _conditions(self) -> dict[str, dict[str, Any]]:
        """Options of every condition by its name."""
        where = self._where("condition")
        conditions = event_columns.checked(self.card["condition"] or (), where)
        for name, options in conditions.items():
            if name in self._columns:
                raise RecipeError(f"{where}: {name} is one of the fields too; leave it out of one")
            if options.get("present") is not None:
                raise RecipeError(f"{where}: {name} is always present; leave `present` out")
        return conditions

    @property
    def _is_described(self) -> bool:
        """Whether all columns are described in full, so that no file has to be looked at."""
        every = (*self._columns.values(), *self._conditions.values())
        return all("dtype" in options for options in every)

    def _where(self, key: Literal["fields", "condition"]) -> str:
        """Where the columns are named."""
        return f"data.{key}" if getattr(self, key) else f"{self.path}: read.{key}"

    @cached_property
    def items(self) -> list[Variable]:
        """The columns of the file, or of an item: what is said of them here, else by the file.

        Flat ones beside jagged ones come first.
        """
        if self._is_described:
            return event_columns.all_described(self._columns, (), self._where("fields"))
        known = (*self.source.schema.condition, *self.source.schema.variables)
        n_flat = n_beside(self.source, self._columns)
        columns = dict(
            sorted(self._columns.items(), key=lambda c: c[0] in self.source.schema.names)
        )
        items = event_columns.all_described(columns, known, self._where("fields"))
        own = {"domain", "low", "high", "present"}
        undecided = {name for name, options in self._columns.items() if not own & set(options)}
        return event_columns.with_azimuths(items, undecided, self.source, n_flat)

    @cached_property
    def given(self) -> list[Variable]:
        """The conditions, likewise."""
        known = () if self._is_described else self.source.schema.condition
        own = event_columns.all_described(self._conditions, known, self._where("condition"))
        return [*own, *self.paired]

    @cached_property
    def source(self) -> Source:
        """The file, in its own shape."""
        card = self.card
        if card["path"] is None:
            raise RecipeError("system events: say which file to read in data.path")
        group = tuple(card["group"] or ())
        return self._open(_files(card["path"]), group, self.max_items, tree=card["tree"])

    def _open(
        self,
        paths: Sequence[Path],
        group: tuple[str, ...],
        most: int | None,
        paired: tuple[str, ...] = (),
        *,
        tree: str | None,
    ) -> Source:
        """Open files with the columns of this table, and further conditions."""
        card = self.card
        named = Named(tuple(self._columns), (*self._conditions, *paired), card["weight"], group)
        return open_columns(paths, named, tree=tree, max_items=most)


def _files(path: str | Sequence[str]) -> list[Path]:
    """Return the files that `data.path` stands for."""
    given = [path] if isinstance(path, str) else list(path)
    return [file for one in given for file in expand(located(one))]
