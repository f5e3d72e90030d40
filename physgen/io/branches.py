"""Events of ROOT, Parquet and Arrow files: flat branches as columns, jagged ones padded and masked.

Flat fields f_1..f_F make x (N, F). Jagged fields, which must have the same number of items in each
event, make x (N, items, F) and a mask (N, items); items beyond `max_items` are dropped, in the
order of the file, and counted. Every column keeps its type in the schema, and x is float32 if that
holds all of them exactly, else float64.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physgen.batch import Batch, Domain, Schema, Variable, fit_single
from physgen.errors import FormatError
from physgen.io.formats import TABLES, format_of
from physgen.io.parquet import Table, open_table
from physgen.io.source import as_batch, blocks, check_finite, digest_of, written_schema
from physgen.io.split import hash_columns
from physgen.io.trees import Tree, describe_branch, open_tree

_OPEN_FILES = 32
_COMPANIONS = ("log_weight", "chain")
"""What physgen writes beside the columns."""
LARGEST_EXACT = 2**53
"""Integers beyond it have neighbours that double precision does not tell from them."""


class BranchSource:
    """Branches of a tree of ROOT, or columns of Parquet or Arrow, in one file or several alike.

    Args:
        path: of the file, or the files in order. Opened at the first use in each process.
        tree: its name in ROOT files; `None` takes the only one.
        fields: branches that make a sample, all flat or all jagged. "a.b" is member b of objects a.
        condition: flat branches that make the condition.
        weight: flat branch of event weights (negative and zero ones are kept).
        group: flat branches whose values together identify the event of a row.
        max_items: items kept of a jagged event; `None` keeps as many as the longest has.
        units: of branches by name; of files that physgen wrote they are known.
        step_size: bytes of samples read together; memory is a small multiple of it.

    Attributes:
        truncated_rows, truncated_items: how many events lost items to `max_items`, and how many.
        longest: items of the longest event (0 for flat fields).

    Raises:
        FormatError: a file, tree or branch is absent (near misses are named), holds no numbers, is
            doubly jagged, mixes flat and jagged fields, or differs between files.
    """

    def __init__(
        self,
        path: Path | str | Sequence[Path | str],
        tree: str | None = None,
        fields: Sequence[str] = (),
        *,
        condition: Sequence[str] = (),
        weight: str | None = None,
        group: Sequence[str] = (),
        max_items: int | None = None,
        units: Mapping[str, str] | None = None,
        step_size: int = 8 * 2**20,
    ) -> None:
        paths = [path] if isinstance(path, Path | str) else list(path)
        if not paths or not fields:
            raise FormatError(
                f"{path}: name at least one file and one branch to read (data.fields)"
            )
        self.paths = [Path(p) for p in paths]
        self.name = str(paths[0]) + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
        self.fields, self.condition = tuple(fields), tuple(condition)
        self.weight, self.group = weight, tuple(group)
        self._tree_name, self._open = tree, (os.getpid(), dict[int, Tree | Table]())
        first = self._tree(0)
        others = () if first.written is None else _COMPANIONS
        self._companions = [n for n in others if n in first.names and n not in self.fields]

        types = self._types(0)
        self._starts = [0]
        for index in range(len(self.paths)):
            for name, kind in self._types(index).items():
                if kind != types[name]:
                    raise FormatError(
                        f"{self._tree(index).where}: branch {name!r} is {_shown(kind)}, in "
                        f"{self.paths[0]} it is {_shown(types[name])}; read them separately"
                    )
            self._starts.append(self._starts[-1] + len(self._tree(index)))
        self.jagged = types[self.fields[0]][1] == 1
        self._x_dtype, self._condition_dtype = (
            np.dtype("float32" if fit_single(types[name][0] for name in names) else "float64")
            for names in (self.fields, self.condition)
        )
        self.longest = self.truncated_rows = self.truncated_items = 0
        items = 1.0
        if self.jagged:
            items = self._count_items(max_items, step_size)
        self.max_items = max_items or self.longest
        written = self._tree(0).written
        if written is not None:
            stored = written_schema(written, str(self.paths[0]))
            known = {v.name: v.unit for v in (*stored.variables, *stored.condition)}
            units = known | dict(units or {})
        units = units or {}
        described = {name: _variable(name, kind, units) for name, (kind, _) in types.items()}
        columns = tuple(described[name] for name in self.fields)
        shape = (self.max_items, len(columns)) if self.jagged else (len(columns),)
        given = tuple(described[name] for name in self.condition)
        self.schema = Schema(shape, columns, given, masked=self.jagged)
        row = max(items, self.max_items) * len(columns) + len(self.condition) + 1
        self.block = int(max(1, step_size // (row * self._x_dtype.itemsize)))
        together = max(self._tree(index).group_rows for index in range(len(self.paths)))
        if 0 < together < self.block:
            self.block -= self.block % together

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, start: int, stop: int) -> Batch:
        """Return rows [start, stop).

        Raises:
            FormatError: a file is damaged, a value is NaN, infinite or an integer that floating
                point does not hold, or the jagged fields of an event differ in length.
        """
        return as_batch(self.arrays(start, stop))

    def arrays(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Return rows [start, stop) by their name in `Batch`, see `read`."""
        pieces = [self._read(i, a, b) for i, a, b in self._ranges(start, min(stop, len(self)))]
        pieces = pieces or [self._read(0, 0, 0)]
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}

    def digest(self) -> str:
        """Return the SHA-256 of the samples."""
        return digest_of(blocks(self))

    def keys(self) -> NDArray[np.int64] | None:
        """Return (N,) hashes of the group branches."""
        return self._keys_of(self.group) if self.group else None

    def suspected_group(self) -> tuple[str, ...]:
        """Return branches that look like event numbers and repeat over rows; () if there are none.

        Rows of one event in both training and test would make every comparison too good.
        """
        if self.group or len(self) == 0:
            return ()
        names = tuple(self._tree(0).event_keys())
        try:
            return names if names and len(np.unique(self._keys_of(names))) < len(self) else ()
        except FormatError:
            # Nobody asked for these branches: what is wrong with them is no fault of the samples.
            return ()

    def notes(self) -> list[str]:
        """Return what was truncated, and which branches should keep rows of an event together."""
        stated = []
        if self.truncated_rows:
            stated.append(
                f"{self.name}: {self.truncated_rows} of {len(self)} events have more than "
                f"{self.max_items} items; {self.truncated_items} items are left out (of at most "
                f"{self.longest} an event); raise system.max_items to keep them"
            )
        suspects = self.suspected_group()
        if suspects:
            stated.append(
                f"{self.name}: several rows share one ({', '.join(suspects)}); set "
                f"data.group=[{', '.join(suspects)}] so that the rows of one event do not stand on "
                "both sides of the split"
            )
        return stated

    def _keys_of(self, names: Sequence[str]) -> NDArray[np.int64]:
        parts = []
        for index in range(len(self.paths)):
            tree = self._tree(index)
            columns = []
            for name in names:
                array = tree.read(name, 0, len(tree))
                if describe_branch(array, name, tree.where)[1]:
                    raise FormatError(f"{tree.where}: branch {name!r} is jagged: no key")
                columns.append(array.to_numpy())
            parts.append(hash_columns(columns))
        return np.concatenate(parts)

    def _read(self, index: int, start: int, stop: int) -> dict[str, NDArray[Any]]:
        result = {}
        if self.jagged:
            result["x"], result["mask"] = self._padded(index, self.fields, start, stop)
        else:
            result["x"] = self._columns(index, self.fields, self._x_dtype, start, stop)
        if self.condition:
            names, dtype = self.condition, self._condition_dtype
            result["condition"] = self._columns(index, names, dtype, start, stop)
        if self.weight is not None:
            weight = self._numbers(index, self.weight, start, stop)
            result["weight"] = weight if weight.dtype.kind == "f" else weight.astype(np.float64)
        for name in self._companions:
            result[name] = self._numbers(index, name, start, stop)
        return result

    def _columns(
        self, index: int, names: Sequence[str], dtype: np.dtype[Any], start: int, stop: int
    ) -> NDArray[Any]:
        x = np.empty((stop - start, len(names)), dtype)
        for column, name in enumerate(names):
            x[:, column] = self._numbers(index, name, start, stop)
        return x

    def _padded(
        self, index: int, names: Sequence[str], start: int, stop: int
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        import awkward as ak

        x = np.zeros((stop - start, self.max_items, len(names)), self._x_dtype)
        place = np.arange(self.max_items)
        first: NDArray[Any] | None = None
        for column, name in enumerate(names):
            array = self._array(index, name, start, stop)
            counts = ak.num(array, axis=1).to_numpy()
            first = counts if first is None else first
            if not np.array_equal(counts, first):
                row = int((counts != first).argmax())
                raise FormatError(
                    f"{self._tree(index).where}: row {start + row} has {first[row]} items of "
                    f"{names[0]!r} but {counts[row]} of {name!r}; name branches of one collection"
                )
            items = array[:, : self.max_items]
            rows = np.repeat(np.arange(start, stop), ak.num(items, axis=1).to_numpy())
            values = ak.flatten(items).to_numpy()
            mask = place < counts[:, None]
            x[..., column][mask] = self._checked(index, name, values, rows)
        return x, mask

    def _numbers(self, index: int, name: str, start: int, stop: int) -> NDArray[Any]:
        values = self._array(index, name, start, stop).to_numpy()
        return self._checked(index, name, values, np.arange(start, stop))

    def _checked(
        self, index: int, name: str, values: NDArray[Any], rows: NDArray[np.int64]
    ) -> NDArray[Any]:
        where = f"{self._tree(index).where}: branch {name!r}"
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            at = int((~np.isfinite(values)).argmax())
            check_finite(values[at : at + 1], int(rows[at]), where)
        if values.dtype.kind in "iu" and values.dtype.itemsize == 8 and len(values):
            large = (values > LARGEST_EXACT) | (values < -LARGEST_EXACT)
            if large.any():
                at = int(large.argmax())
                raise FormatError(
                    f"{where}: row {rows[at]} holds {values[at]}, which floating point cannot "
                    "represent; such a number identifies an event: name it in data.group instead"
                )
        return values

    def _array(self, index: int, name: str, start: int, stop: int) -> Any:
        return self._tree(index).read(name, start, stop)

    def _ranges(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """Cut rows into (file, first entry, last entry + 1)."""
        cuts = []
        for index, (low, high) in enumerate(zip(self._starts, self._starts[1:], strict=False)):
            a, b = max(start, low), min(stop, high)
            if a < b:
                cuts.append((index, a - low, b - low))
        return cuts

    def _count_items(self, max_items: int | None, step_size: int) -> float:
        """Set `longest` and what `max_items` truncates; return the mean number of items."""
        import awkward as ak

        total, step = 0, max(1, step_size // 64)
        for start in range(0, len(self), step):
            for index, a, b in self._ranges(start, min(start + step, len(self))):
                counts = ak.num(self._array(index, self.fields[0], a, b), axis=1).to_numpy()
                total += int(counts.sum())
                self.longest = max(self.longest, int(counts.max(initial=0)))
                if max_items is not None:
                    over = counts[counts > max_items] - max_items
                    self.truncated_rows += len(over)
                    self.truncated_items += int(over.sum())
        return total / max(1, len(self))

    def _types(self, index: int) -> dict[str, tuple[str, int]]:
        """Return (numpy type, depth) of every branch used, after checking that they fit."""
        tree = self._tree(index)
        where = tree.where
        roles = dict.fromkeys(self.group, "group")
        roles |= dict.fromkeys(self._companions, "weight")
        roles |= {self.weight: "weight"} if self.weight is not None else {}
        roles |= dict.fromkeys(self.condition, "condition")
        roles |= dict.fromkeys(self.fields, "fields")
        types = {}
        for name, role in roles.items():
            types[name] = tree.kind(name)
            depth = types[name][1]
            if depth > (1 if role == "fields" else 0):
                kind = "jagged" if depth == 1 else f"jagged {depth} times over"
                raise FormatError(
                    f"{where}: branch {name!r} is {kind}, which cannot be used as {role}"
                )
        flat = [name for name in self.fields if types[name][1] == 0]
        if 0 < len(flat) < len(self.fields):
            raise FormatError(
                f"{where}: data.fields mixes flat branches ({', '.join(flat)}) with jagged ones; "
                "name the flat ones in data.condition, or leave them out"
            )
        return types

    def _tree(self, index: int) -> Tree | Table:
        # File handles do not survive a fork, and there may be more files than handles.
        process, trees = self._open
        if process != os.getpid() or len(trees) > _OPEN_FILES:
            trees = {}
            self._open = (os.getpid(), trees)
        if index not in trees:
            trees[index] = open_branches(self.paths[index], self._tree_name)
        return trees[index]


def open_branches(path: Path, tree: str | None = None) -> Tree | Table:
    """Open a tree of a ROOT file, or the table of a Parquet or Arrow file.

    Raises:
        FormatError: as `open_tree` and `open_table`; or a table is asked for a tree.
    """
    if format_of(path) not in TABLES:
        return open_tree(path, tree)
    if tree is not None:
        raise FormatError(f"{path}: there are no trees in such files; leave data.tree out")
    return open_table(path)


def _shown(kind: tuple[str, int]) -> str:
    return ("jagged " if kind[1] else "") + kind[0]


def _variable(name: str, dtype: str, units: Mapping[str, str]) -> Variable:
    domain: Domain = "binary" if dtype == "bool" else "real"
    if dtype.startswith(("int", "uint")):
        domain = "integer"
    return Variable(name, units.get(name, "1"), domain, dtype)
