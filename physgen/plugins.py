"""Names turned into classes through entry points: those of physgen, and of packages beside it.

A plugin that does not load, or is no component of its group, is an error of what names it, and of
nothing else.
"""

from __future__ import annotations

import functools
import typing
import warnings
from collections.abc import Iterable
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from physgen.errors import RecipeError, suggest

Group = Literal[
    "systems", "transforms", "surrogates", "bijections", "methods", "metrics", "exporters"
]

_CONTRACTS: dict[Group, tuple[str, ...]] = {
    "systems": ("schema", "observables", "derived"),
    "transforms": ("fit", "forward", "inverse", "latent_shape"),
    "surrogates": ("initialise", "sample"),
    "bijections": ("forward", "inverse", "log_prob"),
    "methods": ("step",),
    "metrics": ("rows",),
    "exporters": ("write",),
}
"""What a class of each group has at least; see docs/architecture.md."""

_OWN = "physgen."
"""How the modules of built-in components begin."""


@functools.cache
def claimed(group: Group | Literal["recipes"]) -> dict[str, list[EntryPoint]]:
    """Return the entry points of a group by name: several, where packages claim the same name."""
    points: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=f"physgen.{group}"):
        claims = points.setdefault(point.name, [])
        if point.value not in {other.value for other in claims}:
            claims.append(point)
    return points


def registered(group: Group) -> dict[str, EntryPoint]:
    """Return an entry point of a group for each name; `lookup` refuses names with several."""
    return {name: points[0] for name, points in claimed(group).items()}


def lookup(group: Group, kind: str) -> type[Any]:
    """Return the class registered under `kind`.

    Raises:
        RecipeError: there is none, with near misses; two packages claim the name; or it is that of
            a plugin that does not load.
    """
    known = claimed(group)
    if kind not in known:
        near = suggest(kind, known)
        remedy = (
            "" if "did you mean" in near else "; that of a plugin needs its package: pip install"
        )
        raise RecipeError(f"no {group[:-1]} is called {kind!r}{near}{remedy}")
    point, *others = known[kind]
    if others:
        raise RecipeError(clash(f"{group[:-1]} {kind!r}", known[kind]))
    if is_own(point):
        return typing.cast("type[Any]", point.load())
    try:
        return _checked(group, point.load())
    except Exception as error:  # A plugin may fail in any way, and is to be named for it.
        warnings.warn(f"plugin {point.value} does not load: {error}", stacklevel=2)
        raise RecipeError(
            f"the {group[:-1]} {kind!r} is a plugin that does not load ({point.value} of "
            f"{package_of(point)}: {error}); see physgen doctor"
        ) from error


def clash(name: str, points: Iterable[EntryPoint]) -> str:
    """Return what is wrong if several packages claim a name, and what to do."""
    values = " and ".join(sorted(point.value for point in points))
    return f"two packages register the {name}: {values}; uninstall one of them"


def _checked(group: Group, found: Any) -> type[Any]:
    if not isinstance(found, type):
        raise TypeError(f"it is no class, but {found!r}")
    fields = getattr(found, "__dataclass_fields__", {})
    for name in _CONTRACTS[group]:
        if not hasattr(found, name) and name not in fields:
            raise TypeError(f"{found.__name__} is no class of {group}: it has no {name!r}")
    return found


def is_own(point: EntryPoint) -> bool:
    """Return whether a component is one of physgen itself."""
    return point.value.startswith(_OWN)


def package_of(point: EntryPoint) -> str:
    """Return the name of the package that registers a component."""
    return "an unknown package" if point.dist is None else str(point.dist.name)


def packages_of(kinds: Iterable[tuple[Group, str]]) -> tuple[str, ...]:
    """Return the packages beside physgen that register some of these components."""
    points = [registered(group).get(kind) for group, kind in kinds]
    return tuple(sorted({package_of(p) for p in points if p is not None and not is_own(p)}))


def require(packages: tuple[str, ...]) -> None:
    """Raise a `RecipeError` that says how to get the first of `packages` that is not installed."""
    for name in packages:
        try:
            distribution(name)
        except PackageNotFoundError:
            raise RecipeError(
                f"its components are those of the package {name!r}, which is not installed; "
                f"install it beside physgen: pip install {name}"
            ) from None


def recipe_file(point: EntryPoint) -> Path | None:
    """Return the file of a plugin's recipe, NAME.yaml in the package that its entry point names."""
    try:
        spec = find_spec(point.value)
    except Exception:  # The package above may fail in any way when it is imported.
        return None
    for folder in [] if spec is None else spec.submodule_search_locations or []:
        file = Path(folder) / f"{point.name}.yaml"
        if file.is_file():
            return file
    return None


def recipes() -> dict[str, Path]:
    """Return the recipe files of plugins by name, without those that two packages claim."""
    files = {
        name: recipe_file(points[0])
        for name, points in claimed("recipes").items()
        if len(points) == 1
    }
    return {name: file for name, file in files.items() if file is not None}
