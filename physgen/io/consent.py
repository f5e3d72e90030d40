"""Which Python files of recipes this user has agreed to run.

A recipe may name a file of code (an action). To train a recipe that one names oneself is to agree
that the code is run, and its SHA-256 is kept among the user's own data. A run directory that is
opened later may have come from anybody: its code is run only if that very content was agreed to
before, or if the caller says so.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from physgen.errors import InputError
from physgen.io.fetch import data_folder
from physgen.io.guard import regular
from physgen.io.writer import sha256


def agree(code: Path) -> None:
    """Remember that the user agrees to the content of a file of code."""
    mark = _mark(code)
    # Where nothing can be kept, the user is asked again.
    with suppress(OSError):
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


def check(code: Path, run: Path) -> None:
    """Raise `InputError` unless the user has agreed to the code that a run directory names."""
    if not _mark(code).exists():
        raise InputError(
            f"{run} runs the code in {code}, which you have not agreed to: read that file, then "
            "repeat with --trust (in Python: trust=True)"
        )


def _mark(code: Path) -> Path:
    return data_folder() / "agreed" / sha256(regular(code, InputError))
