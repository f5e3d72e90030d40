"""HDF5 read with distrust: nothing outside the file is touched, nothing huge is believed.

A dataset is refused before a byte of it is read if it lies behind a link to another file, keeps its
data in another file, needs a filter that would load a plugin, declares far more data than the file
can hold, or holds Python objects. What remains is read in whole chunks.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from physgen.batch import Schema
from physgen.errors import FormatError, suggest
from physgen.io.attributes import attribute, check_filled, overlapping, packing
from physgen.io.formats import format_of, refuse_cut_short
from physgen.io.guard import LARGEST_DEFLATED, library, regular
from physgen.io.probe import probe
from physgen.io.source import check_finite, written_schema

BLOCK_BYTES = 4 * 2**20
"""Bytes read at once from files whose chunks are smaller."""

_FILTERS = {
    h5py.h5z.FILTER_DEFLATE,
    h5py.h5z.FILTER_SHUFFLE,
    h5py.h5z.FILTER_FLETCHER32,
    h5py.h5z.FILTER_SZIP,
    h5py.h5z.FILTER_NBIT,
    h5py.h5z.FILTER_SCALEOFFSET,
    h5py.h5z.FILTER_LZF,
}
_LARGEST_CHUNK = 2**30

MOST_DATASETS = 500
"""So many datasets of a file are listed."""
_MOST_OBJECTS = 20_000
DEEPEST = 32
_TRIED_BYTES = 2**26
"""Bytes unpacked to see whether that can be survived."""

_IN_USE = ("unable to lock file", "already open for write", "unable to open file (file is already")


def open_hdf5(path: Path) -> h5py.File:
    """Open an HDF5 file for reading.

    Raises:
        FormatError: there is no such file, it is not HDF5, is cut short, or is being written.
    """
    path = regular(Path(path))
    probe(path, lambda: _try(path))
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if any(words in str(error) for words in _IN_USE):
            raise FormatError(
                f"{path} is being written: another program has it open; wait until it is closed "
                "(if its writer was killed: h5clear -s FILE)"
            ) from error
        refuse_cut_short(path)
        kind, what = format_of(path), f"; `physgen inspect {path}` says what is in it"
        found = "" if kind == "other" else f" but {kind}"
        whole = f"an HDF5 file that is cut short or damaged ({error}); copy or make it again"
        said = whole if kind == "HDF5" else f"not an HDF5 file{found}{what}"
        raise FormatError(f"{path}: {said}") from error


def dataset(file: h5py.File, name: str, rank: int | Sequence[int] | None = None) -> h5py.Dataset:
    """Return a dataset of a file after checking that reading it is safe.

    Args:
        file: from `open_hdf5`.
        name: path inside the file.
        rank: how many dimensions it must have, or may have.

    Raises:
        FormatError: it is absent (near misses are named), not numeric, of the wrong rank, stored
            outside the file, behind an unknown filter, or larger than the file can hold.
    """
    where = f"{file.filename}: dataset {name!r}"
    node = located(file, name)
    with library(where):
        if (fault := _no_numbers(where, node)) is not None:
            raise FormatError(fault)
        check_storage(node, where)
    ranks = (rank,) if isinstance(rank, int) else rank
    if ranks is not None and node.ndim not in ranks:
        wanted = " or ".join(str(r) for r in ranks)
        raise FormatError(
            f"{where} has shape {node.shape}, {node.ndim} dimension(s); expected {wanted}, the "
            "first being the samples"
        )
    return node


def located(file: h5py.File, name: str) -> h5py.Dataset:
    """Return a dataset of a file, whatever it holds.

    Raises:
        FormatError: it is absent (near misses are named), a group, empty, or lies outside the file.
    """
    where = f"{file.filename}: dataset {name!r}"
    node = file
    for step in name.strip("/").split("/"):
        with library(where):
            link = node.get(step, getlink=True) if isinstance(node, h5py.Group) else None
        if link is None:
            raise FormatError(f"{where} does not exist{suggest(name, dataset_names(file))}")
        if not isinstance(link, h5py.HardLink):
            raise FormatError(
                f"{where} is a link ({type(link).__name__}), which is not followed: it may lead to "
                "another file; name the dataset itself, or copy it into this file"
            )
        with library(where):
            node = node[step]
    if not isinstance(node, h5py.Dataset):
        raise FormatError(f"{where} is a group{suggest(name, dataset_names(file))}")
    with library(where):
        _check_place(node, where)
    if node.shape is None:
        raise FormatError(f"{where} holds nothing (a null dataspace); choose another")
    return node


def dataset_names(file: h5py.File) -> list[str]:
    """Return the paths of the first `MOST_DATASETS` datasets that lie in the file itself."""
    with library(str(file.filename)):
        root = {h5py.h5o.get_info(file.id).addr}
        return list(itertools.islice(_datasets(file, "", 0, root), MOST_DATASETS))


def _datasets(group: h5py.Group, prefix: str, depth: int, seen: set[int]) -> Iterator[str]:
    """Yield paths by name, each dataset once; links out of the file are not followed."""
    for step in itertools.islice(group, _MOST_OBJECTS):
        if not isinstance(group.get(step, getlink=True), h5py.HardLink):
            continue
        node = group[step]
        address = h5py.h5o.get_info(node.id).addr
        # Groups may hold themselves.
        if address in seen or len(seen) >= _MOST_OBJECTS:
            continue
        seen.add(address)
        if isinstance(node, h5py.Dataset):
            yield prefix + step
        elif isinstance(node, h5py.Group) and depth < DEEPEST:
            yield from _datasets(node, f"{prefix}{step}/", depth + 1, seen)


def _try(path: Path) -> None:
    """Touch all that is looked at before data are read, and the first and last rows of the data."""
    budget = _TRIED_BYTES
    with h5py.File(path, "r") as file:
        _try_attributes(file)
        for name in dataset_names(file):
            with suppress(Exception):
                node = file[name]
                _try_attributes(node)
                _check_place(node, name)
                ends = (slice(0, 1), slice(-1, None)) if node.shape else ((),)
                cost = len(ends) * node.dtype.itemsize * math.prod(node.chunks or node.shape[1:])
                if node.size and cost <= budget:
                    budget -= cost
                    for part in ends:
                        node[part]


def _try_attributes(node: Any) -> None:
    with suppress(Exception):
        for name in node.attrs:
            attribute(node, name)


def has(file: h5py.File, name: str) -> bool:
    """Return whether there is anything of a name, without following it if it is a link.

    Groups and empty datasets do not count: they hold nothing that could be meant.
    """
    with library(str(file.filename)):
        link = file.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            return link is not None
        node = file[name]
        return isinstance(node, h5py.Dataset) and (_leads_out(node) or node.shape is not None)


def optional(file: h5py.File, name: str, rows: int, rank: int | Sequence[int] = 1) -> bool:
    """Return whether a file has a dataset of a name with numbers for each of `rows` rows.

    For what nobody asked for: what is absent, a group or empty is passed over, and a dataset that
    does not fit is, with a warning.
    """
    if not has(file, name):
        return False
    try:
        node = dataset(file, name, rank)
        if len(node) != rows:
            raise FormatError(
                f"{file.filename}: dataset {name!r} has {len(node)} rows, the samples {rows}"
            )
    except FormatError as error:
        warnings.warn(f"{error}; it is not used", stacklevel=2)
        return False
    return True


def _check_place(node: h5py.Dataset, where: str) -> None:
    if _leads_out(node):
        raise FormatError(
            f"{where} keeps its data in other files, which are not opened; write it into one file, "
            "for example with h5repack"
        )
    if overlapping(node.dtype):
        raise FormatError(
            f"{where} is a table of records ({', '.join(node.dtype.names)}) some of which overlap: "
            "it is damaged, or has floating-point numbers of a kind that NumPy does not know; "
            "write its columns as datasets of their own"
        )


def _leads_out(node: h5py.Dataset) -> bool:
    """Return whether data lie in other files, which even a question for the shape may open."""
    properties = node.id.get_create_plist()
    if properties.get_layout() == h5py.h5d.VIRTUAL:
        return True
    return int(properties.get_external_count()) > 0


def _no_numbers(where: str, node: h5py.Dataset) -> str | None:
    """Say what a dataset holds that is no array of numbers, and what to do about it."""
    if node.dtype.names:
        columns = ", ".join(node.dtype.names)
        return (
            f"{where} is a table of records ({columns}), for which there is no reader; write its "
            "columns as datasets of their own: for name in table.dtype.names: "
            "file[name] = table[name]"
        )
    if h5py.check_vlen_dtype(node.dtype) is not None and not h5py.check_string_dtype(node.dtype):
        return (
            f"{where} holds lists of unequal length, for which there is no reader in HDF5; write "
            "them as a ROOT tree, or as columns for a fixed number of items"
        )
    if node.dtype.kind not in "biuf":
        return (
            f"{where} holds {node.dtype} (kind {node.dtype.kind!r}), not numbers; choose a dataset "
            "of numbers"
        )
    return None


def check_storage(node: h5py.Dataset, where: str) -> None:
    """Raise `FormatError` if a filter is unknown, or there is more data than the file can hold."""
    properties = node.id.get_create_plist()
    for index in range(properties.get_nfilters()):
        code, _, _, label = properties.get_filter(index)
        if code not in _FILTERS:
            raise FormatError(
                f"{where} is compressed with filter {code} ({label.decode(errors='replace')}), "
                "which needs a plugin; rewrite it with `h5repack -f GZIP=4`"
            )
    stored = min(node.id.get_storage_size(), Path(node.file.filename).stat().st_size)
    if node.nbytes > LARGEST_DEFLATED * stored + 2**16:
        raise FormatError(
            f"{where} declares shape {node.shape} ({node.nbytes:.3g} bytes), but the file stores "
            f"{stored} bytes of it: it was never written, or is damaged"
        )
    row = node.nbytes // max(1, node.shape[0]) if node.ndim else node.nbytes
    chunk = node.dtype.itemsize * int(np.prod(node.chunks, dtype=object)) if node.chunks else 0
    if max(row, chunk) > _LARGEST_CHUNK:
        raise FormatError(
            f"{where}: one row takes {row:.3g} and one chunk {chunk:.3g} bytes, more than a "
            "gibibyte; rewrite it in smaller chunks, for example with `h5repack -l CHUNK=...`"
        )


def stored_schema(file: h5py.File) -> Schema | None:
    """Return the schema that physgen wrote into a file, `None` if it wrote none.

    Raises:
        FormatError: it cannot be understood.
    """
    text = attribute(file, "physgen_schema")
    return None if text is None else written_schema(str(text), file.filename)


def dtype_of(node: h5py.Dataset) -> np.dtype[Any]:
    """Return the type of a dataset's values, unpacked."""
    packed = packing(node)
    return node.dtype if packed is None else packed.dtype


def read_rows(node: h5py.Dataset, start: int, stop: int, finite: bool = True) -> NDArray[Any]:
    """Return rows [start, stop) of a checked dataset, unpacked (see `packing`).

    Raises:
        FormatError: naming file, dataset and rows: the data are damaged, or a value is not finite,
            or the one that stands for a missing value (the attribute `_FillValue`).
    """
    where = f"{node.file.filename}: dataset {node.name.strip('/')!r}"
    try:
        values = np.asarray(node[start:stop])
    except (OSError, RuntimeError, ValueError, TypeError, MemoryError) as error:
        raise FormatError(
            f"{where}: rows {start} to {stop - 1} are damaged ({error}); copy or make it again"
        ) from error
    if finite:
        check_finite(values, start, where)
        check_filled(node, values, start, where)
    packed = packing(node)
    return values if packed is None else packed.unpack(values)


class Values:
    """A checked dataset as an array that is read by rows, unpacked, NaN and all."""

    def __init__(self, node: h5py.Dataset) -> None:
        self._node, self.shape, self.dtype = node, tuple(node.shape), dtype_of(node)

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        start, stop, _ = rows.indices(self.shape[0])
        return read_rows(self._node, start, stop, finite=False)


def rows_at_once(nodes: Sequence[h5py.Dataset]) -> int:
    """Return how many rows are cheap to read together: whole chunks, `BLOCK_BYTES` or more."""
    row_bytes = sum(max(1, node.nbytes // max(1, node.shape[0])) for node in nodes)
    chunk = max(node.chunks[0] if node.chunks else 1 for node in nodes)
    return int(chunk * max(1, BLOCK_BYTES // row_bytes // chunk))
