"""What a scorecard says of the geometry in which showers of voxels were judged."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from physgen.io.calochallenge import ASSUMED_LAYERS, assumption, stated_geometry
from physgen.io.joined import expand
from physgen.systems.base import System
from physgen.systems.calorimeter import Calorimeter
from physgen.validation.scorecard import Row


def geometry_facts(system: System, *, assumed: bool) -> dict[str, Any]:
    """Return what provenance says of the geometry of voxels; nothing of other systems.

    Args:
        system: of the samples.
        assumed: whether nobody named the geometry.
    """
    if not isinstance(system, Calorimeter):
        return {}
    given = not assumed or not system.geometry.placed
    facts = {
        "binning": str(system.binning),
        "voxels": system.geometry.in_short,
        "given": "given" if given else "default",
    }
    return {"geometry": facts}


def assumed_geometry(system: System, files: Iterable[Path]) -> list[Row]:
    """Return a warning if files of voxels that nobody named the geometry of do not say it."""
    if not isinstance(system, Calorimeter) or system.geometry.in_short != ASSUMED_LAYERS:
        return []
    silent = [str(path) for path in files if None in map(stated_geometry, expand(path))]
    if not silent:
        return []
    warning = f"{' and '.join(silent)}: {assumption()}"
    return [Row(name="geometry", metric="geometry", value=None, warning=warning)]
