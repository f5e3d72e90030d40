"""Files of event tables: where they are, how their columns are read, and branches written.

Columns of HDF5 and npz files are datasets of their own, or those of the table that physgen wrote.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from physgen.batch import Batch, Schema, Variable, fit_single
from physgen.errors import FormatError, suggest
from physgen.io.arrays import names_in, stored_schema
from physgen.io.branches import BranchSource, open_branches
from physgen.io.cards import Card, Columns, Names
from physgen.io.formats import TABLES, Format, format_of
from physgen.io.hdf5_source import HDF5Source
from physgen.io.joined import joined
from physgen.io.npz import NpzSource
from physgen.io.parquet import Table
from physgen.io.parquet_writer import parquet_writer
from physgen.io.source import Source, blocks, digest_of
from physgen.io.trees import Tree
from physgen.io.writer import Append, root_writer
from physgen.systems.simulated_tables import SIMULATED, simulated_file

PACKAGED = "skhep-testdata:"
"""Begins paths of files inside the package scikit-hep-testdata."""


class EventCard(Card):
    """What the section `read` of a data set card of events may say; see `EventTable`."""

    tree: str | None = None
    fields: Columns | None = None
    condition: Columns | None = None
    weight: str | None = None
    group: Names | None = None


CARD_KEYS = tuple(EventCard.model_fields)


def located(path: str) -> Path:
    """Return the path of a file; those of scikit-hep-testdata are found inside the package.

    Those of the built-in simulation are made where they are not there yet.

    Raises:
        FormatError: the package is absent, or holds no such file (near misses are named).
    """
    if path.startswith(SIMULATED):
        return simulated_file(path)
    if not path.startswith(PACKAGED):
        return Path(path)
    name = path.removeprefix(PACKAGED)
    # The package itself would download what it does not hold.
    package = importlib.util.find_spec("skhep_testdata")
    if package is None or package.origin is None:
        raise FormatError(
            f"{path}: the package that holds this file is not installed; "
            "`pip install scikit-hep-testdata==0.3.12` (later versions hold no files)"
        )
    folder = Path(package.origin).parent / "data"
    if not (folder / name).is_file():
        held = [file.name for file in folder.glob("*.root")]
        remedy = suggest(name, held) if held else "; `pip install scikit-hep-testdata==0.3.12`"
        raise FormatError(f"{path}: the installed scikit-hep-testdata holds no such file{remedy}")
    return folder / name


@dataclass(frozen=True)
class Named:
    """What is read of a table.

    Attributes:
        columns: that make a sample.
        condition: those of the conditions.
        weight: that of the event weights.
        group: those that together say which event a row is of.
    """

    columns: Sequence[str]
    condition: tuple[str, ...] = ()
    weight: str | None = None
    group: tuple[str, ...] = ()


def open_columns(
    paths: Sequence[Path], named: Named, *, tree: str | None = None, max_items: int | None = None
) -> Source:
    """Open named columns of files of one layout, in the shape they have there.

    Those of ROOT, Parquet and Arrow files may be mixed, and those of HDF5 and npz files. Flat
    columns that are named beside jagged ones come as the first conditions.

    Raises:
        FormatError: the file, or what is named, is absent or unfit.
    """
    kinds = {path: format_of(path) for path in paths}
    if set(kinds.values()) <= {"ROOT", *TABLES}:
        flat = _flat_beside_jagged(paths[0], tree, named.columns)
        return BranchSource(
            paths,
            tree,
            [name for name in named.columns if name not in flat],
            condition=(*flat, *named.condition),
            weight=named.weight,
            group=named.group,
            max_items=max_items,
        )

    def opened(path: Path, kind: Format) -> Source:
        open_one = _open_array_of(path, kind, named.group)
        return _columns(path, named, open_one)

    return joined([opened(path, kind) for path, kind in kinds.items()])


def _flat_beside_jagged(path: Path, tree: str | None, names: Sequence[str]) -> list[str]:
    """Return those of some columns that are flat if others are jagged, else none."""
    opened = open_branches(path, tree)
    flat = [name for name in names if opened.kind(name)[1] == 0]
    return flat if len(flat) < len(names) else []


def _open_array_of(path: Path, kind: Format, group: tuple[str, ...]) -> Callable[[str], Source]:
    if kind not in ("HDF5", "npz"):
        raise FormatError(
            f"{path}: event tables are read from ROOT, Parquet, Arrow, HDF5 or npz files (the last "
            f"two not together with others); `physgen inspect {path}` says what it is"
        )
    opened = NpzSource if kind == "npz" else HDF5Source
    return lambda name: opened(path, x=name, group=group)


def of_other_file(
    path: Path,
    tree: str | None,
    group: tuple[str, ...],
    columns: Collection[str],
    described_in: str | None,
) -> tuple[str | None, tuple[str, ...]]:
    """Return the tree and the group columns of a file that is not the one described.

    Only ROOT files have trees, and generated files need not have event numbers.

    Args:
        path: of the file.
        tree, group, columns: of the file described.
        described_in: the card that names the columns; `None` if they are said otherwise.

    Raises:
        FormatError: there is a card, and a tree or table has none of its columns.
    """
    kind = format_of(path)
    if kind not in ("ROOT", *TABLES):
        return tree, group if set(group) <= set(names_in(path)) else ()
    tree = None if kind in TABLES else tree
    try:
        names = open_branches(path, tree).names
    except FormatError:
        if not described_in:
            raise
        # A tree of another name is no fault of a file that is none of these.
        names, tree = open_branches(path).names, None
    if described_in and set(columns).isdisjoint(names):
        first = ", ".join(list(columns)[:2])
        raise FormatError(
            f"{path}: has no column that {described_in} describes ({first}, ...); name its own in "
            f"data.fields{columns_to_choose(path, tree)}"
        )
    return tree, group if set(group) <= set(names) else ()


def columns_to_choose(path: Path, tree: str | None) -> str:
    """Return which columns a file has, with an example of how to name some; "" if it is absent.

    Raises:
        FormatError: the file cannot be read, or has several trees to choose from.
    """
    if not path.is_file():
        return ""
    if format_of(path) in ("ROOT", *TABLES):
        opened = open_branches(path, tree)
        names = opened.names
        example = list(itertools.islice(_flat_branches(opened), 2))
    else:
        names = names_in(path)
        example = names[:2]
    return f"{suggest('', names)}; such as 'data.fields=[{','.join(example or names[:1])}]'"


def _flat_branches(tree: Tree | Table) -> Iterator[str]:
    """Yield the branches of one number a row, but for those that say which event it is."""
    keys = tree.event_keys()
    for name in tree.names:
        try:
            _, depth = tree.kind(name)
        except FormatError:
            continue
        if depth == 0 and name not in keys:
            yield name


def branch_writer(
    path: Path,
    schema: Schema,
    tree: str | None,
    weight: str | None,
    facts: Mapping[str, Any] | None,
) -> AbstractContextManager[Append]:
    """Write events as branches of a ROOT tree, or columns of a Parquet table, by the suffix."""
    weight = weight or "weight"
    if path.suffix == ".parquet":
        return parquet_writer(path, schema, weight=weight, attributes=facts)
    return root_writer(path, schema, tree=tree or "events", weight=weight, attributes=facts)


class _Table:
    """Columns of several sources side by side; the first one knows the groups.

    Args:
        parts: a source and the number of its column, for each column of the table.
        names: of the columns.
        companions: sources of what belongs to a row, by its name in `Batch`.
        conditions: sources of the conditions, by their names.
    """

    def __init__(
        self,
        parts: Sequence[tuple[Source, int]],
        names: Sequence[str],
        companions: Mapping[str, Source],
        conditions: Mapping[str, Source],
    ) -> None:
        self._parts, self._companions, self.name = parts, companions, parts[0][0].name
        self._conditions = conditions
        self.block = min(source.block for source, _ in parts)
        columns = [source.schema.variables[column] for source, column in parts]
        described = []
        for column, name in zip(columns, names, strict=True):
            rule = column.present
            rule_here = rule if rule and any(rule.startswith(other) for other in names) else None
            described.append(Variable(**{**vars(column), "name": name, "present": rule_here}))
        given = [
            Variable(**{**vars(source.schema.variables[0]), "name": name})
            for name, source in conditions.items()
        ]
        self.schema = Schema((len(described),), tuple(described), tuple(given))

    def __len__(self) -> int:
        return len(self._parts[0][0])

    def read(self, start: int, stop: int) -> Batch:
        """Return rows [start, stop)."""
        whole: dict[int, Batch] = {}
        for source, _ in self._parts:
            if id(source) not in whole:
                whole[id(source)] = source.read(start, stop)
        columns = [whole[id(source)].x[:, column] for source, column in self._parts]
        others = {key: source.read(start, stop).x[:, 0] for key, source in self._companions.items()}
        if self._conditions:
            given = [source.read(start, stop).x[:, 0] for source in self._conditions.values()]
            kind = torch.float32 if fit_single(v.dtype for v in self.schema.condition) else None
            others["condition"] = torch.stack([g.to(kind or torch.float64) for g in given], 1)
        return Batch(torch.stack(columns, 1)).replace(**others)

    def digest(self) -> str:
        """Return the SHA-256 of the samples."""
        return digest_of(blocks(self))

    def keys(self) -> NDArray[np.int64] | None:
        """Return the group keys of the file."""
        return self._parts[0][0].keys()


def _columns(path: Path, named: Named, open_one: Callable[[str], Source]) -> Source:
    """Open columns by name: arrays of their own, or those of one array that physgen wrote."""
    names, condition, weight = named.columns, named.condition, named.weight
    stored, known = stored_schema(path), set(names_in(path))
    companions = {} if weight is None else {"weight": open_one(weight)}
    if stored is not None:
        # Jagged events that were written as a table are read as one.
        if not set(names) <= set(stored.names) and set(names) <= {
            name.partition("[")[0] for name in stored.names
        }:
            names = stored.names
        usual = {key: key for key in ("weight", "log_weight", "chain") if key in known}
        companions = {key: open_one(n) for key, n in usual.items() if n not in names} | companions
        if not set(names) <= known and "x" in known:
            for name in names:
                if name not in stored.names:
                    remedy = suggest(name, stored.names)
                    raise FormatError(f"{path}: there is no column {name!r}{remedy}")
            table = open_one("x")
            parts = [(table, stored.names.index(n)) for n in names]
            return _Table(parts, names, companions, {name: open_one(name) for name in condition})
    sources = [open_one(name) for name in names]
    conditions = {name: open_one(name) for name in condition}
    for name, source in [*zip(names, sources, strict=True), *conditions.items()]:
        if source.schema.shape != (1,):
            raise FormatError(
                f"{path}: {name!r} has rows of shape {source.schema.shape}; a column has one number"
            )
        if len(source) != len(sources[0]):
            raise FormatError(
                f"{path}: columns of unequal length: {names[0]!r} has {len(sources[0])} rows, "
                f"{name!r} has {len(source)}"
            )
    return _Table([(source, 0) for source in sources], names, companions, conditions)
