"""Showers in cells of a rectangular grid, as the `LoadHdf5` of key4hep's DDML plays them back.

HDF5 with `layers` (N, layers, rows, columns), MeV, the first layer first. DDML (revision a908dfb)
loads it for one model only, RegularGridTwoAngleBIBAEModel, which has the rows along y, the columns
along x, and the point of incidence not in the middle of the grid. Of a particle that enters at a
right angle the cell (l, i, j) lies at

    y = (i - a + 1/2) d,  x = (j - b + 1/2) d,  (a, b) = `INCIDENCE`

in mm, d being the attribute `cell_mm` of the file. DDML needs nothing else; beside it physgen keeps
`incident_energies` (N, 1) in MeV and `directions` (N, 3), and asks for the former on reading.

The attribute `ddml_model` names the model. Files that physgen wrote without it have x along the
rows, y along the columns, and the axis in the middle: x = (i - n_i // 2 + 1/2) d, y with j.
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
from physgen.errors import FormatError
from physgen.io.attributes import attribute
from physgen.io.hdf5 import BLOCK_BYTES, dataset, has, open_hdf5, read_rows
from physgen.io.shower_source import ShowerSource, energy_unit, read_calorimeters, same_length
from physgen.io.showers import check_energies, packed, point_schema
from physgen.io.writer import Append, hdf5_writer

NAME = "DDML HDF5"
MODEL = "RegularGridTwoAngleBIBAEModel"

INCIDENCE = (77 / 5.088333, 137 / 5.088333)
"""(a, b), rows and columns before the point where a particle enters at a right angle.

In cells, whatever their size and number: the model has them from its own grid, which begins 77 mm
and 137 mm before that point and has cells of 5.088333 mm.
"""

_LAYERS, _ENERGIES, _DIRECTIONS = "layers", "incident_energies", "directions"


def is_ddml(names: set[str]) -> bool:
    """Return whether these are the datasets of such a file."""
    return _LAYERS in names and "showers" not in names


def open_ddml(path: Path, n_points: int = 1) -> ShowerSource:
    """Open a library of showers as points in the middle of their cells.

    Args:
        path: of the file.
        n_points: places a shower has at least.

    Raises:
        FormatError: it is not such a file, or does not say how large its cells are, or at which
            energies showers were made, or is for another model. All showers are looked at, block by
            block.
    """
    with open_hdf5(path) as file:
        layers = dataset(file, _LAYERS, 4)
        model = attribute(file, "ddml_model")
        if model not in (None, MODEL):
            raise FormatError(
                f"{path}: the attribute 'ddml_model' is {model!r}, and where cells lie is known "
                f"for {MODEL} only"
            )
        swapped = model is None and attribute(file, "physgen_version") is not None
        size = attribute(file, "cell_mm")
        if isinstance(size, str) or size is None or np.ndim(size) or not 0 < size < np.inf:
            raise FormatError(
                f"{path} does not say how large the cells of {_LAYERS!r} are; state it in mm: "
                "h5py.File(FILE, 'a').attrs['cell_mm'] = 5.0"
            )
        if not has(file, _ENERGIES):
            raise FormatError(
                f"{path}: {_LAYERS!r} does not say at which energies its showers were made; add "
                f"{_ENERGIES!r} (N, 1) in MeV: h5py.File(FILE, 'a')['{_ENERGIES}'] = energies"
            )
        energies, directed = dataset(file, _ENERGIES, (1, 2)), has(file, _DIRECTIONS)
        lengths = {_LAYERS: len(layers), _ENERGIES: len(energies)}
        lengths |= {_DIRECTIONS: len(dataset(file, _DIRECTIONS, 2))} if directed else {}
        length, shape = same_length(path, lengths), layers.shape[1:]
        factors = energy_unit(layers, "MeV"), energy_unit(energies, "MeV")
        calorimeters = read_calorimeters(file)
        block = max(1, BLOCK_BYTES // max(1, layers.nbytes // max(1, length)))
        most = n_points
        for start in range(0, length, block):
            values = read_rows(layers, start, min(start + block, length))
            most = max(most, int(np.count_nonzero(values, (1, 2, 3)).max(initial=0)))

    def rows(file: h5py.File, start: int, stop: int) -> dict[str, NDArray[Any]]:
        cells = read_rows(dataset(file, _LAYERS), start, stop)
        check_energies(f"{path}: {_LAYERS!r}", cells, start)
        row, layer, i, j = np.nonzero(cells)
        if swapped:
            x, y = (i - shape[1] // 2 + 0.5) * size, (j - shape[2] // 2 + 0.5) * size
        else:
            y, x = (i - INCIDENCE[0] + 0.5) * size, (j - INCIDENCE[1] + 0.5) * size
        columns = np.stack([x, y, layer, cells[row, layer, i, j] * factors[0]], 1)
        counts = np.bincount(row, minlength=len(cells))
        points, mask = packed(columns.astype(np.float32), counts, most)
        given = [read_rows(dataset(file, _ENERGIES), start, stop).reshape(-1, 1)]
        check_energies(f"{path}: {_ENERGIES!r}", given[0], start, positive=True)
        given[0] = given[0] * factors[1]
        if directed:
            given.append(read_rows(dataset(file, _DIRECTIONS), start, stop))
        return {"x": points, "mask": mask, "condition": np.concatenate(given, 1)}

    source = ShowerSource(path, point_schema(most, "layer", 4, directed), length, block, rows)
    source.calorimeters = calorimeters
    return source


def ddml_writer(
    path: Path,
    cell_mm: float,
    *,
    facts: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> AbstractContextManager[Append]:
    """Write showers in cells (B, layers, rows, columns) of `cell_mm`, in MeV, atomically."""

    def layout(batch: Batch) -> dict[str, NDArray[Any]]:
        columns = {_LAYERS: batch.x.numpy().astype(np.float32)}
        if batch.condition is not None:
            given = batch.condition.numpy().astype(np.float32)
            columns[_ENERGIES] = given[:, :1]
            if given.shape[1] > 1:
                columns[_DIRECTIONS] = given[:, 1:4]
        return columns

    return hdf5_writer(
        path,
        layout,
        attributes={**(facts or {}), "cell_mm": cell_mm, "ddml_model": MODEL},
        units={_LAYERS: "MeV", _ENERGIES: "MeV"},
        compression="gzip",
        overwrite=overwrite,
    )
