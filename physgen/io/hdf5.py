"""HDF5 read with distrust: nothing outside the file is touched, nothing huge is believed.

A dataset is refused before a byte of it is read if it lies behind a link to another file, keeps its
data in another file, needs a filter that would load a plugin, declares far more data than the file
can hold, or holds Python objects. What remains is read in whole chunks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from physgen.batch import Batch, Schema, Variable
from physgen.errors import FormatError, suggest
from physgen.io.source import blocks, check_finite, digest_of, to_tensor

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
# Deflate cannot shrink anything more than 1032 times; what claims more is not stored in the file.
_LARGEST_COMPRESSION = 1100
_LARGEST_CHUNK = 2**30


def open_hdf5(path: Path) -> h5py.File:
    """Open an HDF5 file for reading.

    Raises:
        FormatError: there is no such file, or it is not HDF5, or it is cut short.
    """
    path = Path(path)
    if not path.is_file():
        near = suggest(path.name, (p.name for p in path.parent.glob("*") if p.is_file()))
        raise FormatError(f"{path}: no such file{near}")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        with path.open("rb") as file:
            whole = file.read(8) == b"\x89HDF\r\n\x1a\n"
        raise FormatError(
            f"{path}: an HDF5 file that is cut short or damaged ({error}); copy or make it again"
            if whole
            else f"{path}: not an HDF5 file; `physgen inspect {path}` says what it is"
        ) from error


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
    node = file
    for step in name.strip("/").split("/"):
        link = node.get(step, getlink=True) if isinstance(node, h5py.Group) else None
        if link is None:
            raise FormatError(f"{where} does not exist{suggest(name, dataset_names(file))}")
        if not isinstance(link, h5py.HardLink):
            raise FormatError(
                f"{where} is a link ({type(link).__name__}), which is not followed: it may lead to "
                "another file; name the dataset itself, or copy it into this file"
            )
        node = node[step]
    if not isinstance(node, h5py.Dataset):
        raise FormatError(f"{where} is a group{suggest(name, dataset_names(file))}")
    _check_storage(node, where)
    ranks = (rank,) if isinstance(rank, int) else rank
    if ranks is not None and node.ndim not in ranks:
        wanted = " or ".join(str(r) for r in ranks)
        raise FormatError(
            f"{where} has shape {node.shape}, {node.ndim} dimension(s); expected {wanted}, the "
            "first being the samples"
        )
    return node


def dataset_names(file: h5py.File) -> list[str]:
    """Return the paths of all datasets that lie in the file itself."""
    names: list[str] = []
    # `visititems` follows hard links only, so that nothing outside the file is opened.
    file.visititems(lambda name, node: names.append(name) if _is_dataset(node) else None)
    return names


def _is_dataset(node: Any) -> bool:
    return isinstance(node, h5py.Dataset)


def _check_storage(node: h5py.Dataset, where: str) -> None:
    if node.dtype.kind not in "biuf":
        raise FormatError(
            f"{where} holds {node.dtype} (kind {node.dtype.kind!r}), not numbers; choose a dataset "
            "of numbers"
        )
    properties = node.id.get_create_plist()
    if node.is_virtual or properties.get_external_count() > 0:
        raise FormatError(
            f"{where} keeps its data in other files, which are not opened; write it into one file, "
            "for example with h5repack"
        )
    for index in range(properties.get_nfilters()):
        code, _, _, label = properties.get_filter(index)
        if code not in _FILTERS:
            raise FormatError(
                f"{where} is compressed with filter {code} ({label.decode(errors='replace')}), "
                "which needs a plugin; rewrite it with `h5repack -f GZIP=4`"
            )
    stored = min(node.id.get_storage_size(), Path(node.file.filename).stat().st_size)
    if node.nbytes > _LARGEST_COMPRESSION * stored + 2**16:
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
    text = file.attrs.get("physgen_schema")
    if text is None:
        return None
    try:
        return Schema.from_dict(json.loads(text))
    except (ValueError, TypeError, KeyError) as error:
        raise FormatError(
            f"{file.filename}: the attribute physgen_schema cannot be understood ({error}); it was "
            "changed, or written by another version: delete it to read plain datasets"
        ) from error


def read_rows(node: h5py.Dataset, start: int, stop: int, finite: bool = True) -> NDArray[Any]:
    """Return rows [start, stop) of a checked dataset.

    Raises:
        FormatError: naming file, dataset and rows: the data are damaged, or a value is not finite.
    """
    where = f"{node.file.filename}: dataset {node.name.strip('/')!r}"
    try:
        values = node[start:stop]
    except OSError as error:
        raise FormatError(
            f"{where}: rows {start} to {stop - 1} are damaged ({error}); copy or make it again"
        ) from error
    if finite:
        check_finite(values, start, where)
    return np.asarray(values)


def rows_at_once(nodes: Sequence[h5py.Dataset]) -> int:
    """Return how many rows are cheap to read together: whole chunks, `BLOCK_BYTES` or more."""
    row_bytes = sum(max(1, node.nbytes // max(1, node.shape[0])) for node in nodes)
    wanted = max(1, BLOCK_BYTES // row_bytes)
    chunk = max(node.chunks[0] if node.chunks else 1 for node in nodes)
    return int(chunk * max(1, wanted // chunk))


_RANKS: dict[str, int | Sequence[int]] = {
    "x": range(1, 33),
    "condition": (1, 2),
    "weight": 1,
    "chain": 1,
    "log_weight": 1,
    "mask": range(2, 33),
}


class HDF5Source:
    """Datasets of an HDF5 file as samples.

    Files that physgen wrote bring their schema with them; of others the shapes are known, but no
    units.

    Args:
        path: of the file, opened at the first use in each process.
        x: dataset of the samples, (N, ...).
        condition, weight, chain, log_weight: datasets (N, C), (N,), (N,) and (N,). Given `None`,
            the ones that physgen itself would have written are taken if `x` is named "x".
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
        group: Sequence[str] = (),
        block: int | None = None,
    ) -> None:
        self.path = Path(path)
        self.name = str(path)
        self.group = tuple(group)
        named = {
            "condition": condition,
            "weight": weight,
            "chain": chain,
            "log_weight": log_weight,
            "mask": None,
        }
        self._open: tuple[int, dict[str, h5py.Dataset]] | None = None
        file = open_hdf5(self.path)
        if "physgen_schema" in file.attrs and x == "x":
            named = {key: name or (key if key in file else None) for key, name in named.items()}
        self._names = {"x": x} | {key: name for key, name in named.items() if name is not None}
        nodes = self._nodes(file)
        lengths = {name: len(nodes[key]) for key, name in self._names.items()}
        if len(set(lengths.values())) > 1:
            shown = ", ".join(f"{name!r} has {n}" for name, n in lengths.items())
            raise FormatError(f"{path}: datasets of unequal length: {shown} rows")
        self._length = len(nodes["x"])
        self.block = block or rows_at_once(list(nodes.values()))
        self.schema = self._schema(file, nodes)

    def __len__(self) -> int:
        return self._length

    def read(self, start: int, stop: int) -> Batch:
        """Return rows [start, stop); raises `FormatError` naming the row of a NaN or infinity."""
        nodes = self._nodes()
        fields = {key: to_tensor(read_rows(node, start, stop)) for key, node in nodes.items()}
        for key in {"x", "condition"} & fields.keys():
            if fields[key].ndim == 1:
                fields[key] = fields[key].unsqueeze(1)
        return Batch(**fields)

    def digest(self) -> str:
        """Return the SHA-256 of the samples."""
        return digest_of(blocks(self))

    def keys(self) -> NDArray[np.int64] | None:
        """Return (N,) hashes of the group datasets."""
        from physgen.io.split import hash_columns

        if not self.group:
            return None
        file = self._nodes()["x"].file
        columns = [dataset(file, name, rank=1) for name in self.group]
        for name, column in zip(self.group, columns, strict=True):
            if len(column) != len(self):
                raise FormatError(
                    f"{self.path}: dataset {name!r} has {len(column)} rows, the samples {len(self)}"
                )
        return hash_columns([read_rows(column, 0, len(self)) for column in columns])

    def _nodes(self, file: h5py.File | None = None) -> dict[str, h5py.Dataset]:
        # HDF5 handles do not survive a fork.
        if self._open is None or self._open[0] != os.getpid():
            file = file or open_hdf5(self.path)
            nodes = {key: dataset(file, name, _RANKS[key]) for key, name in self._names.items()}
            self._open = (os.getpid(), nodes)
        return self._open[1]

    def _schema(self, file: h5py.File, nodes: dict[str, h5py.Dataset]) -> Schema:
        shape = nodes["x"].shape[1:] or (1,)
        stored = stored_schema(file)
        if stored is not None and self._names["x"] == "x" and stored.shape == shape:
            return stored
        condition: tuple[Variable, ...] = ()
        if "condition" in nodes:
            node, name = nodes["condition"], self._names["condition"]
            width = node.shape[1] if node.ndim == 2 else 1
            names = [name] if width == 1 else [f"{name}_{index}" for index in range(width)]
            condition = tuple(Variable(n, dtype=node.dtype.name) for n in names)
        return Schema(
            shape=shape,
            variables=(Variable(self._names["x"], dtype=nodes["x"].dtype.name),),
            condition=condition,
        )
