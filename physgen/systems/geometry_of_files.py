"""In which geometry the showers of files lie: what files say of it, and what is said of files."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from physgen.errors import FormatError
from physgen.io.calochallenge import BINNING, GEOMETRY_SHA256, stated_geometry
from physgen.systems.geometry import Geometry


def with_geometry(
    facts: Mapping[str, Any] | None, binning: str | PathLike[str], geometry: Geometry
) -> dict[str, Any]:
    """Return the attributes of a file, with those that say its geometry, if places are known.

    Args:
        facts: the others.
        binning: path or name of the binning file, of which the name is kept.
        geometry: what it says.
    """
    stated = {BINNING: Path(binning).name, GEOMETRY_SHA256: geometry.sha256}
    return {**(stated if geometry.placed else {}), **(facts or {})}


def check_stated(path: Path, binning: str | PathLike[str], geometry: Geometry) -> None:
    """Raise `FormatError` if a file says that it is of another geometry than it is read in.

    Args:
        path: of the file.
        binning: path or name of the binning file that it is read with.
        geometry: what that says.
    """
    stated = stated_geometry(path) if geometry.placed else None
    if stated is not None and stated[1] != geometry.sha256:
        raise FormatError(
            f"{path}: says that its showers lie in the geometry of {stated[0]!r} (attributes "
            f"{BINNING} and {GEOMETRY_SHA256}), which is not that of {binning} "
            f"({geometry.in_short} voxels in its layers); give the binning file that belongs to "
            "this data (validate: --binning, train: data.binning), or remove the attributes if "
            "they are wrong"
        )
