"""What physgen raises: every message says what is wrong, where, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager


def printable(text: str) -> str:
    """Return `text` with every character that a terminal would obey escaped, as `repr` does.

    Names in files and recipes may hold control characters that move the cursor, rename the window
    or reverse the direction of writing.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class PhysgenError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line returns.

    Messages often quote names out of files, so they are made printable here.
    """

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


class InputError(PhysgenError):
    """The user's file, recipe or argument is wrong: the message names it and the remedy."""

    exit_code = 2


class RecipeError(InputError):
    """A recipe holds an unknown key, a value of the wrong type, or parts that do not fit."""


class FormatError(InputError):
    """A file is not what it should be: path, dataset or branch, and row are in the message."""


class DomainError(InputError):
    """A value lies outside the domain a surrogate was trained on, or a field is defined on."""


class NotMeasurable(InputError):
    """A score that these samples cannot give: the scorecard says so in its place."""


class CheckpointError(InputError):
    """A checkpoint is missing, torn, corrupted, or belongs to another recipe."""


class TrainingError(PhysgenError):
    """Training cannot go on: the loss is not finite, or a device ran out of memory."""


class Stopped(PhysgenError):
    """A signal ended the training after it was saved; the same command goes on."""

    exit_code = 143


@contextmanager
def errors_of(key: str) -> Iterator[None]:
    """Name the key of a recipe in `RecipeError`s of what is made of its value."""
    try:
        yield
    except RecipeError as error:
        raise RecipeError(f"{key}: {error}") from error


def suggest(name: str, choices: Iterable[str], n: int = 3, first: Sequence[str] = ()) -> str:
    """Return "; did you mean 'a' or 'b'?" with the near misses of `name`, or some of the choices.

    Those of `first` come first; the others are in alphabetical order.

    >>> suggest("temprature", ["temperature", "shape"])
    "; did you mean 'temperature'?"
    """
    options = [*first, *sorted({str(choice) for choice in choices} - set(first))]
    near = difflib.get_close_matches(name, options, n=n, cutoff=0.6)
    if near:
        likeness = [difflib.SequenceMatcher(None, match, name).ratio() for match in near]
        # Next to a word that differs by one letter, words that share a few are noise.
        near = near[: sum(ratio > likeness[0] - 0.2 for ratio in likeness)]
        return "; did you mean " + " or ".join(repr(match) for match in near) + "?"
    if not options:
        return ""
    shown = ", ".join(repr(option) for option in options[:12])
    return f"; there {'is' if len(options) == 1 else 'are'} {shown}" + (
        f" and {len(options) - 12} more" if len(options) > 12 else ""
    )
