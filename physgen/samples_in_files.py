"""Whose samples a file holds: as is said, or by its format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from physgen.data_sections import Data
from physgen.errors import FormatError, InputError, RecipeError
from physgen.io.formats import TABLES
from physgen.io.inspect import inspect
from physgen.io.joined import expand
from physgen.io.layouts import LAYOUTS
from physgen.io.shards import may_be_run
from physgen.io.source import Source
from physgen.recipe import Recipe, read
from physgen.systems.base import HasFiles, System, open_files

_SHOWERS = {"voxels": "calo-flow", "points": "calo-points-flow"}
RECIPES = {
    layout.name: _SHOWERS[layout.holds] if layout.binning is None else "calo-layers"
    for layout in LAYOUTS
} | {
    "JetNet HDF5": "jets",
    "jets as in JetClass": "jets",
    "spin configurations in HDF5 (rbms style)": "ising-rbm",
}
"""Whose samples a file of some format holds, where nobody says it."""


def recipe_for(
    path: Path, name: str | None, overrides: Mapping[str, Any], preset: str | None = None
) -> Recipe:
    """Return the recipe whose system reads a file: the one of a name, or by the file's format.

    Columns that are named without a file are those of this one, not of the recipe's own data; a
    recipe without data of its own takes this file.
    """
    here = {"data.path": str(path), **overrides}
    if name is not None:
        recipe = read(name, here if "data.fields" in overrides else overrides, preset)
        bare = isinstance(recipe.data, Data) and not (recipe.data.path or recipe.data.n)
        return read(name, here, preset) if bare else recipe
    file_format = _described(expand(path)[0])["format"]
    if file_format not in RECIPES:
        which, setting = "RECIPE", "what it needs"
        if file_format in ("ROOT", *TABLES):
            which, setting = "events-flow (tables of events)", '"data.fields=[NAMES]"'
        raise InputError(
            f"{path} is {file_format}: say whose samples these are, with --system {which}, and "
            f"--set {setting}"
        )
    # Of sets of points, the file says how many there are, and in how many layers.
    stated: dict[str, Any] = {}
    for layout in LAYOUTS:
        if layout.name == file_format and layout.holds == "points" and "data.binning" in overrides:
            raise InputError(
                f"{path} ({file_format}) holds showers of points, and a binning is one of voxels: "
                "leave it out to judge points by points; voxels are judged by voxels (physgen "
                "convert makes the one of the other, by a geometry)"
            )
        if layout.name == file_format and layout.binning is not None:
            stated["data.binning"] = layout.binning(expand(path)[0])
    return read(RECIPES[file_format], {**stated, **here}, preset)


def refuse_damaged(path: Path) -> None:
    """Raise `FormatError` if a file cannot be read, whatever is in it; not for a run."""
    if not may_be_run(path):
        for file in expand(path):
            _described(file)


def _described(path: Path) -> dict[str, Any]:
    """Return what `physgen inspect` says of a file; `FormatError` if that is why it is not read."""
    report = inspect(path)
    if report["problem"] is not None and report["reader"] in ("no", "refused"):
        raise FormatError(report["problem"])
    return report


def open_samples(system: System, path: Path) -> Source:
    """Open a file of samples; `RecipeError` for a system that has none."""
    if not isinstance(system, HasFiles):
        raise RecipeError(f"{type(system).__name__} has no files to read")
    return open_files(system, path)
