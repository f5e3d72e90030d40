"""Showers of points as the library `showerdata` (0.6 and later) writes them.

An HDF5 file has

    showers     (N,) lists of float32, num_points x 4 or 5: x, y, layer or z, energy [, time]
    energies    (N, 1) of the incoming particles
    directions  (N, 3) of them, cosines
    pdg         (N,) their codes
    num_points  (N,), shape (3,) = N, points at most, columns; shower_ids (N,)
    weight      (N,), chain and log_weight (N,) if physgen wrote samples that have them

and the attribute `showerdata_version`. Energies are GeV and lengths mm, unless an attribute `unit`
of `showers` or `energies` says otherwise. The library itself is not needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from physgen.batch import Batch
from physgen.errors import FormatError, InputError
from physgen.io.attributes import unit_of
from physgen.io.hdf5 import BLOCK_BYTES, dataset, has, open_hdf5, optional, read_rows
from physgen.io.hdf5_tables import Lists, append_lists
from physgen.io.shower_source import read_calorimeters
from physgen.io.showers import (
    ENERGY,
    MEV,
    Depth,
    check_code,
    check_energies,
    depth_of,
    mev,
    packed,
    point_schema,
)
from physgen.io.source import Stamp, as_batch, blocks, digest_of
from physgen.io.writer import COMPANIONS, Append, atomic, companions, same_columns

NAME = "showerdata HDF5"
DATASETS = frozenset({"showers", "num_points", "shape"})
"""By which a file is recognised."""
VERSION = "0.7.0"
"""Of the library whose layout is written."""
_COLUMNS = (4, 5)
_LOOKED_AT = 512
"""Showers, at both ends of the file, that tell whether depths are layers."""


def is_showerdata(names: set[str]) -> bool:
    """Return whether these are the datasets of such a file."""
    return names >= DATASETS


class ShowerdataSource:
    """A file of the library `showerdata` as a source of masked samples in MeV and mm.

    Args:
        path: of the file.
        n_points: places a shower has at least.

    Attributes:
        pdg: code of the incoming particles, `None` if there are several or it is not said.
        calorimeters: the layers of each, by name, where the file says which are whose.

    Raises:
        FormatError: there is no such file, or it is not such a file; the dataset is named, and on
            reading the row.
    """

    def __init__(self, path: Path | str, n_points: int = 1) -> None:
        self.path, self.name = Path(path), str(path)
        self._stamp = Stamp(self.path)
        with open_hdf5(self.path) as file:
            showers, energies = Lists(file, "showers"), dataset(file, "energies", (1, 2))
            self._length, width = self._shape(file, showers)
            self._energies = {
                "showers": self._unit(file, "showers"),
                "energies": self._unit(file, "energies"),
            }
            if energies.shape not in ((len(self),), (len(self), 1)):
                self._refuse("energies", energies.shape, f"({len(self)}, 1)")
            self._directed = has(file, "directions")
            if self._directed and dataset(file, "directions", 2).shape != (len(self), 3):
                self._refuse("directions", file["directions"].shape, f"({len(self)}, 3)")
            self._counts = self._num_points(file)
            self._companions = [name for name in COMPANIONS if optional(file, name, len(self))]
            self._n_columns = width
            self.pdg = self._pdg(file)
            self.calorimeters = read_calorimeters(file)
            most = max(1, n_points, int(self._counts.max()))
            self.block = max(1, min(4096, BLOCK_BYTES // (4 * most * width)))
            self.schema = point_schema(most, self._depth(showers), width, self._directed)

    def __len__(self) -> int:
        return self._length

    def arrays(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Return rows [start, stop) by their name in `Batch`.

        Raises:
            FormatError: an energy is negative or not finite, a list does not hold `num_points`
                points, or one of these has no energy.
        """
        stop = min(stop, len(self))
        with open_hdf5(self.path) as file:
            self._stamp.check()
            points, counts = self._points(Lists(file, "showers"), start, stop)
            given = [read_rows(dataset(file, "energies"), start, stop).reshape(-1, 1)]
            if self._directed:
                given.append(read_rows(dataset(file, "directions"), start, stop))
            others = {n: read_rows(dataset(file, n), start, stop) for n in self._companions}
        check_energies(f"{self.path}: 'energies'", given[0], start, positive=True)
        given[0] = given[0] * np.float64(self._energies["energies"])
        points[:, ENERGY] *= self._energies["showers"]
        x, mask = packed(points, counts, self.schema.shape[0])
        condition = np.concatenate(given, 1).astype(np.float32)
        return {"x": x, "mask": mask, "condition": condition, **others}

    def read(self, start: int, stop: int) -> Batch:
        """Return rows [start, stop), see `arrays`."""
        return as_batch(self.arrays(start, stop))

    def digest(self) -> str:
        """Return the SHA-256 of the samples."""
        return digest_of(blocks(self))

    def keys(self) -> NDArray[np.int64] | None:
        """Return `None`: showers stand alone."""
        return None

    def _points(
        self, showers: Lists, start: int, stop: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the points (n, F) of some rows, and how many each has."""
        flat, lengths = showers.read(start, stop)
        counts = self._counts[start:stop]
        wrong = lengths != counts * self._n_columns
        if wrong.any():
            row = int(wrong.argmax())
            raise FormatError(
                f"{showers.where} row {start + row} holds {lengths[row]} numbers, and 'num_points' "
                f"says {counts[row]} points of {self._n_columns}; correct num_points, or write the "
                "file again"
            )
        points = flat.astype(np.float32).reshape(-1, self._n_columns)
        energy = points[:, ENERGY]
        if not (energy > 0).all():
            number = int((energy > 0).argmin())
            row = int(np.searchsorted(np.cumsum(counts), number, "right"))
            which = f"row {start + row}, point {number - int(counts[:row].sum())}"
            raise FormatError(
                f"{showers.where} {which} has the energy {energy[number]:g}: energies must not be "
                "negative"
                if energy[number] < 0
                else f"{showers.where} {which} has no energy, and 'num_points' counts it; remove "
                "such points, and count the others"
            )
        return points, counts

    def _shape(self, file: h5py.File, showers: Lists) -> tuple[int, int]:
        """Return how many showers there are, and how many columns a point has."""
        shape = [int(extent) for extent in read_rows(dataset(file, "shape", 1), 0, 9)]
        if len(shape) != 3 or shape[0] != len(showers) or shape[2] not in _COLUMNS:
            self._refuse("shape", shape, f"[{len(showers)}, most points, 4 or 5]")
        if len(showers) == 0:
            raise FormatError(
                f"{self.path} holds no showers: its datasets are empty; name a file with some"
            )
        return len(showers), shape[2]

    def _num_points(self, file: h5py.File) -> NDArray[np.int64]:
        node = dataset(file, "num_points", (1, 2))
        if node.size != len(self) or node.dtype.kind not in "iu":
            self._refuse("num_points", (*node.shape, str(node.dtype)), f"({len(self)},) integers")
        counts = read_rows(node, 0, len(self)).reshape(-1).astype(np.int64)
        stored = self.path.stat().st_size
        wrong = (counts < 0) | (4 * counts * _COLUMNS[0] > stored)
        if wrong.any():
            row = int(wrong.argmax())
            raise FormatError(
                f"{self.path}: 'num_points' row {row} is {counts[row]}, in a file of {stored} "
                "bytes: it is damaged; write it again"
            )
        return counts

    def _depth(self, showers: Lists) -> Depth:
        ends = ((0, _LOOKED_AT), (max(_LOOKED_AT, len(self) - _LOOKED_AT), len(self)))
        rows = [(a, min(b, len(self))) for a, b in ends if a < len(self)]
        return depth_of([self._points(showers, a, b)[0][:, 2] for a, b in rows])

    def _pdg(self, file: h5py.File) -> int | None:
        if not has(file, "pdg"):
            return None
        codes = read_rows(dataset(file, "pdg", (1, 2)), 0, len(self)).reshape(-1)
        kinds, rows = np.unique(codes, return_index=True)
        for kind, row in zip(kinds, rows, strict=True):
            check_code(f"{self.path}: 'pdg' row {row}", int(kind))
        return int(kinds[0]) if len(kinds) == 1 else None

    def _unit(self, file: h5py.File, name: str) -> float:
        unit = unit_of(file[name])
        return MEV["GeV"] if unit == "1" else mev(f"{self.path}: {name!r}", unit)

    def _refuse(self, name: str, shape: object, wanted: str) -> None:
        raise FormatError(
            f"{self.path}: {name!r} is {shape}, and a file of showerdata has {wanted}; write it "
            "with showerdata.save"
        )


@contextmanager
def showerdata_writer(
    path: Path,
    n_columns: int,
    *,
    pdg: int = 0,
    facts: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Iterator[Append]:
    """Write masked batches (see `point_schema`) as `showerdata.load` reads them, atomically.

    Args:
        path: of the output.
        n_columns: of a point.
        pdg: code of the incoming particles, 0 if it is not known.
        facts: kept as attributes of the file.
        overwrite: replace an existing file.
    """
    with atomic(path, overwrite) as part, h5py.File(part, "w") as file:
        grown = {
            "showers": ((), h5py.vlen_dtype(np.float32)),
            "energies": ((1,), np.float32),
            "directions": ((3,), np.float32),
            "pdg": ((), np.int32),
            "shower_ids": ((), np.int32),
            "num_points": ((), np.int32),
        }
        # Held open, so that equal showers are equal bytes: see `physgen.io.writer.hdf5_writer`.
        datasets = {
            name: file.create_dataset(
                name, (0, *shape), dtype, maxshape=(None, *shape), chunks=(1024, *shape)
            )
            for name, (shape, dtype) in grown.items()
        }
        file.attrs["showerdata_version"] = VERSION
        for name, value in (facts or {}).items():
            file.attrs[name] = value
        most, before = 0, set[str]()

        def append(batch: Batch) -> None:
            nonlocal most
            columns, others = _columns(batch, len(datasets["showers"]), pdg), companions(batch)
            if not before:
                for name, value in others.items():
                    datasets[name] = file.create_dataset(
                        name, (0,), value.dtype, maxshape=(None,), chunks=(1024,)
                    )
                before.update({*columns, *others})
            columns |= others
            same_columns(path, before, columns)
            most = max(most, int(columns["num_points"].max(initial=0)))
            append_lists(datasets["showers"], _lists(batch))
            for name, value in columns.items():
                start = len(datasets[name])
                datasets[name].resize(start + len(value), axis=0)
                datasets[name][start:] = value

        yield append
        file["shape"] = np.array([len(datasets["showers"]), most, n_columns], np.int32)
        for name in datasets:
            datasets[name].flush()


def _columns(batch: Batch, start: int, pdg: int) -> dict[str, NDArray[Any]]:
    """Return all but the points of masked samples, energies in GeV."""
    if batch.mask is None or batch.condition is None:
        raise InputError(
            "showerdata holds points of showers of known energy: samples need a mask and conditions"
        )
    n, given = len(batch), batch.condition.detach().cpu().double().numpy()
    forward = np.tile([0.0, 0.0, 1.0], (n, 1))
    return {
        "energies": given[:, :1] / MEV["GeV"],
        "directions": given[:, 1:4] if given.shape[1] > 1 else forward,
        "pdg": np.full(n, pdg),
        "shower_ids": np.arange(start, start + n),
        "num_points": batch.mask.sum(1).cpu().numpy(),
    }


def _lists(batch: Batch) -> list[NDArray[np.float32]]:
    """Return the points of each shower, flattened, in GeV."""
    x = batch.x.detach().cpu().double().numpy().copy()
    x[..., ENERGY] /= MEV["GeV"]
    masks = np.asarray(batch.mask.cpu() if batch.mask is not None else ())
    return [row[mask].astype(np.float32).ravel() for row, mask in zip(x, masks, strict=True)]
