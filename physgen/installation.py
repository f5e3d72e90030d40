"""What is installed: the machine, extras of physgen, plugins beside it, and what to mend."""

from __future__ import annotations

import warnings
from importlib.metadata import EntryPoint, PackageNotFoundError, metadata, requires, version
from importlib.metadata import entry_points as installed
from typing import Any, get_args

from packaging.requirements import Requirement

from physgen import plugins
from physgen.engine.device import describe_machine
from physgen.errors import PhysgenError, RecipeError, printable
from physgen.io.shipped import shipped_recipes
from physgen.plugins import Group, is_own, lookup, package_of
from physgen.recipe import read


def describe() -> dict[str, Any]:
    """Return what `physgen doctor` says, as JSON types.

    >>> sorted(set(describe()) & {"extras", "plugins", "devices", "versions"})
    ['devices', 'extras', 'plugins', 'versions']
    """
    return {**describe_machine(), "extras": extras(), "plugins": plugin_states()}


def extras() -> dict[str, str]:
    """Return whether each extra is installed, and the command that gets what is missing."""
    states = {}
    for extra in metadata("physgen").get_all("Provides-Extra") or []:
        missing = [text for text in _asked("physgen", extra) if not _is_met(Requirement(text))]
        remedy = f"missing {', '.join(missing)}: pip install 'physgen[{extra}]'"
        states[extra] = remedy if missing else "installed"
    return states


def _asked(package: str, extra: str) -> list[str]:
    """Return what an extra adds, that of other extras of the same package included."""
    found: list[str] = []
    for text in requires(package) or []:
        one = Requirement(text)
        if one.marker is None or one.marker.evaluate({"extra": ""}):
            continue
        if one.marker.evaluate({"extra": extra}):
            parts = [part for other in sorted(one.extras) for part in _asked(package, other)]
            found += parts if one.name == package else [f"{one.name}{one.specifier}"]
    return found


def _is_met(one: Requirement) -> bool:
    try:
        return one.specifier.contains(version(one.name), prereleases=True)
    except PackageNotFoundError:
        return False


def plugin_states() -> dict[str, dict[str, str]]:
    """Return what plugins register, by package: "ok", or what is broken and what to do.

    All are loaded, so that those which fail are found; one that fails leaves the others alone.
    """
    states: dict[str, dict[str, str]] = {}
    for group in get_args(Group):
        for point in installed(group=f"physgen.{group}"):
            if not is_own(point):
                state = _component(group, point.name)
                states.setdefault(package_of(point), {})[f"{group[:-1]} {point.name}"] = state
    for point in installed(group="physgen.recipes"):
        states.setdefault(package_of(point), {})[f"recipe {point.name}"] = recipe_state(point)
    return states


def recipe_state(point: EntryPoint) -> str:
    """Return "ok", or what is broken of a plugin's recipe and what to do."""
    claims = plugins.claimed("recipes")[point.name]
    if len(claims) > 1:
        return f"broken: {plugins.clash(f'recipe {point.name!r}', claims)}"
    file = plugins.recipe_file(point)
    if file is None:
        return f"broken: there is no {point.name}.yaml in {point.value}; {_MEND}"
    if shipped_recipes()[point.name] != file:
        return "broken: physgen ships a recipe of this name; rename it"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(file)
    except PhysgenError as error:
        return f"broken: {error}; {_MEND}"
    return "ok"


_MEND = "update or uninstall its package"


def _component(group: Group, name: str) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lookup(group, name)
    except RecipeError as error:
        # Of two packages that claim one name the error itself says what to do.
        cause = error.__cause__
        return f"broken: {error}" if cause is None else f"broken: {_said(cause)}; {_MEND}"
    return "ok"


def _said(error: BaseException) -> str:
    return printable(f"{type(error).__name__}: {error}")
