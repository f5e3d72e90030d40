"""What there is: recipes, components by group, where a recipe's values come from, and runs."""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Any, get_args

from physgen.arguments import user_path
from physgen.comparing import comparisons, read_plan
from physgen.errors import InputError, PhysgenError, printable, suggest
from physgen.installation import recipe_state
from physgen.io.shipped import shipped_recipes
from physgen.plugins import claimed, is_own, package_of
from physgen.plugins import recipes as plugin_recipes
from physgen.recipe import Recipe, check, layered
from physgen.registry import Group, lookup, options_model
from physgen.run import Run

KINDS = ("recipes", "comparisons", *get_args(Group), "plugins")
"""What may be listed."""


@dataclass(frozen=True)
class Entry:
    """A recipe or component: its name, where it comes from, and what it is in a line."""

    name: str
    origin: str
    about: str


@dataclass(frozen=True)
class Setting:
    """A value of a resolved recipe: its dotted key, and what set it last."""

    key: str
    origin: str
    value: Any


@dataclass(frozen=True)
class RunEntry:
    """A run of a folder: what it is of, since when, what it has come to, and where it is."""

    recipe: str
    since: str
    state: str
    verdict: str
    run: str


def entries(kind: str) -> list[Entry]:
    """Return what there is of a kind, in the order of names; "plugins" are of all groups.

    Raises:
        InputError: there is nothing of this kind.
    """
    if kind == "recipes":
        added = plugin_recipes()
        known = shipped_recipes().items()
        own = [_recipe(name) for name, file in known if file != added.get(name)]
        return [*own, *_plugin_recipes()]
    if kind == "comparisons":
        return [Entry(name, "physgen", read_plan(name).title) for name in comparisons()]
    if kind == "plugins":
        found = [entry for group in get_args(Group) for entry in _components(group, own=False)]
        return [*found, *_plugin_recipes()]
    for group in get_args(Group):
        if group == kind:
            return [*_components(group, own=True), *_components(group, own=False)]
    raise InputError(f"nothing is listed as {kind!r}{suggest(kind, KINDS)}")


def _recipe(name: str) -> Entry:
    path, layers = layered(name)
    summary = str(layers[-1].tree.get("summary", ""))
    return Entry(name, path.parent.name, " ".join(summary.split()))


def _plugin_recipes() -> Iterator[Entry]:
    for name, points in sorted(claimed("recipes").items()):
        for point in sorted(points, key=package_of):
            state = recipe_state(point)
            about = _recipe(name).about if state == "ok" else state
            yield Entry(name, package_of(point), about)


def settings(
    recipe: str | PathLike[str],
    overrides: Mapping[str, Any] | None = None,
    preset: str | None = None,
) -> list[Setting]:
    """Return all values of a resolved recipe, and where each comes from.

    Raises:
        RecipeError: see `physgen.recipe.read`.

    >>> origins = {s.key: s.origin for s in settings("digits-vae", {"engine.steps": 5})}
    >>> origins["data.path"], origins["engine.steps"], origins["engine.seed"]
    ('base.yaml', 'override', 'default')
    """
    path, layers = layered(recipe, overrides, preset)
    resolved = check(layers[-1].tree, str(path))
    origins: dict[str, tuple[Any, str]] = {}
    for layer in layers:
        here = dict(_leaves(layer.tree))
        name = Path(layer.origin).name if layer.origin.endswith((".yaml", ".yml")) else layer.origin
        origins = {
            key: origins[key] if key in origins and origins[key][0] == value else (value, name)
            for key, value in here.items()
        }
    stated = [Setting(key, origin, value) for key, (value, origin) in origins.items()]
    defaults = [
        Setting(key, "default", value)
        for key, value in _defaults(resolved)
        if not any(one == key or one.startswith(f"{key}.") for one in origins)
    ]
    return sorted([*stated, *defaults], key=lambda one: _place(one.key))


def _place(key: str) -> tuple[int, ...]:
    """Return where a key stands in a recipe: its section, and its number in a list."""
    section, *rest = key.split(".")
    numbers = (int(part) for part in rest if part.isdigit())
    return list(Recipe.model_fields).index(section), *numbers


def runs_of(folder: str | PathLike[str]) -> list[RunEntry]:
    """Return the runs of a folder, the latest first; damaged ones say so.

    Raises:
        InputError: there is no such folder.
    """
    root = user_path(folder)
    if not root.is_dir():
        raise InputError(f"{root} is not a folder; `physgen train` makes runs, --runs says where")
    paths = [file.parent for file in root.glob("*/*/recipe.yaml")]
    paths.sort(key=lambda path: (path / "recipe.yaml").stat().st_mtime, reverse=True)
    return [_entry(path) for path in paths]


def _entry(path: Path) -> RunEntry:
    since = datetime.fromtimestamp((path / "recipe.yaml").stat().st_mtime, UTC)
    state, verdict = "not trained", ""
    try:
        run = Run(path)
        if run.scored:
            state, verdict = "scored", run.scorecard.verdict
        elif run.finished:
            state = "trained"
        elif run.started:
            state = "training, or stopped"
    except PhysgenError as error:
        state = f"damaged: {printable(str(error))}"
    when = f"{since.astimezone():%Y-%m-%d %H:%M}"
    return RunEntry(printable(path.parent.name), when, state, verdict, printable(str(path)))


def _components(group: Group, *, own: bool) -> Iterator[Entry]:
    points = [point for claims in claimed(group).values() for point in claims]
    for point in sorted(points, key=lambda point: (point.name, package_of(point))):
        if is_own(point) != own:
            continue
        name = point.name
        origin = "physgen" if own else package_of(point)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # The line says it.
                doc = inspect.getdoc(lookup(group, name)) or ""
        except PhysgenError as error:
            doc = str(error)
        yield Entry(name, origin, doc.partition("\n")[0])


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values; lists of components are numbered, others are values."""
    for key, value in tree.items():
        yield from _leaf(f"{above}{key}", value)


def _leaf(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from _leaves(value, f"{key}.")
    elif isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
        for number, one in enumerate(value):
            yield from _leaf(f"{key}.{number}", one)
    else:
        yield key, value


def _defaults(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    """Yield keys and values that nobody set: of sections, and of the constructors named."""
    sections = json.loads(recipe.model_dump_json(exclude_none=True))
    for section in ("data", "engine", "sampling"):
        yield from _leaves(sections.get(section, {}), f"{section}.")
    for place, group, component in recipe.components():
        options = options_model(lookup(group, component.kind))(**component.options)
        yield from _leaves(options.model_dump(exclude_none=True), f"{place}.")
