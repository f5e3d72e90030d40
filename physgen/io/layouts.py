"""The layouts in which showers are kept, and which of them a file has: by its content."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from physgen.batch import Schema
from physgen.errors import FormatError, InputError, suggest
from physgen.io import calochallenge, showerdata
from physgen.io.formats import format_of
from physgen.io.hdf5 import dataset_names, open_hdf5
from physgen.io.source import Source
from physgen.io.writer import Append


@dataclass(frozen=True)
class Written:
    """What a writer is told of a file.

    Attributes:
        path: of the output.
        schema: of the batches that will come.
        grid: (layers, sectors, rings) of voxels on a regular grid, `None` for others.
        pdg: code of the incoming particles, 0 if it is not known.
        facts: kept in the file, by name.
        overwrite: replace an existing file.
    """

    path: Path
    schema: Schema
    grid: tuple[int, int, int] | None = None
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
        holds: "points", or "voxels" in the order of CaloChallenge.
        recognises: whether a file with arrays of these names is of this layout.
        open: reads it; showers of points with this many places at least.
        write: writes it, if physgen can.
        own: names of the arrays that only its reader understands.
        directed: whether it has a place for the direction of the particle.
    """

    key: str
    name: str
    holds: Literal["points", "voxels"]
    recognises: Callable[[set[str]], bool]
    open: Callable[[Path, int], Source]
    write: Writer | None = None
    own: frozenset[str] = frozenset()
    directed: bool = True


def _write_calochallenge(to: Written) -> AbstractContextManager[Append]:
    return calochallenge.calochallenge_writer(to.path, facts=to.facts, overwrite=to.overwrite)


def _write_showerdata(to: Written) -> AbstractContextManager[Append]:
    return showerdata.showerdata_writer(
        to.path, to.schema.shape[1], pdg=to.pdg, facts=to.facts, overwrite=to.overwrite
    )


LAYOUTS = (
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
        "showerdata",
        showerdata.NAME,
        "points",
        showerdata.is_showerdata,
        showerdata.ShowerdataSource,
        _write_showerdata,
        frozenset({"showers"}),
    ),
)


def recognised(names: set[str]) -> Layout | None:
    """Return the layout of a file that has arrays of these names, if it is one of showers."""
    return next((layout for layout in LAYOUTS if layout.recognises(names)), None)


def layout_of(path: Path) -> Layout:
    """Return the layout of a file of showers.

    Raises:
        FormatError: there is no such file, or its layout is none of showers.
    """
    names: set[str] = set()
    if format_of(path) == "HDF5":
        with open_hdf5(path) as file:
            names = set(dataset_names(file))
    layout = recognised(names)
    if layout is None:
        known = ", ".join(layout.name for layout in LAYOUTS)
        raise FormatError(
            f"{path} holds no showers in a layout that is known ({known}); `physgen inspect "
            f"{path}` says what it is"
        )
    return layout


def layout_called(key: str) -> Layout:
    """Return a layout by what users call it, one that is written."""
    written = {layout.key: layout for layout in LAYOUTS if layout.write is not None}
    if key not in written:
        raise InputError(f"no layout that is written is called {key!r}{suggest(key, written)}")
    return written[key]


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
