"""Showers of points as CaloHadronic keeps them: ECAL and HCAL in one list of layers.

HDF5 with `events` (N, 4, points) or (N, points, 4): x, layer, y (the file's z), energy; and
`energy` (N, 1) of the particles. Layers 0 to 29 are those of the ECAL, 30 to 77 of the HCAL.
Energies are GeV and lengths mm. Places without energy are empty, wherever they stand; `n_points`
(N,), where the file has it, counts the others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from physgen.errors import FormatError
from physgen.io.hdf5 import BLOCK_BYTES, dataset, has, open_hdf5, read_rows
from physgen.io.shower_source import ShowerSource, energy_unit, same_length
from physgen.io.showers import Depth, check_energies, depth_of, packed, point_schema

NAME = "CaloHadronic HDF5"
CALORIMETERS = {"ecal": range(30), "hcal": range(30, 78)}
_EVENTS, _ENERGY, _COUNTS = "events", "energy", "n_points"
_COLUMNS = 4
_ORDER = [0, 2, 1, 3]
"""Of the file's columns: x, y, depth, energy."""


def is_calohadronic(names: set[str]) -> bool:
    """Return whether these are the datasets of such a file."""
    return names >= {_EVENTS, _ENERGY}


def open_calohadronic(path: Path, n_points: int = 1) -> ShowerSource:
    """Open a file of showers, with `n_points` places a shower at least.

    Raises:
        FormatError: it is not such a file, an energy is negative, or points are not as many as
            `n_points` says; dataset and row are named. All events are looked at, block by block.
    """
    with open_hdf5(path) as file:
        events, energy = dataset(file, _EVENTS, 3), dataset(file, _ENERGY, (1, 2))
        counted = has(file, _COUNTS)
        lengths = {_EVENTS: len(events), _ENERGY: len(energy)}
        lengths |= {_COUNTS: len(dataset(file, _COUNTS))} if counted else {}
        length = same_length(path, lengths)
        if _COLUMNS not in events.shape[1:]:
            raise FormatError(
                f"{path}: {_EVENTS!r} has shape {events.shape}; expected (N, 4, points) or (N, "
                "points, 4)"
            )
        across = events.shape[1] == _COLUMNS
        factors = energy_unit(events, "GeV"), energy_unit(energy, "GeV")
        row_bytes = max(1, events.nbytes // max(1, length))
        block = max(1, BLOCK_BYTES // row_bytes)

        def points(file: h5py.File, start: int, stop: int) -> tuple[NDArray[Any], NDArray[Any]]:
            """Return the points (n, 4) of some showers, and how many each has."""
            x = read_rows(dataset(file, _EVENTS), start, stop)
            x = x.transpose(0, 2, 1) if across else x
            deposits = x[..., 3]
            check_energies(f"{path}: {_EVENTS!r}", deposits, start)
            mask = deposits > 0
            counts = mask.sum(1)
            if counted:
                said = read_rows(dataset(file, _COUNTS), start, stop).reshape(-1)
                wrong = counts != said
                if wrong.any():
                    row = int(wrong.argmax())
                    raise FormatError(
                        f"{path}: {_EVENTS!r} row {start + row} has {counts[row]} points with "
                        f"energy, and {_COUNTS!r} says {said[row]:g}; correct it, or remove it"
                    )
            return x[mask][:, _ORDER], counts

        most, depths = n_points, []
        for start in range(0, length, block):
            columns, counts = points(file, start, min(start + block, length))
            most = max(most, int(counts.max(initial=0)))
            depths.append(depth_of([columns[:, 2]]))
    depth: Depth = "layer" if set(depths) <= {"layer"} else "z"

    def rows(file: h5py.File, start: int, stop: int) -> dict[str, NDArray[Any]]:
        columns, counts = points(file, start, stop)
        columns = columns.astype(np.float64)
        columns[:, 3] *= factors[0]
        given = read_rows(dataset(file, _ENERGY), start, stop).reshape(-1, 1)
        check_energies(f"{path}: {_ENERGY!r}", given, start, positive=True)
        x, mask = packed(columns.astype(np.float32), counts, most)
        return {"x": x, "mask": mask, "condition": given * factors[1]}

    source = ShowerSource(path, point_schema(most, depth, _COLUMNS, False), length, block, rows)
    if depth == "layer":
        source.calorimeters = CALORIMETERS
    return source
