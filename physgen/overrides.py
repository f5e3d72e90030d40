"""Changes to a recipe by dotted keys, and the paths in it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from physgen.arguments import user_path
from physgen.errors import RecipeError
from physgen.io.documents import parse_yaml
from physgen.io.shipped import resolve_path


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key; a new `kind` drops the options of the old one.

    >>> tree = {"method": {"kind": "a", "k": 10}}
    >>> put(tree, "method.kind", "b")
    >>> tree
    {'method': {'kind': 'b'}}
    """
    *parents, last = key.split(".")
    node: Any = tree
    for part in parents:
        if isinstance(node, list):
            node = node[_index(node, part, key)]
            continue
        child = node.get(part)
        if child is None:
            child = node[part] = {}
        if not isinstance(child, dict | list):
            raise RecipeError(f"cannot set {key}: {part!r} is the value {child!r}, not a section")
        node = child
    if isinstance(node, list):
        node[_index(node, last, key)] = value
    elif last == "kind" and node.get("kind") != value:
        node.clear()
        node["kind"] = value
    else:
        node[last] = value


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """Turn `key=value` words into overrides; values are YAML.

    >>> parse_overrides(["engine.steps=100", "system.shape=[8, 8]", "data=null"])
    {'engine.steps': 100, 'system.shape': [8, 8], 'data': None}
    """
    overrides: dict[str, Any] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not key:
            raise RecipeError(
                f"{argument!r} is not of the form key=value, such as engine.steps=100"
            )
        overrides[key] = parse_yaml(value, f"{argument!r}: the value", RecipeError)
    return overrides


def _index(node: list[Any], part: str, key: str) -> int:
    if not part.isdigit() or int(part) >= len(node):
        raise RecipeError(f"cannot set {key}: {part!r} is not one of the {len(node)} entries")
    return int(part)


def located(key: str, value: Any, folder: Path) -> Any:
    """Return what a dotted key is set to, its file paths made absolute from `folder`.

    So a run can be resumed from anywhere, and a recipe lie beside its data.
    """
    if isinstance(value, Mapping):
        return {k: located(f"{key}.{k}".lstrip("."), v, folder) for k, v in value.items()}
    if isinstance(value, list) and _PATHS.fullmatch(key):
        return [located(key, one, folder) for one in value]
    if not isinstance(value, str) or not _PATHS.fullmatch(key):
        return value
    if key in _FUNCTIONS:
        path, _, function = value.rpartition(":")
        return f"{user_path(path, folder)}:{function}" if path.endswith(".py") else value
    return resolve_path(value, folder)


_FUNCTIONS = ("system.action", "system.simulator", "simulator", "objective")
"""Which keys hold functions in files, FILE.py:FUNCTION."""
_PATHS = re.compile(
    r"data\.(\w+\.)?(path|binning)|method\.(teacher|generator)|"
    + "|".join(map(re.escape, _FUNCTIONS))
)
"""Which keys of a recipe hold paths of files, those among them."""
