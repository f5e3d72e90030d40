"""Data set cards: YAML files whose section `read` says how samples are read, from which file.

What is said of a file in a recipe (`data.path`, `data.fields`, ...) has the same types.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WrapValidator

from physgen.errors import FormatError, InputError
from physgen.io.documents import explain, read_yaml
from physgen.io.shipped import resolve_path, shipped, shipped_or_own


def _wanted(what: str) -> WrapValidator:
    """Say of a wrong value what is wanted: pydantic would name one of several types of Python."""

    def check(value: Any, accept: Callable[[Any], Any]) -> Any:
        try:
            return accept(value)
        except ValidationError as error:
            raise ValueError(f"{what} is wanted") from error

    return WrapValidator(check)


Paths = Annotated[
    str | Annotated[tuple[str, ...], Field(min_length=1)],
    _wanted("a path, a pattern such as part_*.root, or a list of them"),
]
Names = Annotated[tuple[str, ...], _wanted("a list of names")]
Columns = Annotated[
    tuple[str | dict[str, Any], ...],
    _wanted("a list of names, or of mappings such as {name: pt, unit: GeV},"),
]
"""What may be said of a column is checked by `physgen.systems.event_columns`."""


class Card(BaseModel):
    """What the section `read` of a card says; unknown keys are refused.

    Attributes:
        path: of the file or files, relative to the card.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    path: Paths


AnyCard = TypeVar("AnyCard", bound=Card)

_FILES = ("path", "labels")
"""Keys of any card that are paths of files."""


def read_card(path: Path, kind: type[AnyCard]) -> AnyCard:
    """Return the section `read` of a data set card: a file, or one that physgen ships.

    Args:
        path: of the card.
        kind: what the section may say, by its name and type.

    Raises:
        FormatError: it cannot be read, lacks the section, or says something unknown or of the wrong
            type.
    """
    file = shipped_or_own("datasets", path)
    file = file if file.exists() else shipped("datasets", path.name)
    document = read_yaml(file)
    section = document.get("read") if isinstance(document, dict) else None
    if not isinstance(section, dict) or "path" not in section:
        raise FormatError(f"{file}: a data set card needs a section `read` with a `path`")
    try:
        card = kind.model_validate(section)
    except ValidationError as error:
        raise FormatError(f"{file}: {explain(error, kind, 'read')}") from error
    files = {key: getattr(card, key, None) for key in _FILES}
    try:
        paths = {key: _resolved(value, file.parent) for key, value in files.items() if value}
    except InputError as error:
        raise FormatError(f"{file}: {error}") from error
    return card.model_copy(update=paths)


def _resolved(paths: str | tuple[str, ...], folder: Path) -> str | tuple[str, ...]:
    """Return the absolute paths of files that a card in `folder` names."""
    folder = folder.absolute()
    if isinstance(paths, str):
        return resolve_path(paths, folder)
    return tuple(resolve_path(path, folder) for path in paths)
