"""Showers of the CMS HGCal challenge (2026): cells in layers, whose places the file does not hold.

HDF5 with `showers` (N, layers, cells), GeV seen by the sensors, padded with zeros, and `gen_info`
(N, 1 to 3 or more): energy in GeV, eta and phi of the particle. They are read as voxels, layer by
layer, cell by cell; what needs places of cells asks for a geometry.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from physgen.errors import FormatError
from physgen.io.hdf5 import BLOCK_BYTES, dataset, open_hdf5, read_rows
from physgen.io.shower_source import ShowerSource, energy_unit, same_length
from physgen.io.showers import check_energies, cosines, voxel_schema

NAME = "HGCal HDF5"
_SHOWERS, _GIVEN = "showers", "gen_info"
_ANGLES = 3
"""Columns of `gen_info` with eta and phi."""


def is_hgcal(names: set[str]) -> bool:
    """Return whether these are the datasets of such a file."""
    return names >= {_SHOWERS, _GIVEN}


def binning_of(path: Path) -> str:
    """Return what the file says of its geometry: how many cells lie in how many layers."""
    with open_hdf5(path) as file:
        _, layers, cells = dataset(file, _SHOWERS, 3).shape
    return f"layers:{layers}x{cells}"


def open_hgcal(path: Path, _: int = 1) -> ShowerSource:
    """Open a file of showers, flat cells.

    Raises:
        FormatError: it is not such a file; the dataset is named.
    """
    with open_hdf5(path) as file:
        showers, given = dataset(file, _SHOWERS, 3), dataset(file, _GIVEN, (1, 2))
        length = same_length(path, {_SHOWERS: len(showers), _GIVEN: len(given)})
        n_cells = int(np.prod(showers.shape[1:]))
        directed = given.ndim == 2 and given.shape[1] >= _ANGLES
        factors = energy_unit(showers, "GeV"), energy_unit(given, "GeV")
        block = BLOCK_BYTES // max(1, n_cells * showers.dtype.itemsize)
    if n_cells == 0:
        raise FormatError(f"{path}: {_SHOWERS!r} has no cells")

    def rows(file: h5py.File, start: int, stop: int) -> dict[str, NDArray[Any]]:
        x = read_rows(dataset(file, _SHOWERS), start, stop).reshape(-1, n_cells)
        info = read_rows(dataset(file, _GIVEN), start, stop).reshape(len(x), -1).astype(float)
        check_energies(f"{path}: {_SHOWERS!r}", x, start)
        check_energies(f"{path}: {_GIVEN!r}", info[:, 0], start, positive=True)
        columns = [info[:, :1] * factors[1]]
        if directed:
            columns.append(cosines(2 * np.arctan(np.exp(-info[:, 1])), info[:, 2]))
        return {"x": x * factors[0], "condition": np.concatenate(columns, 1)}

    return ShowerSource(path, voxel_schema(n_cells, directions=directed), length, block, rows)
