"""The layouts in which showers are kept, and which of them a file has: by its datasets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from physgen.errors import FormatError
from physgen.io import showerdata
from physgen.io.formats import format_of
from physgen.io.hdf5 import dataset_names, open_hdf5
from physgen.io.source import Source


@dataclass(frozen=True)
class Layout:
    """A layout of showers.

    Attributes:
        name: as `physgen inspect` calls it.
        recognises: whether a file with datasets of these names is of this layout.
        open: reads it; of points, with this many places a shower at least.
        of: names of the datasets that only its reader understands.
    """

    name: str
    recognises: Callable[[set[str]], bool]
    open: Callable[[Path, int], Source]
    of: frozenset[str] = frozenset()


POINTS = (
    Layout(
        showerdata.NAME,
        showerdata.is_showerdata,
        showerdata.ShowerdataSource,
        frozenset({"showers"}),
    ),
)
"""Layouts of showers of points."""


def layout_of(names: set[str]) -> Layout | None:
    """Return the layout of an HDF5 file of points with datasets of these names, if it has one."""
    return next((layout for layout in POINTS if layout.recognises(names)), None)


def open_points(path: Path, n_points: int = 1) -> Source:
    """Open a file of showers of points, whatever its layout.

    Raises:
        FormatError: there is no such file, or its layout is not known.
    """
    if format_of(path) == "HDF5":
        with open_hdf5(path) as file:
            names = set(dataset_names(file))
        layout = layout_of(names)
        if layout is not None:
            return layout.open(path, n_points)
    known = ", ".join(layout.name for layout in POINTS)
    raise FormatError(
        f"{path} holds no showers of points that can be read ({known}); `physgen inspect {path}` "
        "says what it is"
    )
