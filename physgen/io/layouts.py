"""The layouts in which showers are kept, and which of them a file has: by its content."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import h5py

from physgen.batch import Schema
from physgen.errors import FormatError, InputError, suggest
from physgen.io import calochallenge, calohadronic, ddml, hgcal, lemurs, showerdata, triples
from physgen.io.formats import format_of
from physgen.io.guard import library
from physgen.io.hdf5 import dataset_names, open_hdf5
from physgen.io.npz import array_names
from physgen.io.shower_source import Undirected
from physgen.io.source import Source
from physgen.io.writer import Append

Kind = Literal["points", "voxels", "cells"]
"""Points are masked sets, voxels flat as in CaloChallenge, cells (layers, rows, columns)."""


@dataclass(frozen=True)
class Written:
    """What a writer is told of a file.

    Attributes:
        path: of the output.
        schema: of the batches that will come.
        grid: (layers, sectors, rings) of voxels on a regular grid, `None` for others.
        layer_sizes: voxels of each layer, where they are known.
        cell_mm: size of rectangular cells.
        pdg: code of the incoming particles, 0 if it is not known.
        facts: kept in the file, by name.
        overwrite: replace an existing file.
    """

    path: Path
    schema: Schema
    grid: tuple[int, int, int] | None = None
    layer_sizes: Sequence[int] = ()
    cell_mm: float = 0.0
    pdg: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)
    overwrite: bool = False


Writer = Callable[[Written], AbstractContextManager[Append]]


@dataclass(frozen=True)
class Layout:
    """A layout of showers.

    Attributes:
        key: as users name it.
        name: as `physgen inspect` calls it.
        holds: what it is read as.
        recognises: whether a file with arrays of these names is of this layout.
        open: reads it; showers of points with this many places at least.
        write: writes it, if physgen can.
        takes: what it is written from, where that is not what it is read as.
        own: names of the arrays that only its reader understands.
        directed: whether it has a place for the direction of the particle.
        binning: what a file says of its own geometry, where it says something.
    """

    key: str
    name: str
    holds: Literal["points", "voxels"]
    recognises: Callable[[set[str]], bool]
    open: Callable[[Path, int], Source]
    write: Writer | None = None
    takes: Kind | None = None
    own: frozenset[str] = frozenset()
    directed: bool = True
    binning: Callable[[Path], str] | None = None

    @property
    def writer(self) -> Writer:
        """What writes it; `InputError` if nothing does."""
        if self.write is None:
            raise InputError(f"showers are not written as {self.name}")
        return self.write


def _write_calochallenge(to: Written) -> AbstractContextManager[Append]:
    return calochallenge.calochallenge_writer(to.path, facts=to.facts, overwrite=to.overwrite)


def _write_showerdata(to: Written) -> AbstractContextManager[Append]:
    return showerdata.showerdata_writer(
        to.path, to.schema.shape[1], pdg=to.pdg, facts=to.facts, overwrite=to.overwrite
    )


def _write_lemurs(to: Written) -> AbstractContextManager[Append]:
    return lemurs.lemurs_writer(to.path, to.grid, facts=to.facts, overwrite=to.overwrite)


def _write_ddml(to: Written) -> AbstractContextManager[Append]:
    return ddml.ddml_writer(to.path, to.cell_mm, facts=to.facts, overwrite=to.overwrite)


def _write_triple(to: Written) -> AbstractContextManager[Append]:
    return triples.triple_writer(to.path, to.layer_sizes, facts=to.facts, overwrite=to.overwrite)


LAYOUTS = (
    Layout(
        "showerdata",
        showerdata.NAME,
        "points",
        showerdata.is_showerdata,
        showerdata.ShowerdataSource,
        _write_showerdata,
        own=frozenset({"showers"}),
    ),
    Layout(
        "lemurs",
        lemurs.NAME,
        "voxels",
        lemurs.is_lemurs,
        lemurs.open_lemurs,
        _write_lemurs,
        own=frozenset({"events"}),
    ),
    Layout(
        "hgcal",
        hgcal.NAME,
        "voxels",
        hgcal.is_hgcal,
        hgcal.open_hgcal,
        binning=hgcal.binning_of,
    ),
    Layout(
        "calohadronic",
        calohadronic.NAME,
        "points",
        calohadronic.is_calohadronic,
        calohadronic.open_calohadronic,
    ),
    Layout("ddml", ddml.NAME, "points", ddml.is_ddml, ddml.open_ddml, _write_ddml, takes="cells"),
    Layout(
        "calochallenge",
        calochallenge.NAME,
        "voxels",
        calochallenge.is_calochallenge,
        lambda path, _: calochallenge.CaloChallengeSource(path),
        _write_calochallenge,
        directed=False,
    ),
    Layout(
        "npz",
        triples.NAME,
        "voxels",
        triples.is_triple,
        triples.open_triple,
        _write_triple,
        directed=False,
    ),
)


def recognised(names: set[str]) -> Layout | None:
    """Return the layout of a file that has arrays of these names, if it is one of showers."""
    return next((layout for layout in LAYOUTS if layout.recognises(names)), None)


def arrays_of(file: h5py.File) -> set[str]:
    """Return the paths of an HDF5 file's datasets, and of the fields of its tables of records."""
    names = set(dataset_names(file))
    for name in list(names):
        with library(str(file.filename)):
            names |= {f"{name}/{field}" for field in file[name].dtype.names or ()}
    return names


def known_layout(path: Path) -> Layout | None:
    """Return the layout of a file, if it is one of showers; `FormatError` if there is no file."""
    kind = format_of(path)
    if kind == "HDF5":
        with open_hdf5(path) as file:
            return recognised(arrays_of(file))
    return recognised(set(array_names(path))) if kind == "npz" else None


def layout_of(path: Path) -> Layout:
    """Return the layout of a file of showers.

    Raises:
        FormatError: there is no such file, or its layout is none of showers.
    """
    layout = known_layout(path)
    if layout is None:
        known = ", ".join(layout.name for layout in LAYOUTS)
        raise FormatError(
            f"{path} holds no showers in a layout that is known ({known}); `physgen inspect "
            f"{path}` says what it is"
        )
    return layout


DATASETS = {"layers": "ddml"}
"""Layouts that are also called by the dataset that they have."""


def layout_called(key: str) -> Layout:
    """Return a layout by what users call it, one that is written."""
    written = {layout.key: layout for layout in LAYOUTS if layout.write is not None}
    key = DATASETS.get(key, key)
    if key not in written:
        raise InputError(f"no layout that is written is called {key!r}{suggest(key, written)}")
    return written[key]


def open_voxels(
    path: Path, n_voxels: int | None = None, grid: tuple[int, int, int] | None = None
) -> Source:
    """Open a file of showers of voxels, whatever its layout, at their incident energies alone.

    Args:
        path: of the file.
        n_voxels: of the binning it must fit; `None` accepts any number.
        grid: (layers, sectors, rings) of a regular binning.

    Raises:
        FormatError: there is no such file, it is none of showers of voxels, or does not fit.
    """
    layout = known_layout(path)
    if layout is None or layout.key == "calochallenge":
        return calochallenge.CaloChallengeSource(path, n_voxels, grid)
    if layout.holds != "voxels":
        raise FormatError(
            f"{path} ({layout.name}) holds showers of points, not of voxels; physgen convert makes "
            "the one of the other, by a geometry"
        )
    source = layout.open(path, 1)
    if n_voxels not in (None, source.schema.shape[0]):
        raise FormatError(
            f"{path}: showers of {source.schema.shape[0]} voxels, but the binning has {n_voxels}; "
            "give the binning file that belongs to this data"
        )
    return Undirected(source)


def open_points(path: Path, n_points: int = 1) -> Source:
    """Open a file of showers of points, whatever its layout.

    Raises:
        FormatError: there is no such file, or it is none of showers of points.
    """
    layout = layout_of(path)
    if layout.holds != "points":
        raise FormatError(
            f"{path} ({layout.name}) holds showers of voxels, not of points; physgen convert makes "
            "the one of the other, by a geometry"
        )
    return layout.open(path, n_points)
