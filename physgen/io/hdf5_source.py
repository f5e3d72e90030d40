"""Datasets of an HDF5 file as samples, larger than memory if need be."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from physgen.batch import Batch, Schema, Variable
from physgen.errors import FormatError
from physgen.io.attributes import unit_of
from physgen.io.forced import FORCED_ROWS, forced_in, forced_sentence
from physgen.io.hdf5 import (
    dataset,
    dtype_of,
    open_hdf5,
    optional,
    read_rows,
    rows_at_once,
    stored_schema,
)
from physgen.io.source import Stamp, as_batch, blocks, digest_of, schema_of_array
from physgen.io.split import hash_columns

_RANKS: dict[str, int | Sequence[int]] = {
    "x": range(1, 33),
    "condition": (1, 2),
    "weight": 1,
    "chain": 1,
    "log_weight": 1,
    "mask": range(2, 33),
}
_USUAL = {key: key for key in _RANKS if key != "x"}


class HDF5Source:
    """Datasets of an HDF5 file as samples.

    Files that physgen wrote bring their schema with them; of others shapes and types are known,
    and units where datasets have an attribute `unit` or `units`. Numbers are unpacked as their
    attributes `scale_factor` and `add_offset` say. The file is open only while it is read.

    Args:
        path: of the file.
        x: dataset of the samples, (N, ...).
        condition, weight, chain, log_weight: datasets (N, C), (N,), (N,) and (N,).
        companions: names of datasets by what they are in `Batch`, taken where they are there and
            fit; `None` looks for those that physgen writes beside "x", in files that it wrote.
        group: names of one-dimensional datasets whose values identify the event of a row.
        block: rows read together, if the file's own chunks are not to decide.

    Raises:
        FormatError: see `dataset`; or the datasets have unequal lengths.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        x: str = "x",
        condition: str | None = None,
        weight: str | None = None,
        chain: str | None = None,
        log_weight: str | None = None,
        companions: Mapping[str, str] | None = None,
        group: Sequence[str] = (),
        block: int | None = None,
    ) -> None:
        self.path = Path(path)
        self.name = str(path)
        self.group = tuple(group)
        self._stamp = Stamp(self.path)
        asked = {
            "condition": condition,
            "weight": weight,
            "chain": chain,
            "log_weight": log_weight,
        }
        with open_hdf5(self.path) as file:
            self._names = {"x": x} | {key: name for key, name in asked.items() if name is not None}
            if companions is None:
                companions = _USUAL if stored_schema(file) is not None and x == "x" else {}
            rows = len(dataset(file, x, _RANKS["x"]))
            for key, name in companions.items():
                if key not in self._names and optional(file, name, rows, _RANKS[key]):
                    self._names[key] = name
            nodes = self._nodes(file)
            lengths = {name: len(nodes[key]) for key, name in self._names.items()}
            if len(set(lengths.values())) > 1:
                shown = ", ".join(f"{name!r} has {n}" for name, n in lengths.items())
                raise FormatError(
                    f"{path}: datasets of unequal length: {shown} rows; "
                    "one of each belongs to an event: write the file again"
                )
            self._length = len(nodes["x"])
            self.block = block or rows_at_once(list(nodes.values()))
            self.schema = self._schema(file, nodes)

    def __len__(self) -> int:
        return self._length

    def arrays(
        self, start: int, stop: int, names: Container[str] = _RANKS
    ) -> dict[str, NDArray[Any]]:
        """Return rows [start, stop) by their name in `Batch`, of some `names` only.

        Raises:
            FormatError: naming the row of a NaN or infinity; or the file has changed.
        """
        with self._opened() as file:
            nodes = {key: node for key, node in self._nodes(file).items() if key in names}
            return {key: read_rows(node, start, stop) for key, node in nodes.items()}

    def read(self, start: int, stop: int) -> Batch:
        """Return rows [start, stop), see `arrays`."""
        return as_batch(self.arrays(start, stop))

    def digest(self) -> str:
        """Return the SHA-256 of the samples."""
        return digest_of(blocks(self))

    def keys(self) -> NDArray[np.int64] | None:
        """Return (N,) hashes of the group datasets."""
        if not self.group:
            return None
        with self._opened() as file:
            columns = [dataset(file, name, rank=1) for name in self.group]
            for name, column in zip(self.group, columns, strict=True):
                if len(column) != len(self):
                    raise FormatError(
                        f"{self.path}: dataset {name!r} has {len(column)} rows, the samples "
                        f"{len(self)}"
                    )
            return hash_columns([read_rows(column, 0, len(self)) for column in columns])

    def faults(self) -> dict[str, str]:
        """Return what is to be said of rows that were converted by force (`physgen.io.forced`)."""
        with self._opened() as file:
            marked = {f"row {row}": why for row, why in forced_in(file, len(self)).items()}
        return {FORCED_ROWS: forced_sentence(self.name, marked, len(self))} if marked else {}

    def notes(self) -> list[str]:
        """Return the same."""
        return list(self.faults().values())

    @contextmanager
    def _opened(self) -> Iterator[h5py.File]:
        with open_hdf5(self.path) as file:
            self._stamp.check()
            yield file

    def _nodes(self, file: h5py.File) -> dict[str, h5py.Dataset]:
        return {key: dataset(file, name, _RANKS[key]) for key, name in self._names.items()}

    def _schema(self, file: h5py.File, nodes: dict[str, h5py.Dataset]) -> Schema:
        x = nodes["x"]
        plain = Variable(self._names["x"], unit_of(x), dtype=dtype_of(x).name)
        shape = x.shape[1:] or (1,)
        schema = schema_of_array(stored_schema(file), self._names["x"], shape, plain)
        if "condition" not in nodes or schema.condition:
            return schema
        node, name = nodes["condition"], self._names["condition"]
        width = node.shape[1] if node.ndim == 2 else 1
        names = [name] if width == 1 else [f"{name}_{index}" for index in range(width)]
        kind, unit = dtype_of(node).name, unit_of(node)
        return replace(schema, condition=tuple(Variable(n, unit, dtype=kind) for n in names))
