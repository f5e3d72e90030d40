"""What is checked of a file before anything in it is believed: its kind, and what it unpacks to.

Every reader asks here first, so that no input can hang a verb or fill the memory.
"""

from __future__ import annotations

import itertools
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from physgen.errors import FormatError, InputError, PhysgenError, suggest

LARGEST_DEFLATED = 1100
"""Deflate shrinks nothing more than 1032 times; what claims more is not stored in the file."""
_UNSUSPICIOUS = 2**28
"""Bytes that may come out of any file, however small."""
_LARGEST_RATIO = 100
"""What unpacks to more than that is refused beyond this ratio."""
_NEIGHBOURS = 2000
"""Names of a folder among which a misspelt one is looked for."""


def regular(path: Path, error: type[InputError] = FormatError) -> Path:
    """Return `path` if it is a regular file, or a link to one.

    Raises:
        InputError: of the type `error`: there is no such file (near misses are named), or it is a
            directory, a device or a pipe, which may block or never end.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as reason:
        if isinstance(reason, FileNotFoundError | NotADirectoryError):
            raise error(f"{path}: no such file{suggest(path.name, _companions(path))}") from reason
        stated = reason.strerror if isinstance(reason, OSError) else reason
        raise error(f"{path}: cannot be read ({stated})") from reason
    if stat.S_ISDIR(mode):
        raise error(f"{path} is a directory; name a file")
    if not stat.S_ISREG(mode):
        raise error(
            f"{path} is a device or a pipe, not a regular file; write its content into a file first"
        )
    return path


@contextmanager
def library(where: str) -> Iterator[None]:
    """Turn whatever a library raises over the bytes of a file into a `FormatError`.

    Damage raises whatever the damaged bytes happen to mean. Only calls of libraries belong inside.
    """
    try:
        yield
    except PhysgenError:
        raise
    except Exception as error:
        stated = " ".join(str(error).split())[:150] or type(error).__name__
        raise FormatError(
            f"{where} is cut short, damaged, or of an unsupported kind ({stated}); copy or make it "
            "again"
        ) from error


def refuse_bomb(where: str, unpacked: int, packed: int) -> None:
    """Raise `FormatError` if `packed` bytes claim to unpack to far more than data do."""
    if unpacked > LARGEST_DEFLATED * packed + 2**16 or (
        unpacked > _UNSUSPICIOUS and unpacked > _LARGEST_RATIO * packed
    ):
        raise FormatError(
            f"{where} claims to unpack from {packed} to {unpacked} bytes: it is damaged, or made "
            "to exhaust the memory; if it is genuine, unpack it yourself, or write it as HDF5"
        )


def _companions(path: Path) -> list[str]:
    try:
        result = itertools.islice(path.parent.iterdir(), _NEIGHBOURS)
        return [other.name for other in result if other.is_file()]
    except (OSError, ValueError):
        return []
