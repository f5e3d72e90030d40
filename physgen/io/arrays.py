"""Named arrays of a file, HDF5 or npz alike, as samples; and what the file says beside them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from physgen.batch import Batch, Schema
from physgen.errors import FormatError
from physgen.io import hdf5
from physgen.io.attributes import attribute
from physgen.io.formats import format_of, refuse_cut_short
from physgen.io.guard import library
from physgen.io.hdf5_source import HDF5Source
from physgen.io.npz import NpzSource, array_names, read_arrays
from physgen.io.source import Source, as_batch, blocks, digest_of, written_schema

Axis = Literal["chain", "time"]
Axes = tuple[Axis, Axis]
"""What the first two axes of an array of several Markov chains are, in their order."""

MARKOV = {"chain": "chain", "log_weight": "log_weight"}
"""What belongs to rows of Markov chains and of importance samples, by its name in files."""
AXES_REMEDY = "data.axes=[chain,time] (or [time,chain])"


class ArraysSource(Source, Protocol):
    """A source that can be read without tensors."""

    def arrays(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Return rows [start, stop) by their name in `Batch`."""
        ...


def names_in(path: Path) -> list[str]:
    """Return the names of the arrays in a file.

    Raises:
        FormatError: there is no such file, or it is neither HDF5 nor npz.
    """
    if _format(path) == "npz":
        return array_names(path)
    with hdf5.open_hdf5(path) as file:
        return hdf5.dataset_names(file)


def stored_schema(path: Path) -> Schema | None:
    """Return the schema that physgen wrote into a file, `None` if it wrote none."""
    if _format(path) == "HDF5":
        with hdf5.open_hdf5(path) as file:
            return hdf5.stored_schema(file)
    if "physgen_schema" not in array_names(path):
        return None
    text = read_arrays(path, ["physgen_schema"])["physgen_schema"]
    return written_schema(str(text), str(path))


def open_array(
    path: Path,
    x: str,
    *,
    chain: str | None = None,
    companions: Mapping[str, str] = MARKOV,
    axes: Axes | None = None,
) -> ArraysSource:
    """Open an array of samples, and what belongs to its rows.

    Args:
        path: HDF5 or npz file.
        x: name of the array, (N, ...); with `axes`, its first two are chains and time.
        chain, companions: see `HDF5Source`.
        axes: what the first two axes are, if the array holds several chains.

    Raises:
        FormatError: the file, or what is named, is absent or unfit.
    """
    opened = NpzSource if _format(path) == "npz" else HDF5Source
    if axes is not None:
        return SeveralChains(opened(path, x=x, companions={}), axes)
    return opened(path, x=x, chain=chain, companions=companions)


class SeveralChains:
    """An array (chains, time, ...) or (time, chains, ...) as rows with chain numbers.

    Attributes:
        schema: of one configuration.

    Raises:
        FormatError: the array has no second axis, or the axes are not "chain" and "time".
    """

    def __init__(self, source: ArraysSource, axes: Axes) -> None:
        stored = source.schema
        if sorted(axes) != ["chain", "time"]:
            raise FormatError(f"data.axes = {list(axes)}: name the first two axes, {AXES_REMEDY}")
        if stored.shape == (1,):
            raise FormatError(
                f"{source.name}: rows of shape {stored.shape} have no second axis that could be "
                "that of chains or time; leave data.axes out"
            )
        self._source, self._axes = source, axes
        self.name, self._inner = source.name, stored.shape[0]
        self.block = source.block * self._inner
        self.schema = Schema(stored.shape[1:] or (1,), stored.variables)

    def __len__(self) -> int:
        return len(self._source) * self._inner

    def arrays(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Return rows [start, stop), x and chain."""
        stop = min(stop, len(self))
        first = start // self._inner
        x = self._source.arrays(first, -(-stop // self._inner))["x"]
        rows = np.arange(start, stop)
        flat = x.reshape(-1, *self.schema.shape)[start - first * self._inner :][: stop - start]
        outer = self._axes[0] == "chain"
        return {"x": flat, "chain": rows // self._inner if outer else rows % self._inner}

    def read(self, start: int, stop: int) -> Batch:
        """Return rows [start, stop)."""
        return as_batch(self.arrays(start, stop))

    def digest(self) -> str:
        """Return the SHA-256 of the samples."""
        return digest_of(blocks(self))

    def keys(self) -> NDArray[np.int64] | None:
        """Return `None`: configurations have no groups but their chains."""
        return None


def _readable(file: Any, name: str) -> list[Any]:
    """Return the dataset of a name, or nothing where it is not safe to read."""
    try:
        return [hdf5.dataset(file, name)]
    except FormatError:
        return []


def stated(path: Path, names: Collection[str], x: str) -> dict[str, NDArray[Any]]:
    """Return what a file says of quantities: their name in the file to the distinct values.

    Looked at are attributes of the file and of the array `x`, and arrays with one number in all or
    one a row. Names are compared without regard to case; what holds no finite numbers is passed
    over.
    """
    wanted = {name.lower() for name in names}
    result: dict[str, Any] = {}
    if _format(path) == "npz":
        for name in array_names(path):
            if name.lower() in wanted:
                result[name] = read_arrays(path, [name])[name]
    else:
        with hdf5.open_hdf5(path) as file:
            for node in (file, *_readable(file, x)):
                with library(str(path)):
                    attributes = [name for name in node.attrs if name.lower() in wanted]
                result |= {name: attribute(node, name) for name in attributes}
            named = [name for name in hdf5.dataset_names(file) if name.lower() in wanted]
            for name in named:
                for node in _readable(file, name):
                    if node.ndim == 0:
                        with library(f"{path}: dataset {name!r}"):
                            result[name] = node[()]
                    elif node.ndim == 1:
                        result[name] = hdf5.read_rows(node, 0, len(node), finite=False)
    arrays = {name: np.asarray(value) for name, value in result.items() if value is not None}
    numbers = {name: a.reshape(-1) for name, a in arrays.items() if a.dtype.kind in "biuf"}
    return {n: np.unique(a) for n, a in numbers.items() if a.size and np.isfinite(a).all()}


def text_in(path: Path, name: str) -> str | None:
    """Return what a file says in words under a name: an attribute of it, or an array of one text.

    `None` where it says nothing.
    """
    if _format(path) == "npz":
        value: Any = read_arrays(path, [name])[name] if name in array_names(path) else None
    else:
        with hdf5.open_hdf5(path) as file, library(str(path)):
            value = attribute(file, name) if name in file.attrs else None
    array = np.asarray(value).reshape(-1)
    return str(array[0]) if array.dtype.kind in "US" and array.size == 1 else None


def _format(path: Path) -> str:
    kind = format_of(path)
    if kind not in ("HDF5", "npz"):
        refuse_cut_short(path)
        named = "" if kind == "other" else f"{kind}, "
        raise FormatError(
            f"{path}: {named}neither HDF5 nor npz; `physgen inspect {path}` says what it is"
        )
    return kind
