"""NumPy archives as samples; nothing in them is unpickled, and only what is asked for is read."""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physgen.batch import Batch, Schema, Variable
from physgen.errors import FormatError, suggest
from physgen.io.guard import library, refuse_bomb, regular
from physgen.io.source import (
    as_batch,
    blocks,
    check_finite,
    digest_of,
    schema_of_array,
    written_schema,
)
from physgen.io.split import hash_columns

_LARGEST = 2**34
_MOST = 10_000
"""More arrays than any archive has."""


def array_names(path: Path) -> list[str]:
    """Return the names of the arrays of a `.npz`; raises `FormatError` if it is none."""
    with _opened(path) as archive:
        return [info.filename.removesuffix(".npy") for info in archive.filelist]


def read_arrays(path: Path, names: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
    """Read the arrays of a `.npz` of these names, or all.

    Raises:
        FormatError: not an archive of arrays, there is no array of a name (near misses are named),
            or it is larger than 16 GiB, claims to unpack to far more than the file holds, is
            damaged, or made of Python objects.
    """
    known = array_names(path)
    result = {}
    with _opened(path) as archive:
        for name in known if names is None else names:
            if name not in known:
                raise FormatError(f"{path}: no array {name!r}{suggest(name, known)}")
            result[name] = read_member(path, archive, archive.getinfo(f"{name}.npy"))
    return result


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    with library(str(regular(path))), zipfile.ZipFile(path) as archive:
        check_archive(path, archive)
        yield archive


def check_archive(path: Path, archive: zipfile.ZipFile) -> None:
    """Raise `FormatError` if the members of an archive lie over one another, or are too many."""
    members = archive.infolist()
    if len(members) > _MOST or sum(m.compress_size for m in members) > path.stat().st_size:
        raise FormatError(
            f"{path}: an archive of {len(members)} members that share their bytes or are too many: "
            "it is damaged, or made to exhaust the memory"
        )


def read_member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    """Return an array of an archive, after comparing what it declares with what there is.

    Raises:
        FormatError: it is not a plain array, or not of the size that it declares.
    """
    where = f"{path}: array {member.filename.removesuffix('.npy')!r}"
    refuse_bomb(where, member.file_size, member.compress_size)
    if member.file_size > _LARGEST:
        raise FormatError(
            f"{where} has {member.file_size:.3g} bytes, too large for an archive that must be read "
            "at once; write it as HDF5"
        )
    shape, dtype, start = _header(where, archive, member)
    if dtype.hasobject:
        raise FormatError(
            f"{where} holds Python objects, which are refused: loading them could run code; save "
            "numbers instead"
        )
    if math.prod(shape) * dtype.itemsize != member.file_size - start:
        raise FormatError(
            f"{where} declares shape {shape} of {dtype}, but {member.file_size - start} bytes of "
            "data are there; it is damaged: make it again"
        )
    with library(where), archive.open(member) as stream:
        return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))


def array_types(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Return shapes and types of the arrays of a `.npz`, as they declare them; none is read."""
    with _opened(path) as archive:
        result = {}
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            shape, dtype, _ = _header(f"{path}: array {name!r}", archive, member)
            result[name] = shape, dtype
        return result


def _header(
    where: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo
) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Return shape and type that an array declares, and where its data begin in the member."""
    with library(where), archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        header = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = header(stream)
        return shape, dtype, stream.tell()


class NpzSource:
    """Arrays of a `.npz`, held in memory.

    Args:
        path: of the archive.
        x: name of the array of samples (N, ...).
        condition, weight, chain, log_weight: names of arrays (N, C), (N,), (N,) and (N,).
        companions: names of arrays by what they are in `Batch`, taken where they are there and fit;
            `None` looks for those that are called as in `Batch`.
        group: names of one-dimensional arrays whose values identify the event of a row.

    Raises:
        FormatError: not an archive of arrays, one that is named is absent or not of numbers,
            lengths differ, an array is larger than 16 GiB, or a value is not finite (its row is
            named).
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
    ) -> None:
        self.path, self.name, self.block = Path(path), str(path), 4096
        self.group = tuple(group)
        given = {"x": x, "condition": condition, "weight": weight, "chain": chain}
        given["log_weight"] = log_weight
        asked = {key: name for key, name in given.items() if name is not None}
        self._names = asked
        known = array_names(self.path)
        usual = {key: key for key in ("condition", "weight", "mask", "chain", "log_weight")}
        others = usual if companions is None else companions
        self._arrays = read_arrays(self.path, list(asked.values()))
        self._arrays = {key: self._arrays[name] for key, name in asked.items()}
        for key, name in asked.items():
            self._check(key, name, self._arrays[key])
        for key, name in others.items():
            if name in known and key not in asked:
                self._take(key, name)
        self.schema = self._schema("physgen_schema" in known)

    def __len__(self) -> int:
        return len(self._arrays["x"])

    def arrays(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Return rows [start, stop) by their name in `Batch`."""
        return {key: array[start:stop] for key, array in self._arrays.items()}

    def read(self, start: int, stop: int) -> Batch:
        """Return rows [start, stop)."""
        return as_batch(self.arrays(start, stop))

    def digest(self) -> str:
        """Return the SHA-256 of the samples."""
        return digest_of(blocks(self))

    def keys(self) -> NDArray[np.int64] | None:
        """Return (N,) hashes of the group arrays."""
        if not self.group:
            return None
        columns = read_arrays(self.path, self.group)
        for name, column in columns.items():
            self._check("group", name, column)
        return hash_columns(list(columns.values()))

    def _take(self, key: str, name: str) -> None:
        """Take an array that nobody asked for, if it fits."""
        try:
            array = read_arrays(self.path, [name])[name]
            self._check(key, name, array)
        except FormatError as error:
            warnings.warn(f"{error}; it is not used", stacklevel=3)
            return
        self._arrays[key] = array

    def _check(self, key: str, name: str, array: NDArray[Any]) -> None:
        where = f"{self.path}: array {name!r}"
        if array.dtype.kind not in "biuf" or array.ndim == 0:
            raise FormatError(f"{where} holds {array.dtype}, not rows of numbers")
        if len(array) != len(self):
            raise FormatError(
                f"{self.path}: arrays of unequal length: {name!r} has {len(array)} rows, "
                f"{self._names['x']!r} has {len(self)}"
            )
        if key in ("weight", "chain", "log_weight", "group") and array.ndim > 1:
            raise FormatError(f"{where} has shape {array.shape}; one number a row is expected")
        check_finite(array, 0, where)

    def _schema(self, written: bool) -> Schema:
        x, condition = self._arrays["x"], self._arrays.get("condition")
        stored = None
        if written:
            text = read_arrays(self.path, ["physgen_schema"])["physgen_schema"]
            stored = written_schema(str(text), str(self.path))
        plain = Variable(self._names["x"], dtype=x.dtype.name)
        schema = schema_of_array(stored, self._names["x"], x.shape[1:] or (1,), plain)
        if condition is None or schema.condition:
            return schema
        width = 1 if condition.ndim == 1 else condition.shape[1]
        kind = condition.dtype.name
        names = [f"condition_{i}" for i in range(width)]
        return replace(schema, condition=tuple(Variable(n, dtype=kind) for n in names))
