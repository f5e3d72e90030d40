"""Datasets of HDF5 that are no arrays of numbers: lists of unequal length, tables, one text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from physgen.errors import FormatError
from physgen.io.guard import library
from physgen.io.hdf5 import check_storage, located
from physgen.io.source import check_finite


class Lists:
    """A dataset (N,) whose rows are lists of numbers of unequal length.

    Raises:
        FormatError: there is no such dataset in the file, it is not safe to read, or holds
            something else.
    """

    def __init__(self, file: h5py.File, name: str) -> None:
        self.where = f"{file.filename}: dataset {name!r}"
        self._node = located(file, name)
        kind = h5py.check_vlen_dtype(self._node.dtype)
        if kind is None or np.dtype(kind).kind not in "iuf" or self._node.ndim != 1:
            raise FormatError(
                f"{self.where} has shape {self._node.shape} of {self._node.dtype}; lists of "
                "numbers, one a row, are expected (h5py.vlen_dtype)"
            )
        with library(self.where):
            check_storage(self._node, self.where)
        self.dtype = np.dtype(kind)

    def __len__(self) -> int:
        return int(self._node.shape[0])

    def read(self, start: int, stop: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Return the lists of rows [start, stop) one after the other, and their lengths.

        Raises:
            FormatError: the rows are damaged, or hold a NaN or infinity (the row is named).
        """
        with library(f"{self.where}, rows {start} to {stop - 1}"):
            rows = self._node[start:stop]
        lengths = np.array([len(row) for row in rows], np.int64)
        flat = np.concatenate(list(rows)) if len(rows) else np.empty(0, self.dtype)
        if flat.dtype.kind == "f" and not np.isfinite(flat).all():
            row = int(np.searchsorted(np.cumsum(lengths), np.isfinite(flat).argmin(), "right"))
            check_finite(np.asarray(rows[row])[None], start + row, self.where)
        return flat, lengths


def append_lists(node: h5py.Dataset, lists: Sequence[NDArray[Any]]) -> None:
    """Append rows to a dataset of lists of unequal length."""
    start = len(node)
    node.resize(start + len(lists), axis=0)
    if len({len(row) for row in lists}) == 1:
        # h5py takes rows of one length for a table (its issue 2429), unless they are one.
        node[start:] = np.stack(lists)
    elif len(lists):
        rows = np.empty(len(lists), object)
        rows[:] = lists
        node[start:] = rows


class Records:
    """A table of records, a row each, whose fields are numbers or arrays of them.

    Raises:
        FormatError: there is no such dataset in the file, it is not safe to read, or holds
            something else.
    """

    def __init__(self, file: h5py.File, name: str) -> None:
        self.where = f"{file.filename}: dataset {name!r}"
        self._node = located(file, name)
        if not self._node.dtype.names or self._node.ndim != 1:
            raise FormatError(
                f"{self.where} has shape {self._node.shape} of {self._node.dtype}; a table of "
                "records (N,) is expected"
            )
        with library(self.where):
            check_storage(self._node, self.where)
        self.fields: dict[str, np.dtype[Any]] = {
            key: self._node.dtype[key] for key in self._node.dtype.names
        }

    def __len__(self) -> int:
        return int(self._node.shape[0])

    @property
    def row_bytes(self) -> int:
        """Of a record."""
        return int(self._node.dtype.itemsize)

    def read(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Return the fields of rows [start, stop) by name, (rows, ...) each.

        Raises:
            FormatError: the rows are damaged, or hold a NaN or infinity (the row is named).
        """
        with library(f"{self.where}, rows {start} to {stop - 1}"):
            rows = self._node[start:stop]
        for key in self.fields:
            check_finite(rows[key], start, f"{self.where}, field {key!r}")
        return {key: rows[key] for key in self.fields}


def text_of(file: h5py.File, name: str) -> str:
    """Return the text that a dataset of one element holds.

    Raises:
        FormatError: it is absent, a link, a group, or holds no text.
    """
    where = f"{file.filename}: dataset {name!r}"
    node = located(file, name)
    with library(where):
        value = np.ravel(node[()])[0] if node.size == 1 else None
    if not isinstance(value, bytes | str):
        raise FormatError(f"{where} is not one text")
    return value.decode(errors="replace") if isinstance(value, bytes) else value
