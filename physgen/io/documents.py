"""Text, JSON and YAML files of bounded size, depth and expansion, with errors of one line.

YAML lets a node be repeated by its anchor: a file of one kilobyte can stand for a billion nodes.
What a document expands to is counted before it is built.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import BaseModel, Tag, ValidationError

from physgen.errors import FormatError, InputError, suggest
from physgen.io.guard import regular

LARGEST_YAML = 2**17
"""Bytes of a recipe or of a card of a data set."""
LARGEST_JSON = 2**28
"""Bytes of a JSON file; scorecards hold curves."""
DEEPEST = 50
"""Levels of nesting."""
MOST_NODES = 100_000
"""Values of a YAML document, those repeated by anchors counted as often as they stand there."""

_LONGEST = 200
"""Characters of a wrong value that are shown."""


def read_text(path: Path, largest: int, error: type[InputError] = FormatError) -> str:
    """Return the content of a regular UTF-8 file of at most `largest` bytes.

    Raises:
        InputError: of the type `error`, naming the file.
    """
    regular(path, error)
    try:
        with path.open("rb") as file:
            content = file.read(largest + 1)
    except OSError as reason:
        raise error(f"{path}: cannot be read ({reason.strerror})") from reason
    if len(content) > largest:
        raise error(f"{path} is larger than {largest // 1024} KiB, and no such file should be")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as reason:
        raise error(f"{path} is not UTF-8 text: {_short(reason)}") from reason


def read_json(path: Path, error: type[InputError] = FormatError) -> Any:
    """Return what a JSON file holds; raises `error` if it cannot be read or is not JSON."""
    return parse_json(read_text(path, LARGEST_JSON, error), str(path), error)


def parse_json(text: str, where: str, error: type[InputError] = FormatError) -> Any:
    """Return what a JSON text holds; `where` begins the message of an `error`."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as reason:
        raise error(f"{where} is not JSON: {_short(reason)}") from reason


def read_yaml(path: Path, error: type[InputError] = FormatError) -> Any:
    """Return what a YAML file holds; raises `error` if it cannot be read or is not plain YAML."""
    return parse_yaml(read_text(path, LARGEST_YAML, error), str(path), error)


def parse_yaml(text: str, where: str, error: type[InputError] = FormatError) -> Any:
    """Return what a YAML text holds, in plain types; `where` begins the message of an `error`."""
    loader = None
    try:
        loader = _Loader(text)
        return loader.get_single_data()
    # Beside its own errors it raises what the conversion of a number, date or key raises.
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, AttributeError) as reason:
        raise error(f"{where} is not YAML: {_short(reason)}") from reason
    finally:
        if loader is not None:
            loader.dispose()


def explain(error: ValidationError, model: type[BaseModel] | None, place: str = "") -> str:
    """Return the first problem of a pydantic error in one line, with the key and near misses.

    Args:
        error: of the check.
        model: that was asked for, whose keys are proposed.
        place: dotted key of the section that was checked; "" is the whole document.
    """
    problem = error.errors()[0]
    keys, names, kinds = _place(model, problem["loc"])
    where = ".".join([place, *keys] if place else keys)
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"unknown key {where!r}{suggest(keys[-1], names)}"
    if problem["type"] == "union_tag_not_found":
        return f"key '{where}.kind' is missing{suggest('', kinds)}"
    if problem["type"] == "union_tag_invalid":
        kind = problem["ctx"]["tag"]
        return f"{where}.kind: {shown(kind)} is not known{suggest(kind, kinds)}"
    if problem["type"] in ("missing", "missing_keyword_only_argument"):
        return f"key {where!r} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error" and keys[-1:] == ["kind"]:
        return f"{where}: {message}"
    return f"{where} = {shown(problem['input'])}: {message[:1].lower()}{message[1:]}"


def shown(value: Any) -> str:
    """Return a value of a document as messages show it, of bounded length."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no numbers of more than 4300 digits.
        return "a number of thousands of digits"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _place(
    model: type[BaseModel] | None, location: Sequence[int | str]
) -> tuple[list[str], list[str], list[str]]:
    """Return the keys of a location, what its last one may be, and the kinds of what is there.

    Between the key of a section and those within it pydantic puts its kind, where it has several,
    and the tag, where there may be one or several by name.
    """
    keys: list[str] = []
    names: list[str] = []
    sections: list[type[Any]] = [] if model is None else [model]
    of_a_kind = False
    tagged: dict[str, Any] = {}
    by_name: type[Any] | None = None
    for part in location:
        if tagged:
            chosen = tagged[str(part)]
            by_name = typing.get_args(chosen)[1] if typing.get_origin(chosen) is dict else None
            sections, tagged = [] if by_name else [chosen], {}
            continue
        if by_name is not None:
            keys.append(str(part))
            sections, by_name = [by_name], None
            continue
        if of_a_kind:
            sections = [section for section in sections if _kind(section) == part]
            of_a_kind = False
            continue
        keys.append(str(part))
        if isinstance(part, int):
            continue
        names = [name for section in sections for name in _names(section)]
        fields = [
            section.model_fields[part]
            for section in sections
            if issubclass(section, BaseModel) and part in section.model_fields
        ]
        of_a_kind = any(field.discriminator for field in fields)
        tagged = {tag: one for field in fields for tag, one in _tagged(field.annotation)}
        annotations = [field.annotation for field in fields]
        annotations += [part for one in annotations for part in typing.get_args(one)]
        annotations += tagged.values()
        sections = [one for one in annotations if inspect.isclass(one) and _names(one)]
    return keys, names, [kind for section in sections if (kind := _kind(section))]


def _tagged(annotation: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a type may be by its tags."""
    tags = [one.tag for one in getattr(annotation, "__metadata__", ()) if isinstance(one, Tag)]
    if tags:
        yield tags[0], typing.get_args(annotation)[0]
        return
    for one in typing.get_args(annotation):
        yield from _tagged(one)


def _names(section: type[Any]) -> list[str]:
    """Return the keys of a section."""
    if issubclass(section, BaseModel):
        return list(section.model_fields)
    return (
        [f.name for f in dataclasses.fields(section)] if dataclasses.is_dataclass(section) else []
    )


def _kind(section: type[Any]) -> str:
    """Return the kind of a section that is one of several; "" is any."""
    field = section.model_fields.get("kind") if issubclass(section, BaseModel) else None
    return "" if field is None or field.is_required() else str(field.default)


_NUMBERS = {
    "tag:yaml.org,2002:int": re.compile(r"[-+]?(0|[1-9][0-9_]*|0b[01_]+|0x[0-9a-fA-F_]+)$"),
    "tag:yaml.org,2002:float": re.compile(
        r"([-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+][0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
    ),
}
"""What is a number."""


class _Loader(yaml.SafeLoader):
    """Counts levels and expanded nodes while it composes, before any value is made.

    12:00:00 and 0123 are text, as in YAML 1.2, and not numbers of base 60 and 8.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {  # type: ignore[misc]
        first: [(tag, _NUMBERS.get(tag, pattern)) for tag, pattern in patterns]
        for first, patterns in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._level = 0
        self._extents: dict[yaml.Node, tuple[int, int]] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node, and refuse what is too deep, too many, or within itself."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        self._level += 1
        if self._level > DEEPEST:
            raise yaml.MarkedYAMLError(problem=_TOO_DEEP, problem_mark=event.start_mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._level -= 1
        if node is not None and not isinstance(event, yaml.AliasEvent):
            self._extents[node] = self._extent(node, event.start_mark)
        return node

    def _extent(self, node: yaml.Node, mark: yaml.Mark) -> tuple[int, int]:
        """Return how many nodes and levels a node stands for, each use of an anchor counted."""
        if isinstance(node, yaml.MappingNode):
            children = [part for pair in node.value for part in pair]
        else:
            children = node.value if isinstance(node, yaml.SequenceNode) else []
        count, depth = 1, 1
        for child in children:
            if child not in self._extents:
                raise yaml.MarkedYAMLError(problem="an anchor within itself", problem_mark=mark)
            more, levels = self._extents[child]
            count, depth = count + more, max(depth, levels + 1)
        if count > MOST_NODES:
            many = f"its anchors expand to more than {MOST_NODES} values"
            raise yaml.MarkedYAMLError(problem=many, problem_mark=mark)
        if depth > DEEPEST:
            raise yaml.MarkedYAMLError(problem=_TOO_DEEP, problem_mark=mark)
        return count, depth


_TOO_DEEP = f"it is nested more than {DEEPEST} levels deep"


def _short(error: Exception) -> str:
    """Return an error of a library in one line."""
    text = " ".join(str(error).split()).replace('in "<unicode string>", line', "at line")
    return text[:200] or type(error).__name__
