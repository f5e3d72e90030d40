"""Calorimeter showers in CaloChallenge files (arXiv:2410.21611).

An HDF5 file with `incident_energies` (N, 1) and `showers` (N, n_voxels), both in MeV, usually
gzipped. Rows are read as float32, whatever the file's floating-point type.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from physgen.batch import Batch, Schema, Variable
from physgen.errors import FormatError, InputError, suggest
from physgen.io.source import digest_of
from physgen.io.writer import Append, hdf5_writer

ENERGIES, SHOWERS = "incident_energies", "showers"
_MAX_BLOCK_BYTES = 64 * 2**20


def shower_schema(n_voxels: int, low: float | None = None, high: float | None = None) -> Schema:
    """Return what one shower is: voxel energies, under the energy of the incoming particle."""
    return Schema(
        shape=(n_voxels,),
        variables=(Variable(SHOWERS, "MeV", "non-negative", low=0.0),),
        condition=(Variable(ENERGIES, "MeV", "non-negative", low=low, high=high),),
    )


class CaloChallengeSource:
    """A CaloChallenge file as a source of samples.

    The file is checked on opening for its structure and, row by row, on reading for its values.

    Args:
        path: of the file.
        n_voxels: of the binning it must fit; `None` accepts any number.

    Raises:
        InputError: there is no such file.
        FormatError: it is not such a file; the dataset, and for values the row, are named.
    """

    def __init__(self, path: Path, n_voxels: int | None = None) -> None:
        self.path = Path(path)
        self.name = str(path)
        with self._open() as file:
            energies, showers = self._dataset(file, ENERGIES), self._dataset(file, SHOWERS)
            self._length = self._check_shapes(energies.shape, showers.shape, n_voxels)
            self.schema = shower_schema(showers.shape[1])
            row_bytes = showers.dtype.itemsize * showers.shape[1]
            rows = showers.chunks[0] if showers.chunks else 4096
            self.block = int(np.clip(rows, 1, max(1, _MAX_BLOCK_BYTES // row_bytes)))

    def __len__(self) -> int:
        return self._length

    def read(self, start: int, stop: int) -> Batch:
        """Return rows [start, stop).

        Raises:
            FormatError: a value is not finite or negative, or the rows cannot be decoded.
        """
        with self._open() as file:
            try:
                energies = file[ENERGIES][start:stop]
                showers = file[SHOWERS][start:stop]
            except (OSError, RuntimeError) as error:
                raise FormatError(
                    f"{self.path}: rows {start} to {stop} cannot be read ({error}); the file is "
                    "damaged, fetch or write it again"
                ) from error
        energies = np.asarray(energies, np.float32).reshape(-1, 1)
        self._check_values(ENERGIES, energies, start, positive=True)
        showers = np.ascontiguousarray(showers, np.float32)
        self._check_values(SHOWERS, showers, start, positive=False)
        return Batch(x=torch.from_numpy(showers), condition=torch.from_numpy(energies))

    def digest(self) -> str:
        """Return the SHA-256 of all rows, independent of chunks and compression."""
        sha = hashlib.sha256()
        for start in range(0, len(self), 4096):
            sha.update(digest_of([self.read(start, start + 4096)]).encode())
        return sha.hexdigest()

    def keys(self) -> NDArray[np.int64] | None:
        """Return `None`: showers stand alone."""
        return None

    @contextmanager
    def _open(self) -> Iterator[Any]:
        import h5py

        if not self.path.is_file():
            raise InputError(f"no file {self.path}; give the path of a CaloChallenge HDF5 file")
        try:
            file = h5py.File(self.path, "r")
        except OSError as error:
            raise FormatError(
                f"{self.path} cannot be opened as HDF5 ({error}); it is truncated, still being "
                "written, or in another format"
            ) from error
        with file:
            yield file

    def _dataset(self, file: Any, name: str) -> Any:
        import h5py

        link = file.get(name, getlink=True)
        if link is None:
            raise FormatError(f"{self.path} holds no dataset {name!r}{suggest(name, file.keys())}")
        if isinstance(link, h5py.ExternalLink):
            raise FormatError(
                f"{self.path}: {name!r} is a link to the file {link.filename!r}; links out of a "
                "file are not followed, copy the data into one file"
            )
        dataset = file.get(name)
        if not isinstance(dataset, h5py.Dataset):
            raise FormatError(f"{self.path}: {name!r} is not a dataset")
        if dataset.external or dataset.is_virtual:
            raise FormatError(
                f"{self.path}: {name!r} keeps its data in other files; copy them into one file"
            )
        if dataset.dtype.kind not in "fiu":
            raise FormatError(f"{self.path}: {name!r} holds {dataset.dtype}, expected numbers")
        plist = dataset.id.get_create_plist()
        for i in range(plist.get_nfilters()):
            code, _, _, label = plist.get_filter(i)
            if not h5py.h5z.filter_avail(code):
                raise FormatError(
                    f"{self.path}: {name!r} is compressed by the filter {code} "
                    f"({label.decode(errors='replace')}), which this HDF5 library lacks; rewrite "
                    "the file with gzip (h5repack -f GZIP=4)"
                )
        return dataset

    def _check_shapes(
        self, energies: tuple[int, ...], showers: tuple[int, ...], n_voxels: int | None
    ) -> int:
        if len(showers) != 2 or (len(energies) != 1 and energies[1:] != (1,)):
            raise FormatError(
                f"{self.path}: {SHOWERS!r} has shape {showers} and {ENERGIES!r} {energies}; "
                "expected (N, n_voxels) and (N, 1)"
            )
        if showers[0] != energies[0]:
            raise FormatError(
                f"{self.path}: {showers[0]} showers but {energies[0]} incident energies"
            )
        if showers[0] == 0:
            raise FormatError(f"{self.path} holds no showers: its datasets are empty")
        if n_voxels is not None and showers[1] != n_voxels:
            raise FormatError(
                f"{self.path}: showers of {showers[1]} voxels, but the binning has {n_voxels}; "
                "give the binning file that belongs to this data"
            )
        return showers[0]

    def _check_values(
        self, name: str, values: NDArray[np.float32], start: int, positive: bool
    ) -> None:
        # Comparisons with NaN are false, so that it is caught by the same line.
        good = (values > 0) if positive else (values >= 0)
        good &= values < np.inf
        if not good.all():
            row, column = np.argwhere(~good)[0]
            wish = "positive" if positive else "not negative"
            raise FormatError(
                f"{self.path}: {name!r} row {start + row}, column {column} is "
                f"{values[row, column]:g}; energies must be finite and {wish} (MeV)"
            )


def shower_layout(batch: Batch) -> dict[str, NDArray[Any]]:
    """Lay a batch out as the columns of a CaloChallenge file."""
    if batch.condition is None:
        raise InputError(f"showers without {ENERGIES!r}: pass the condition they were drawn for")
    return {
        ENERGIES: batch.condition.detach().cpu().numpy().astype(np.float32, copy=False),
        SHOWERS: batch.x.detach().cpu().numpy().astype(np.float32, copy=False),
    }


def calochallenge_writer(path: Path, *, overwrite: bool = False) -> AbstractContextManager[Append]:
    """Write batches of showers as a gzipped CaloChallenge file, atomically, in chunks of rows."""
    return hdf5_writer(path, shower_layout, compression="gzip", overwrite=overwrite)
