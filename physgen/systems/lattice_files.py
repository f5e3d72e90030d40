"""Ensembles of scalar fields in files: HDF5 or npz, the field in `configurations` (N, *shape).

`chain` (N,), where present, says which Markov chain a configuration belongs to, in the order of
Monte Carlo time. Attributes of an HDF5 file say which action it is an ensemble of.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from physgen.batch import Batch, Schema
from physgen.errors import FormatError, suggest
from physgen.io.source import ArraySource, Source
from physgen.io.writer import hdf5_writer, npz_writer

FIELD = "configurations"


def open_ensemble(path: Path, schema: Schema) -> Source:
    """Open an ensemble of the lattice of `schema`.

    Raises:
        FormatError: if there is no such file, no field in it, or one of another shape, or with
            numbers that are not finite (the first bad configuration is named).
    """
    arrays = _read(path)
    if FIELD not in arrays:
        raise FormatError(
            f"{path}: no dataset '{FIELD}' with the fields in it{suggest(FIELD, arrays)}"
        )
    field = arrays[FIELD]
    if field.shape[1:] != schema.shape or field.dtype.kind != "f":
        raise FormatError(
            f"{path}: '{FIELD}' is {field.dtype} of shape {field.shape}, expected real numbers of "
            f"shape (N, {', '.join(map(str, schema.shape))}); set system.shape to that of the file"
        )
    bad = np.flatnonzero(~np.isfinite(field.reshape(len(field), -1)).all(1))
    if bad.size:
        raise FormatError(
            f"{path}: {bad.size} configurations are not finite, the first is row {bad[0]}; "
            "remove them from the file"
        )
    chain = arrays.get("chain")
    batch = Batch(
        x=torch.from_numpy(field),
        chain=None if chain is None else torch.from_numpy(chain.astype(np.int64)),
    )
    return ArraySource(batch, schema, name=str(path))


def write_ensemble(
    path: Path, batch: Batch, schema: Schema, facts: Mapping[str, str | float]
) -> None:
    """Write an ensemble as HDF5 (or npz, by suffix), atomically; `facts` become attributes."""
    if path.suffix == ".npz":
        with npz_writer(path, _layout, schema=schema) as append:
            append(batch)
    else:
        with hdf5_writer(path, _layout, schema=schema, attributes=facts) as append:
            append(batch)


def _layout(batch: Batch) -> dict[str, NDArray[Any]]:
    columns = {FIELD: batch.x.cpu().numpy()}
    if batch.chain is not None:
        columns["chain"] = batch.chain.cpu().numpy()
    return columns


def _read(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a file by name."""
    if not path.is_file():
        raise FormatError(f"{path}: no such file")
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    import h5py

    if not h5py.is_hdf5(path):
        raise FormatError(f"{path}: not an HDF5 file; ensembles are .h5 or .npz files")
    with h5py.File(path, "r") as file:
        return {name: item[()] for name, item in file.items() if isinstance(item, h5py.Dataset)}
