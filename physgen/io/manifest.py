"""SHA-256 sums of files, kept beside them: what is listed is what was written, bit by bit.

The list, `MANIFEST.sha256`, has the form that `sha256sum --check` reads, below a comment with the
sum of the list itself. It is replaced at once and whole, so that a kill leaves the old one or the
new one. A file may be listed with two sums while it is being replaced: it is then whole as it was,
or as it will be.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from physgen.errors import CheckpointError
from physgen.io.documents import read_text
from physgen.io.writer import atomic, sha256

NAME = "MANIFEST.sha256"
Sums = dict[str, set[str]]

_LARGEST = 2**22
_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


def digest(content: bytes) -> str:
    """Return the SHA-256 of what a file is going to hold."""
    return hashlib.sha256(content).hexdigest()


def sums_of(folder: Path, names: Iterable[str]) -> Sums:
    """Return the sums of files as they are now; those below a name that is a folder, too."""
    result: Sums = {}
    for name in names:
        root = folder / name
        files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())
        result |= {
            file.relative_to(folder).as_posix(): {sha256(file)}
            for file in files
            if file.suffix != ".part"
        }
    return result


def write(folder: Path, sums: Mapping[str, Iterable[str]]) -> None:
    """Replace the list of a folder."""
    with atomic(folder / NAME, overwrite=True) as part:
        part.write_text(to_text(sums), encoding="utf-8")


def to_text(sums: Mapping[str, Iterable[str]]) -> str:
    """Return a list as text, a line a sum."""
    lines = "".join(f"{one}  {name}\n" for name, some in sums.items() for one in sorted(some))
    return f"# {digest(lines.encode())}\n{lines}"


def read(folder: Path) -> Sums:
    """Return the list of a folder; raises `CheckpointError` if it has none that can be read."""
    text = read_text(folder / NAME, _LARGEST, CheckpointError)
    own, _, lines = text.partition("\n")
    matches = [_LINE.fullmatch(line) for line in lines.split("\n")[:-1]]
    if own != f"# {digest(lines.encode())}" or None in matches:
        raise CheckpointError(f"{folder / NAME} is damaged; restore it from a copy")
    result: Sums = {}
    for match in filter(None, matches):
        result.setdefault(match[2], set()).add(match[1])
    return result


def check(folder: Path, wanted: Callable[[str], bool] = lambda name: True) -> Sums:
    """Compare the listed files whose names are `wanted` with their sums; return the whole list.

    Raises:
        CheckpointError: naming the first one that is missing, changed, or a link that leads out of
            the folder.
    """
    sums = read(folder)
    for name in filter(wanted, sums):
        check_file(folder, name, sums[name])
    return sums


def check_file(folder: Path, name: str, sums: Iterable[str]) -> None:
    """Raise `CheckpointError` unless a file within `folder` is there and has one of the sums."""
    path = within(folder, name)
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing, though {NAME} lists it; copy the whole folder, or make it again"
        )
    if sha256(path) not in set(sums):
        raise CheckpointError(
            f"{path} is damaged: it is not what was written (SHA-256 differs from {NAME}); restore "
            "it from a copy, or make it again"
        )


def within(folder: Path, name: str) -> Path:
    """Return the path of a file of a folder.

    Raises:
        CheckpointError: it lies elsewhere, by its name or through a link.
    """
    path = folder / name
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):
        inside = False
    if not inside:
        raise CheckpointError(
            f"{path} leads out of {folder}, which is not followed; put the file itself there"
        )
    return path
