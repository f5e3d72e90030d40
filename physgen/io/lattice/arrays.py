"""Links as a dataset of HDF5, or as an array of NumPy, in any order of axes.

None of them has a standard. The dataset is the one that is named, or the only one whose shape can
be that of links; the order of its axes the one that is given, or that its attribute `axes` says,
or the one that its shape allows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from physgen.errors import FormatError, suggest
from physgen.io.attributes import attribute
from physgen.io.forced import forced_in
from physgen.io.formats import format_of
from physgen.io.guard import library
from physgen.io.hdf5 import check_storage, dataset_names, located, open_hdf5
from physgen.io.lattice.axes import Order, guessed, likely
from physgen.io.lattice.configuration import LARGEST_EXTENT, Given, Header, Raw
from physgen.io.npz import array_names, array_types, read_arrays

HDF5_NAME = "gauge configurations in HDF5"
NUMPY_NAME = "gauge configurations in NumPy arrays"
STACKED = "configurations"
"""The dataset in which physgen keeps an ensemble, (N, d, *shape, N, N, 2)."""

NUMPY_MAGIC = b"\x93NUMPY"


def candidates(path: Path) -> list[str]:
    """Return the names of the arrays that can be links, by their shapes."""
    result = []
    for name, array in _types(path):
        with suppress(FormatError):
            if _is_number(array.dtype):
                _order(path, array, name, Given())
                result.append(name)
    return result


def _types(path: Path) -> Iterator[tuple[str, _Type]]:
    """Yield the arrays of a file by their names; none is read."""
    if format_of(path) == "npz":
        for name, facts in array_types(path).items():
            yield name, _Type(*facts)
        return
    for name in _names(path):
        yield name, _type(path, name)


def links_hint(path: Path) -> str | None:
    """Return what is to be said of arrays that look like links, but not clearly enough to be read.

    `None` where there are none, or the file is of another format.
    """
    if format_of(path) not in ("HDF5", "npz") and not is_npy(path):
        return None
    found: dict[str, list[str]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    with suppress(FormatError):  # Whoever else reads it says what is wrong.
        for name, array in _types(path):
            if _is_number(array.dtype) and (orders := likely(array.shape, array.dtype.kind != "f")):
                found[name], shapes[name] = orders, array.shape
    if not found:
        return None
    arrays = ", ".join(f"{name!r} {shapes[name]}".removeprefix("'' ") for name in found)
    name, orders = next(iter(found.items()))
    option = f"--dataset {quote(name)} and " if name else ""
    proposed = " or ".join(map(repr, orders))
    return (
        f"gauge links? {arrays}: say so with {option}--order, the order of the axes, as in "
        f"{proposed}"
    )


def read_header(path: Path, given: Given) -> Header:
    """Return what the file says.

    Raises:
        FormatError: no array, or several, can be links; there is none of the name given; or the
            order of its axes is not known.
    """
    name = given.dataset
    if name and is_npy(path):
        raise FormatError(f"{path}: a .npy is one array without a name: leave --dataset out")
    if name is None:
        names = _names(path)
        found = [STACKED] if STACKED in names else names if len(names) == 1 else candidates(path)
        if len(found) != 1:
            choice = suggest("", found or names)
            raise FormatError(f"{path}: which array holds the links?{choice}; name it (--dataset)")
        name = found[0]
    with _opened(path, name):  # Raises where there is none that can be read.
        array = _type(path, name)
    if not _is_number(array.dtype):
        raise FormatError(f"{path}: array {name!r} holds {array.dtype}, not links")
    order = _order(path, array, name, given)
    shape = order.shape(array.shape)
    sizes = dict(zip(order.axes, array.shape, strict=True))
    fits = sizes["a"] == sizes["b"] and sizes["mu"] == len(shape) and sizes.get("c", 2) == 2
    if not fits or not all(0 < extent <= LARGEST_EXTENT for extent in shape):
        raise FormatError(
            f"{path}: array {name!r} of shape {array.shape} is not {' '.join(order.axes)}"
        )
    count = sizes.get("n", 1)
    return Header(
        HDF5_NAME if format_of(path) == "HDF5" else NUMPY_NAME,
        shape,
        sizes["a"],
        array.dtype if array.dtype.kind == "f" else _part(array.dtype),
        rows=sizes["a"],
        facts={"array": name, "axes": _spelled(order)},
        count=count,
        forced=_forced(path, count),
    )


def _forced(path: Path, count: int) -> dict[int, str]:
    """Return the marks of configurations that were converted by force; only HDF5 has any."""
    if format_of(path) != "HDF5":
        return {}
    with open_hdf5(path) as file:
        return forced_in(file, count)


def labels(path: Path, count: int) -> dict[str, NDArray[np.int64]]:
    """Return the (count,) numbers of chains, and of trajectories, that stand beside the links."""
    result = {}
    for name in {"chain", "trajectory"} & set(_names(path)):
        with _opened(path, name) as array, library(f"{path}: array {name!r}"):
            if array.shape == (count,) and array.dtype.kind in "iu":
                result[name] = np.asarray(array[()]).astype(np.int64)
    return result


def read(path: Path, header: Header, row: int = 0) -> Raw:
    """Return the links of the configuration `row`; the bytes have no checksum of their own."""
    name, order = header.facts["array"], Order.of(header.facts["axes"])
    with _opened(path, name) as array, library(f"{path}: array {name!r}"):
        at = order.axes.index("n") if "n" in order.axes else None
        index = tuple(row if axis == at else slice(None) for axis in range(array.ndim))
        values = np.asarray(array[index])
    if values.dtype.names is not None:
        parts = [values[part] for part in values.dtype.names]
        values = parts[0] + 1j * parts[1]
    return Raw(order.links(values.astype(values.dtype.newbyteorder("="), copy=False)))


class _Type(NamedTuple):
    """Shape and type of an array, and the order of its axes, where it says it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axes: str | None = None


def _type(path: Path, name: str) -> _Type:
    """Return what an array of a file declares; an empty one where it cannot be read."""
    with suppress(FormatError), _opened(path, name) as array, library(str(path)):
        said = None
        if isinstance(array, h5py.Dataset):
            said = attribute(array, "axes") or attribute(array.file, "axes")
        return _Type(tuple(array.shape), array.dtype, said if isinstance(said, str) else None)
    return _Type((), np.dtype("V0"))


def _order(path: Path, array: _Type, name: str, given: Given) -> Order:
    """Return the order of the axes of an array; `FormatError` if it cannot be told."""
    stated = given.order or array.axes
    where = f"{path}: array {name!r}"
    if stated is None:
        is_complex = array.dtype.kind != "f"
        return guessed(array.shape, is_complex, stacked=name == STACKED, where=where)
    order = Order.of(stated, where)
    if len(order.axes) != len(array.shape) or ("c" in order.axes) != (array.dtype.kind == "f"):
        raise FormatError(
            f"{where} of {array.dtype} has shape {array.shape}, which is not {stated!r} (c is an "
            "axis of real numbers only)"
        )
    return order


def _spelled(order: Order) -> str:
    words = (f"mu({' '.join(order.directions)})" if a == "mu" else a for a in order.axes)
    return " ".join(words)


def _part(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type of the real part of complex numbers, or of pairs called r and i."""
    if dtype.names is not None:
        return np.dtype(dtype.fields[dtype.names[0]][0]) if dtype.fields else dtype
    return np.dtype(f"{dtype.str[0]}f{dtype.itemsize // 2}")


def _is_number(dtype: np.dtype[Any]) -> bool:
    """Return whether numbers are real or complex, of single or double precision."""
    if dtype.names is not None:
        kinds = {dtype.fields[name][0] for name in dtype.names} if dtype.fields else set()
        return len(dtype.names) == 2 and len(kinds) == 1 and _is_number(kinds.pop())
    return (dtype.kind, dtype.itemsize) in {("f", 4), ("f", 8), ("c", 8), ("c", 16)}


def is_npy(path: Path) -> bool:
    """Return whether a file is an array that NumPy saved by itself."""
    with path.open("rb") as file:
        return file.read(len(NUMPY_MAGIC)) == NUMPY_MAGIC


def _names(path: Path) -> list[str]:
    """Return the names of the arrays of a file; that of a `.npy` is empty."""
    kind = format_of(path)
    if kind == "HDF5":
        with open_hdf5(path) as file:
            return dataset_names(file)
    return array_names(path) if kind == "npz" else [""]


@contextmanager
def _opened(path: Path, name: str) -> Iterator[Any]:
    """Yield a dataset, or an array, of a name."""
    kind = format_of(path)
    if kind == "HDF5":
        with open_hdf5(path) as file:
            node = located(file, name)
            with library(f"{path}: dataset {name!r}"):
                check_storage(node, f"{path}: dataset {name!r}")
            yield node
    elif kind == "npz":
        yield read_arrays(path, [name])[name]
    else:
        with library(str(path)):
            array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        yield array
