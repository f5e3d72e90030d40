"""A file of showers as a source, by a function that reads rows of its layout."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from physgen.batch import Batch, Schema
from physgen.errors import FormatError
from physgen.io.attributes import attribute, unit_of
from physgen.io.hdf5 import open_hdf5
from physgen.io.showers import MEV, mev
from physgen.io.source import Source, Stamp, as_batch, blocks, digest_of

CALORIMETERS = "calorimeters"
"""The attribute of a file that says which layers are whose."""

Rows = Callable[[h5py.File, int, int], dict[str, NDArray[Any]]]


class ShowerSource:
    """Showers of an HDF5 file in MeV and mm.

    Args:
        path: of the file.
        schema: of its showers.
        length: how many there are.
        block: how many are read at once.
        rows: reads [start, stop) of the open file, by their name in `Batch`.

    Attributes:
        pdg: code of the incoming particles, `None` where it is not said.
        calorimeters: the layers of each, by name, where a layout says which are whose.

    Raises:
        FormatError: there are no showers.
    """

    pdg: int | None = None
    calorimeters: Mapping[str, range] = MappingProxyType({})

    def __init__(self, path: Path, schema: Schema, length: int, block: int, rows: Rows) -> None:
        if length == 0:
            raise FormatError(
                f"{path} holds no showers: its datasets are empty; name a file with some"
            )
        self.path, self.name, self.schema = path, str(path), schema
        self.block, self._length, self._rows = max(1, block), length, rows
        self._stamp = Stamp(path)

    def __len__(self) -> int:
        return self._length

    def read(self, start: int, stop: int) -> Batch:
        """Return rows [start, stop).

        Raises:
            FormatError: a value is not finite, or an energy is negative; its row is named.
        """
        with open_hdf5(self.path) as file:
            self._stamp.check()
            arrays = self._rows(file, start, min(stop, len(self)))
        for name in ("x", "condition"):
            arrays[name] = np.ascontiguousarray(arrays[name], np.float32)
        return as_batch(arrays)

    def digest(self) -> str:
        """Return the SHA-256 of the samples."""
        return digest_of(blocks(self))

    def keys(self) -> NDArray[np.int64] | None:
        """Return `None`: showers stand alone."""
        return None


class Undirected:
    """A source of showers whose only condition is the incident energy."""

    def __init__(self, source: Source) -> None:
        self._source, self.name, self.block = source, source.name, source.block
        self.schema = replace(source.schema, condition=source.schema.condition[:1])

    def __len__(self) -> int:
        return len(self._source)

    def read(self, start: int, stop: int) -> Batch:
        """Return rows [start, stop)."""
        batch = self._source.read(start, stop)
        return batch.replace(condition=None if batch.condition is None else batch.condition[:, :1])

    def digest(self) -> str:
        """Return the SHA-256 of the samples."""
        return digest_of(blocks(self))

    def keys(self) -> NDArray[np.int64] | None:
        """Return the group keys of the file."""
        return self._source.keys()


def energy_unit(node: h5py.Dataset, usual: str) -> float:
    """Return the MeV in the unit that a dataset states, else in the usual one of its layout."""
    unit = unit_of(node)
    where = f"{node.file.filename}: {node.name.strip('/')!r}"
    return MEV[usual] if unit == "1" else mev(where, unit)


def same_length(path: Path, lengths: dict[str, int]) -> int:
    """Return how many rows all datasets have; `FormatError` if they differ."""
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name!r} has {n}" for name, n in lengths.items())
        raise FormatError(
            f"{path}: datasets of unequal length: {shown} rows; "
            "one of each belongs to a shower: write the file again"
        )
    return next(iter(lengths.values()))


def write_calorimeters(calorimeters: Mapping[str, range]) -> dict[str, str]:
    """Return the attribute that keeps which layers are whose, none where that is not known.

    >>> write_calorimeters({"ecal": range(30), "hcal": range(30, 78)})
    {'calorimeters': '{"ecal": [0, 29], "hcal": [30, 77]}'}
    """
    ends = {name: [layers[0], layers[-1]] for name, layers in calorimeters.items()}
    return {CALORIMETERS: json.dumps(ends)} if ends else {}


def read_calorimeters(file: h5py.File) -> dict[str, range]:
    """Return the layers of each calorimeter, by name, as `write_calorimeters` keeps them.

    Raises:
        FormatError: there is such an attribute, and it does not list first and last layers.
    """
    text = attribute(file, CALORIMETERS)
    if text is None:
        return {}
    try:
        ends = {str(name): (int(a), int(b)) for name, (a, b) in json.loads(text).items()}
        if any(not 0 <= first <= last for first, last in ends.values()):
            raise ValueError("a last layer before the first")
    except (AttributeError, TypeError, ValueError) as error:
        raise FormatError(
            f"{file.filename}: the attribute {CALORIMETERS!r} is {text!r}, and does not list the "
            'first and the last layer by name, as in {"ecal": [0, 29]}; correct or remove it'
        ) from error
    return {name: range(first, last + 1) for name, (first, last) in ends.items()}
