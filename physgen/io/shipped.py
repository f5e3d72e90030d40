"""Files that come with physgen: dataset cards, detector geometries, pipelines.

In a clone they lie beside the package, in an installed wheel inside it as `physgen/_data/`.
"""

from __future__ import annotations

from pathlib import Path

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
