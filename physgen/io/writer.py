"""Outputs that are either whole or absent: part file, fsync, rename.

A writer is a context manager that yields `append(batch)`. Rows go to a `.part` file beside the
output; the output appears, complete and synced to disk, when the `with` block ends without an
error, and not at all otherwise. What a batch looks like inside a file is a `Layout`: a function
from a batch to named columns, so that a format of the field is one function, not a writer.
"""

from __future__ import annotations

import errno
import functools
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physgen.batch import Batch, Schema
from physgen.errors import FormatError, InputError

Append = Callable[[Batch], None]
Layout = Callable[[Batch], Mapping[str, NDArray[Any]]]

CHUNK_BYTES = 2**20
"""Aimed-at bytes of the rows that one chunk of each dataset holds together."""

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG}


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def atomic(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a `.part` path that becomes `path` if the block ends without an error.

    The part lies in the same directory, so that the rename is atomic; file and directory are synced
    to disk before and after it.

    Raises:
        InputError: `path` exists (unless `overwrite`), or its directory cannot be written.
    """
    path = Path(path)
    refuse_existing(path, overwrite)
    part = part_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path)
        yield part
        _sync(part)
        refuse_existing(path, overwrite)
        part.replace(path)
        _sync(path.parent)
    except OSError as error:
        if error.errno in _DISK_ERRORS:
            raise InputError(
                f"cannot write {path}: {os.strerror(error.errno)}; free some space or choose "
                "another output path (nothing was left behind)"
            ) from error
        raise
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def part_of(path: Path) -> Path:
    """Return a new name beside `path` for what will become it; it tells machine and process."""
    return path.with_name(f"{path.name}.{_machine()}.{os.getpid()}.{secrets.token_hex(4)}.part")


def sweep(path: Path) -> None:
    """Remove the parts of `path` that a process which is dead left behind.

    Those of other machines cannot be asked; they are removed when they are a week old.
    """
    for part in path.parent.glob(f"{glob.escape(path.name)}.*.part"):
        owner = _OWNER.fullmatch(part.name[len(path.name) :])
        with suppress(OSError):
            if owner is None or (
                _is_alive(int(owner[2]))
                if owner[1] == _machine()
                else time.time() - part.stat().st_mtime < _WEEK
            ):
                continue
            if part.is_dir() and not part.is_symlink():
                shutil.rmtree(part)
            else:
                part.unlink()


_OWNER = re.compile(r"\.([0-9a-f]{8})\.(\d{1,9})\.[0-9a-f]{8}\.part")
_WEEK = 7 * 24 * 3600


@functools.cache
def _machine() -> str:
    """Return a mark of what numbers processes: the machine, or a container of it."""
    numbering = Path("/proc/self/ns/pid")
    space = str(numbering.readlink()) if numbering.exists() else ""
    return hashlib.sha256(f"{socket.gethostname()} {space}".encode()).hexdigest()[:8]


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise `InputError` if `path` exists (unless `overwrite`), or is no regular file."""
    if path.is_dir():
        raise InputError(f"{path} is a directory; give the path of a file to write")
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is a device or a pipe; give the path of a file to write")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists; choose another path, remove it, or pass --overwrite")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def plain(batch: Batch) -> dict[str, NDArray[Any]]:
    """Layout that names columns as `Batch` does: x, condition, weight, mask, chain, log_weight."""
    return {name: value.detach().cpu().numpy() for name, value in batch.fields().items()}


COMPANIONS = ("weight", "chain", "log_weight")
"""Of a row, as they are called in `Batch` and in files of formats that have no names for them."""


def companions(batch: Batch) -> dict[str, NDArray[Any]]:
    """Return those that a batch has, each (B,).

    >>> import torch
    >>> companions(Batch(torch.zeros(2, 1), weight=torch.tensor([0.5, 2.0])))
    {'weight': array([0.5, 2. ], dtype=float32)}
    """
    return {name: value for name, value in plain(batch).items() if name in COMPANIONS}


def named_conditions(
    columns: Mapping[str, NDArray[Any]], names: Sequence[str]
) -> dict[str, NDArray[Any]]:
    """Return columns with the (B, C) `condition` cut into C that are called by `names`."""
    result = dict(columns)
    if names and "condition" in result:
        values = result.pop("condition")
        result |= {name: values[:, index] for index, name in enumerate(names)}
    return result


@contextmanager
def hdf5_writer(
    path: Path,
    layout: Layout = plain,
    *,
    schema: Schema | None = None,
    attributes: Mapping[str, Any] | None = None,
    units: Mapping[str, str] | None = None,
    compression: str | None = None,
    overwrite: bool = False,
) -> Iterator[Append]:
    """Write batches as HDF5 datasets that grow by rows.

    Chunks hold whole rows (the same number in every dataset) and carry a Fletcher-32 checksum, so
    that a flipped bit is an error on reading.

    Args:
        path: of the output.
        layout: what becomes of a batch, dataset names to (B, ...) arrays.
        schema: stored as the JSON attribute `physgen_schema`, so that units and types come back.
        attributes: further attributes of the file.
        units: of datasets by their names, kept as their attribute `unit`.
        compression: "gzip" or "lzf"; none reads about 6 times faster.
        overwrite: replace an existing file.
    """
    import h5py

    cache = 2 * CHUNK_BYTES
    with atomic(path, overwrite) as part, h5py.File(part, "w", rdcc_nbytes=cache) as file:
        # Held open: HDF5 places chunks when a dataset is closed, and whatever looks at Python's
        # frames, such as a profiler, closes it later. Equal samples are to be equal bytes.
        datasets: dict[str, Any] = {}
        for name, value in (attributes or {}).items():
            file.attrs[name] = value
        if schema is not None:
            file.attrs["physgen_schema"] = json.dumps(schema.to_dict())

        def append(batch: Batch) -> None:
            columns = layout(batch)
            if not datasets:
                rows = _rows_per_chunk(columns)
                for name, value in columns.items():
                    datasets[name] = file.create_dataset(
                        name,
                        shape=(0, *value.shape[1:]),
                        maxshape=(None, *value.shape[1:]),
                        chunks=(rows, *value.shape[1:]),
                        dtype=value.dtype,
                        fletcher32=True,
                        compression=compression,
                    )
                    if units and units.get(name, "1") != "1":
                        datasets[name].attrs["unit"] = units[name]
            same_columns(path, set(datasets), columns)
            for name, value in columns.items():
                dataset = datasets[name]
                if value.shape[1:] != dataset.shape[1:]:
                    raise FormatError(
                        f"{path}: rows of {name!r} have shape {value.shape[1:]}, those before "
                        f"had {dataset.shape[1:]}"
                    )
                start = dataset.shape[0]
                dataset.resize(start + len(value), axis=0)
                dataset[start:] = value

        yield append
        for name in datasets:
            datasets[name].flush()


def _rows_per_chunk(columns: Mapping[str, NDArray[Any]]) -> int:
    """Largest power of two with which the rows of all columns stay within `CHUNK_BYTES`."""
    row_bytes = sum(value[:1].nbytes or value.itemsize for value in columns.values())
    return int(2 ** np.clip(np.floor(np.log2(CHUNK_BYTES / row_bytes)), 0, 14))


def same_columns(path: Path, before: set[str], columns: Mapping[str, Any]) -> None:
    """Raise `FormatError` unless columns are those of the batches before, and of one length."""
    if before != set(columns):
        changed = ", ".join(sorted(before ^ set(columns)))
        raise FormatError(f"{path}: all batches must hold the same columns; {changed} came or went")
    lengths = {name: len(value) for name, value in columns.items()}
    if len(set(lengths.values())) > 1:
        raise FormatError(f"{path}: columns of unequal length in one batch: {lengths}")


@contextmanager
def root_writer(
    path: Path,
    schema: Schema,
    *,
    tree: str = "events",
    weight: str = "weight",
    attributes: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Iterator[Append]:
    """Write batches as a TTree with one branch a variable, in the variable's own type.

    Integers are rounded and kept in range, never wrapped. Masked samples of shape (items, columns)
    become jagged branches; where their names share a prefix as in `Muon_pt`, `Muon_eta`, they share
    the counter `nMuon`.

    Args:
        path: of the output.
        schema: names and types of the branches.
        tree: name of the tree.
        weight: name of the branch of event weights, if the batches have weights.
        attributes: kept as text beside the tree, by name; the schema is, as `physgen_schema`.
        overwrite: replace an existing file.
    """
    import uproot

    from physgen.columns import branch_types, branches

    with atomic(path, overwrite) as part, uproot.recreate(part) as file:
        before: set[str] = set()

        def append(batch: Batch) -> None:
            columns = branches(batch, schema, weight)
            if not before:
                file.mktree(tree, branch_types(columns), field_name=_branch_name)
                before.update(columns)
            same_columns(path, before, columns)
            if len(batch):
                file[tree].extend(columns)

        yield append
        stated = {**(attributes or {}), "physgen_schema": json.dumps(schema.to_dict())}
        for name, value in stated.items():
            file[name] = str(value)


def _branch_name(outer: str, inner: str) -> str:
    return inner if outer == "" else f"{outer}_{inner}"


@contextmanager
def npz_writer(
    path: Path,
    layout: Layout = plain,
    *,
    schema: Schema | None = None,
    attributes: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Iterator[Append]:
    """Write batches as arrays of one `.npz` (held in memory until the end: npz cannot grow).

    Its `attributes`, which npz does not have, are arrays like the others.
    """
    parts: list[Mapping[str, NDArray[Any]]] = []
    with atomic(path, overwrite) as part:
        yield lambda batch: parts.append(layout(batch))
        for columns in parts:
            same_columns(path, set(parts[0]), columns)
        arrays = (
            {name: np.concatenate([p[name] for p in parts]) for name in parts[0]} if parts else {}
        )
        arrays |= {name: np.asarray(value) for name, value in (attributes or {}).items()}
        if schema is not None:
            arrays["physgen_schema"] = np.array(json.dumps(schema.to_dict()))
        with part.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
