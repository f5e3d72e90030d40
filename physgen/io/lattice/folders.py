"""Folders of gauge configurations."""

from __future__ import annotations

from pathlib import Path

from physgen.errors import FormatError
from physgen.io.lattice.configuration import Given
from physgen.io.lattice.content import NOTHING_GIVEN, format_by_magic, lattice_format

_NO_CONFIGURATIONS = (".part", ".xml", ".txt", ".log", ".json", ".yaml")


def configurations_in(folder: Path) -> list[Path]:
    """Return the files of a folder that are gauge configurations, by name; none of a run.

    Where some are, all files that end alike belong to them, so that one which is damaged beyond
    recognition is not passed over.
    """
    if (folder / "recipe.yaml").exists():
        return []
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name[0] != ".")
    files = [path for path in files if path.suffix not in _NO_CONFIGURATIONS]
    known = [path for path in files if format_by_magic(path) is not None]
    known = known or [path for path in files if holds_configurations(path)]
    endings = {_ending(path) for path in known}
    return [path for path in files if path in set(known) or _ending(path) in endings]


def holds_configurations(path: Path, given: Given = NOTHING_GIVEN) -> bool:
    """Return whether a file holds gauge configurations; not what is no file, or is damaged."""
    try:
        return lattice_format(path, given) is not None
    except FormatError:
        return False


def _ending(path: Path) -> str:
    """Return the suffix, "" for a number that only looks like one."""
    return "" if path.suffix[1:].isdigit() else path.suffix
