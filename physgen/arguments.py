"""Arguments as users of Python and NumPy write them: whole numbers, options, paths."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, SupportsIndex

from physgen.errors import InputError

Whole = SupportsIndex | float | str
"""A whole number: 7, np.int64(7), 7.0, "7", "1e6"."""


def whole(name: str, value: Whole) -> int:
    """Return a whole number as a Python integer, whatever type it came in.

    Args:
        name: of the argument, for the message.

    Raises:
        InputError: it is not a whole number.
    """
    refused = InputError(f"{name} = {value!r}: give a whole number")
    if isinstance(value, bool) or value is None:
        raise refused
    try:
        if isinstance(value, str):
            # Directly where it can, since a float has 53 bits.
            return int(value) if value.strip().lstrip("+-").isdigit() else whole(name, float(value))
        if not hasattr(value, "__index__") or isinstance(value, float):
            number = float(value)
            if not math.isfinite(number) or number != int(number):
                raise refused
            return int(number)
        return operator.index(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise refused from error


def plain(value: Any) -> Any:
    """Return an option as YAML would hold it: arrays as lists, NumPy's scalars as numbers."""
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        return value.tolist()
    return value


def user_path(path: str | os.PathLike[str], folder: Path | None = None) -> Path:
    """Return an absolute path; "~" is the home folder.

    Args:
        path: as the user wrote it.
        folder: of the file it was written in; `None` is the working folder.

    Raises:
        InputError: no file can have this name, or it cannot be looked at.
    """
    try:
        expanded = Path(path).expanduser()
        result = Path(os.path.normpath((folder or Path.cwd()) / expanded))
        result.is_file()  # Asks the system, which raises for what it could never have.
    except (OSError, ValueError, RuntimeError) as error:
        stated = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{str(path)[:200]!r}: cannot be looked at ({stated})") from error
    return result
