"""Files that come with physgen: dataset cards, detector geometries, pipelines.

In a clone they lie beside the package, in an installed wheel inside it as `physgen/_data/`.
"""

from __future__ import annotations

import re
from pathlib import Path

from physgen.arguments import user_path
from physgen.errors import InputError, suggest

_PACKAGE = Path(__file__).resolve().parent.parent


def shipped_folder(folder: str) -> Path:
    """Return where the shipped `folder` ("datasets", "pipelines", "pipelines/comparisons") lies.

    Raises:
        InputError: this installation does not hold it.
    """
    # A clone is known by its project file: another `datasets` may lie beside a wheel.
    clone = _PACKAGE.parent if (_PACKAGE.parent / "pyproject.toml").is_file() else None
    for root in (clone, _PACKAGE / "_data"):
        if root is not None and (root / folder).is_dir():
            return root / folder
    raise InputError(
        f"this installation of physgen holds no {folder!r} (looked beside and inside {_PACKAGE}); "
        "install it again from a complete clone or wheel"
    )


def shipped(folder: str, name: str) -> Path:
    """Return the path of a shipped file, such as `shipped("datasets", "calo-368.xml")`.

    Raises:
        InputError: there is none of that name; near misses are named.
    """
    base = shipped_folder(folder)
    names = sorted(path.name for path in base.iterdir() if path.is_file())
    if name not in names:
        raise InputError(f"physgen ships no {folder} file {name!r}{suggest(name, names)}")
    return base / name


def shipped_recipes() -> dict[str, Path]:
    """Return the files of the shipped recipes by name; each lies in the folder of its task."""
    files = sorted(shipped_folder("pipelines").glob("*/*.yaml"), key=lambda file: file.stem)
    recipes = (f for f in files if f.parent.name != "comparisons" and not f.stem.startswith("base"))
    return {file.stem: file for file in recipes}


def shipped_or_own(folder: str, path: Path) -> Path:
    """Return the shipped file of a bare name, else the path as it is."""
    known = path.parent == Path() and (shipped_folder(folder) / path.name).is_file()
    return shipped_folder(folder) / path.name if known else path


def resolve_path(text: str, folder: Path) -> str:
    """Return the absolute path of a file that a file in `folder` names.

    What names no file of the user stays: a data set card or a geometry that physgen ships, unless
    the folder holds a file of that name, and what lies in a package, such as "sklearn:digits".
    """
    path = user_path(text, folder)
    if path.exists() or not (
        re.match(r"[a-z][a-z-]+:", text) or shipped_or_own("datasets", Path(text)) != Path(text)
    ):
        return str(path)
    return text
