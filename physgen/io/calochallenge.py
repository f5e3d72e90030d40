"""Calorimeter showers in CaloChallenge files (arXiv:2410.21611).

An HDF5 file with `incident_energies` (N, 1) and `showers` (N, n_voxels), both in MeV unless their
attribute `unit` says otherwise, usually gzipped. Showers of a regular grid may have its axes, (N,
layers, sectors, rings). Rows are read as float32, whatever the file's type.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physgen.batch import Batch, Schema
from physgen.errors import FormatError, InputError
from physgen.io.attributes import attribute
from physgen.io.formats import format_of
from physgen.io.hdf5 import dataset_names, has, open_hdf5
from physgen.io.hdf5_source import HDF5Source
from physgen.io.showers import check_energies, mev, voxel_schema
from physgen.io.source import as_batch, digest_of
from physgen.io.writer import COMPANIONS, Append, hdf5_writer

NAME = "CaloChallenge HDF5"
ENERGIES, SHOWERS = "incident_energies", "showers"


ASSUMED = "calo-368.xml"
"""The shipped binning in which showers are read where nobody says another one."""

ASSUMED_LAYERS = "8+144+192+12+12"
"""The voxels of its layers."""

PUBLISHED_LAYERS = "8+160+190+5+5"
"""Those of published CaloChallenge set 1 photons, as many in all."""

BINNING, GEOMETRY_SHA256 = "binning", "geometry_sha256"
"""Attributes of a file that say its geometry: the name of the binning, and its hash."""

OTHER_NAMES = ("incident_energy", "incident_E", "energies", "energy", "E_inc")
"""What some call the energies of the particles."""


def is_calochallenge(names: set[str]) -> bool:
    """Return whether these are the datasets of such a file, or nearly: see `energies_of`."""
    return SHOWERS in names and not names.isdisjoint((ENERGIES, *OTHER_NAMES))


def stated_geometry(path: Path) -> tuple[str, str] | None:
    """Return the binning file, and the SHA-256 of the geometry, that a file says it is of.

    `None` if it says neither, as public files, or if it is no HDF5 file.
    """
    if format_of(path) != "HDF5":
        return None
    with open_hdf5(path) as file:
        name, sha = attribute(file, BINNING), attribute(file, GEOMETRY_SHA256)
    return (name, sha) if isinstance(name, str) and isinstance(sha, str) else None


def assumption() -> str:
    """Return what is assumed of the geometry of showers that say nothing of it, and the remedy."""
    return (
        f"nothing says in which geometry the showers lie: {ASSUMED} ({ASSUMED_LAYERS} voxels in "
        "its layers) is assumed; published CaloChallenge set 1 photons have as many voxels in "
        f"other layers ({PUBLISHED_LAYERS}); name theirs with --binning FILE.xml (train: "
        "data.binning=FILE.xml)"
    )


def energies_of(path: Path) -> str:
    """Return the dataset that holds the energies of the particles: by its name, or a near one.

    Raises:
        FormatError: several may be meant.
    """
    with open_hdf5(path) as file:
        names = set(dataset_names(file))
    near = [name for name in OTHER_NAMES if name in names]
    if ENERGIES in names or not near:
        return ENERGIES
    if len(near) > 1:
        raise FormatError(
            f"{path}: {' and '.join(map(repr, near))} may each be the energies of the particles; "
            f"call the right one {ENERGIES!r}: h5py.File(FILE, 'a').move('{near[0]}', '{ENERGIES}')"
        )
    return near[0]


class CaloChallengeSource:
    """A CaloChallenge file as a source of samples.

    The file is checked on opening for its structure and, row by row, on reading for its values.

    Args:
        path: of the file.
        n_voxels: of the binning it must fit; `None` accepts any number.
        grid: (layers, sectors, rings) of a regular binning, whose axes showers may have.

    Attributes:
        energies: the dataset of the energies of the particles.

    Raises:
        FormatError: there is no such file, or it is not such a file; the dataset, and for values
            the row, are named.
    """

    def __init__(
        self, path: Path, n_voxels: int | None = None, grid: tuple[int, int, int] | None = None
    ) -> None:
        self.path, self.name = Path(path), str(path)
        self.energies = energies_of(self.path)
        with open_hdf5(path) as file:
            if has(file, SHOWERS) and not has(file, self.energies):
                raise FormatError(
                    f"{path}: has {SHOWERS!r} but no dataset {self.energies!r} of (rows, 1) "
                    "energies of the particles in MeV; copy them from the file whose energies "
                    "the showers were made for (physgen generate --condition-from writes both)"
                )
        others = {name: name for name in COMPANIONS}
        self._source = HDF5Source(path, x=SHOWERS, condition=self.energies, companions=others)
        stored = self._source.schema
        self.block = self._source.block
        self._check_shapes(stored, n_voxels, grid)
        self.schema = voxel_schema(math.prod(stored.shape))
        self._factors = {
            "x": mev(f"{path}: {SHOWERS!r}", stored.variables[0].unit),
            "condition": mev(f"{path}: {self.energies!r}", stored.condition[0].unit),
        }

    def __len__(self) -> int:
        return len(self._source)

    def arrays(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Return rows [start, stop) by their name in `Batch`, in MeV.

        Raises:
            FormatError: a value is not finite or negative, or the rows cannot be decoded.
        """
        return self._checked(self._source.arrays(start, stop), start)

    def conditions(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return (rows, 1), the energies of the particles of rows [start, stop), see `arrays`."""
        only = self._source.arrays(start, stop, ("condition",))
        return self._checked(only, start)["condition"]

    def _checked(self, result: dict[str, NDArray[Any]], start: int) -> dict[str, NDArray[Any]]:
        """Return arrays of the file, from row `start` on, in MeV."""
        for key, name in (("x", SHOWERS), ("condition", self.energies)):
            if key not in result:
                continue
            values = result[key].reshape(len(result[key]), -1)
            if self._factors[key] != 1:
                values = values * self._factors[key]
            result[key] = np.ascontiguousarray(values, np.float32)
            where = f"{self.path}: {name!r}"
            check_energies(where, result[key], start, positive=key == "condition")
        return result

    def read(self, start: int, stop: int) -> Batch:
        """Return rows [start, stop), see `arrays`."""
        return as_batch(self.arrays(start, stop))

    def digest(self) -> str:
        """Return the SHA-256 of all rows, independent of chunks and compression."""
        sha = hashlib.sha256()
        for start in range(0, len(self), 4096):
            sha.update(digest_of([self.read(start, start + 4096)]).encode())
        return sha.hexdigest()

    def keys(self) -> NDArray[np.int64] | None:
        """Return `None`: showers stand alone."""
        return None

    def _check_shapes(
        self, stored: Schema, n_voxels: int | None, grid: tuple[int, int, int] | None
    ) -> None:
        if len(self) == 0:
            raise FormatError(
                f"{self.path} holds no showers: its datasets are empty; name a file with some"
            )
        axes = tuple(extent for extent in stored.shape if extent > 1) or (1,)
        stated = f"{SHOWERS!r} has shape {(len(self), *stored.shape)}"
        if len(stored.condition) != 1:
            raise FormatError(
                f"{self.path}: {self.energies!r} has {len(stored.condition)} columns, expected "
                "(N, 1)"
            )
        if n_voxels is not None and math.prod(axes) != n_voxels:
            raise FormatError(
                f"{self.path}: {stated}, showers of {math.prod(axes)} voxels, but the binning has "
                f"{n_voxels}; give the binning file that belongs to this data"
            )
        if len(axes) > 1 and axes != tuple(extent for extent in grid or () if extent > 1):
            wanted = "" if grid is None else f" or (N, {', '.join(map(str, grid))})"
            raise FormatError(
                f"{self.path}: {stated}, of which it is not known which axis is which; expected "
                f"(N, n_voxels){wanted}, layer by layer, sectors before rings"
            )


def shower_layout(batch: Batch) -> dict[str, NDArray[Any]]:
    """Lay a batch out as the columns of a CaloChallenge file."""
    if batch.condition is None:
        raise InputError(f"showers without {ENERGIES!r}: pass the condition they were drawn for")
    columns = {name: value.detach().cpu().numpy() for name, value in batch.fields().items()}
    columns[ENERGIES] = columns.pop("condition").astype(np.float32, copy=False)
    columns[SHOWERS] = columns.pop("x").astype(np.float32, copy=False)
    return columns


def calochallenge_writer(
    path: Path, *, facts: Mapping[str, Any] | None = None, overwrite: bool = False
) -> AbstractContextManager[Append]:
    """Write batches of showers as a gzipped CaloChallenge file, atomically, in chunks of rows.

    `facts` become attributes of the file.
    """
    return hdf5_writer(
        path,
        shower_layout,
        attributes=facts,
        units={ENERGIES: "MeV", SHOWERS: "MeV"},
        compression="gzip",
        overwrite=overwrite,
    )
