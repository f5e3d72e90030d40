"""Files that come with physgen: dataset cards, detector geometries, pipelines.

In a clone they lie beside the package, in an installed wheel inside it as `physgen/_data/`.
"""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path

from physgen.arguments import user_path
from physgen.errors import InputError, suggest
from physgen.plugins import recipes

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
    """Return the recipes known by name: those shipped, in a folder a task, then those of plugins.

    What physgen ships is not replaced by a plugin.
    """
    files = sorted(shipped_folder("pipelines").glob("*/*.yaml"), key=lambda file: file.stem)
    others = ("comparisons", "optimisation")
    own = (f for f in files if f.parent.name not in others and not f.stem.startswith("base"))
    shipped = {file.stem: file for file in own}
    return shipped | {name: f for name, f in sorted(recipes().items()) if name not in shipped}


def shipped_or_own(folder: str, path: str | PathLike[str]) -> Path:
    """Return the shipped file of a bare name, else the path as it is.

    A path with a folder part ("./calo-368.xml") is never that of a shipped file.

    Raises:
        InputError: a bare name is neither that of a shipped file nor of another one.
    """
    if not _bare(str(path)):
        return Path(path)
    known = shipped_folder(folder) / path
    if known.is_file():
        return known
    return Path(path) if Path(path).exists() else shipped(folder, str(path))


def resolve_path(text: str, folder: Path) -> str:
    """Return the absolute path of a file that a file in `folder` names, or a user there.

    What names no file of the user stays: the bare name of a data set card or a geometry that
    physgen ships, and what lies in a package, such as "sklearn:digits".

    Raises:
        InputError: a bare name is that of a shipped file, and of another one in the folder.
    """
    path = user_path(text, folder)
    known = shipped_folder("datasets") / text if _bare(text) else path
    if known != path and known.is_file():
        if path.is_file() and path.read_bytes() != known.read_bytes():
            raise InputError(
                f"{text!r} is a file in {folder}, and another one that physgen ships: name the "
                f"former as {'./' + text!r}, or the latter as {str(known)!r}"
            )
        return text
    return text if re.match(r"[a-z][a-z-]+:", text) and not path.exists() else str(path)


def _bare(text: str) -> bool:
    """Return whether a path is a name without a folder."""
    return Path(text).name == text
