"""Ensembles of scalar fields in files: HDF5 or npz, the field in `configurations` (N, *shape).

`chain` (N,), where present, says which Markov chain a configuration belongs to, in the order of
Monte Carlo time. Attributes of the file say which action it is an ensemble of.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from physgen.batch import Batch, Schema
from physgen.errors import FormatError
from physgen.io.hdf5 import open_hdf5
from physgen.io.hdf5_source import HDF5Source
from physgen.io.npz import open_npz
from physgen.io.source import Source
from physgen.io.writer import Append, hdf5_writer, npz_writer

FIELD = "configurations"


def open_ensemble(path: Path, schema: Schema) -> Source:
    """Open an ensemble of the lattice of `schema`, which may be larger than memory in HDF5.

    Raises:
        FormatError: there is no such file, no field in it, or one of another shape. Numbers that
            are not finite are found when they are read (their row is named).
    """
    source: Source
    if path.suffix == ".npz":
        source = open_npz(path, x=FIELD)
    else:
        with open_hdf5(path) as file:
            chain = "chain" if "chain" in file else None
        source = HDF5Source(path, x=FIELD, chain=chain)
    shape, dtype = source.schema.shape, source.schema.variables[0].dtype
    if shape != schema.shape or not dtype.startswith("float"):
        raise FormatError(
            f"{path}: {FIELD!r} is {dtype} of shape {(len(source), *shape)}, expected real numbers "
            f"of shape (N, {', '.join(map(str, schema.shape))}); set system.shape to that of the "
            "file"
        )
    source.schema = schema
    return source


def ensemble_writer(
    path: Path, schema: Schema, facts: Mapping[str, str | float]
) -> AbstractContextManager[Append]:
    """Write an ensemble piece by piece as HDF5, or npz by suffix; `facts` become attributes."""
    write = npz_writer if path.suffix == ".npz" else hdf5_writer
    return write(path, _layout, schema=schema, attributes=facts)


def _layout(batch: Batch) -> dict[str, NDArray[Any]]:
    columns = {FIELD: batch.x.cpu().numpy()}
    if batch.chain is not None:
        columns["chain"] = batch.chain.cpu().numpy()
    return columns
