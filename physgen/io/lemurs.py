"""Showers of voxels as LEMURS and CaloDiT keep them: (rings, sectors, layers), 9 x 16 x 45.

HDF5 with `showers` (N, rings, sectors, layers), `incident_energy`, `incident_theta` and
`incident_phi` (N,), or one table of records `events` with fields of these names. Energies are MeV
unless an attribute `unit` says otherwise, angles radian.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from physgen.batch import Batch
from physgen.errors import FormatError, InputError
from physgen.io.hdf5 import BLOCK_BYTES, dataset, has, open_hdf5, read_rows
from physgen.io.hdf5_tables import Records
from physgen.io.shower_source import ShowerSource, energy_unit, same_length
from physgen.io.showers import check_energies, cosines, voxel_schema
from physgen.io.writer import Append, hdf5_writer

NAME = "LEMURS HDF5"
_TABLE = "events"
_NAMES = ("showers", "incident_energy", "incident_theta", "incident_phi")
_FIELDS = {f"{_TABLE}/{name}" for name in _NAMES}


def is_lemurs(names: set[str]) -> bool:
    """Return whether these are the datasets of such a file."""
    return names >= set(_NAMES) or names >= _FIELDS


def open_lemurs(path: Path, _: int = 1) -> ShowerSource:
    """Open a file of showers, flat voxels in the order of CaloChallenge.

    Raises:
        FormatError: it is not such a file; the dataset is named.
    """
    with open_hdf5(path) as file:
        table = not has(file, _NAMES[0])
        if table:
            records = Records(file, _TABLE)
            shape, length = records.fields["showers"].shape, len(records)
            bytes_of_row, factors = records.row_bytes, (1.0, 1.0)
        else:
            nodes = {name: dataset(file, name) for name in _NAMES}
            length = same_length(path, {name: len(node) for name, node in nodes.items()})
            shape, bytes_of_row = (
                nodes["showers"].shape[1:],
                nodes["showers"].nbytes // max(1, length),
            )
            deposits, energies = (energy_unit(nodes[name], "MeV") for name in _NAMES[:2])
            factors = deposits, energies
    if len(shape) != 3:
        raise FormatError(
            f"{path}: showers of shape {shape}; expected (rings, sectors, layers), such as (9, 16, "
            "45)"
        )
    where = f"{path}: {'field' if table else 'dataset'}"

    def rows(file: h5py.File, start: int, stop: int) -> dict[str, NDArray[Any]]:
        if table:
            values = Records(file, _TABLE).read(start, stop)
        else:
            values = {n: read_rows(dataset(file, n), start, stop) for n in _NAMES}
        x, energy, theta, phi = (values[name] for name in _NAMES)
        energy = energy.reshape(-1)
        check_energies(f"{where} 'incident_energy'", energy, start, positive=True)
        check_energies(f"{where} 'showers'", x.reshape(len(x), -1), start)
        flat = x.transpose(0, 3, 2, 1).reshape(len(x), -1) * factors[0]
        directions = cosines(theta.reshape(-1), phi.reshape(-1))
        given = np.concatenate([energy[:, None] * factors[1], directions], 1)
        return {"x": flat, "condition": given}

    n_voxels = int(np.prod(shape))
    return ShowerSource(
        path,
        voxel_schema(n_voxels, directions=True),
        length,
        BLOCK_BYTES // max(1, bytes_of_row),
        rows,
    )


def lemurs_writer(
    path: Path,
    grid: tuple[int, int, int] | None,
    *,
    facts: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> AbstractContextManager[Append]:
    """Write showers of a regular grid (layers, sectors, rings), in MeV, atomically.

    Raises:
        InputError: the grid is not regular.
    """
    if grid is None:
        raise InputError(
            f"{path}: LEMURS holds showers of a regular grid; give the geometry of one, in which "
            "all layers have as many sectors and rings, with --binning"
        )

    def layout(batch: Batch) -> dict[str, NDArray[Any]]:
        given = np.zeros((len(batch), 4)) if batch.condition is None else batch.condition.numpy()
        x = batch.x.numpy().reshape(-1, *grid).transpose(0, 3, 2, 1)
        along = given[:, 1:4] if given.shape[1] == 4 else np.tile([0.0, 0.0, 1.0], (len(x), 1))
        return {
            "showers": np.ascontiguousarray(x),
            "incident_energy": given[:, 0].astype(np.float32),
            "incident_theta": np.arccos(np.clip(along[:, 2], -1, 1)).astype(np.float32),
            "incident_phi": np.arctan2(along[:, 1], along[:, 0]).astype(np.float32),
        }

    units = {"showers": "MeV", "incident_energy": "MeV"}
    return hdf5_writer(
        path, layout, attributes=facts, units=units, compression="gzip", overwrite=overwrite
    )
