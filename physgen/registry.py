"""Names turned into classes through entry points, and classes into objects.

Each class's own constructor is its schema: the keyword-only parameters are what a recipe may set,
checked by a pydantic model made from the signature. What the builder knows (`schema`, `system`,
`surrogate`, ...) is handed over by parameter name.
"""

from __future__ import annotations

import functools
import inspect
import sys
import typing
import warnings
from collections.abc import Mapping
from dataclasses import MISSING
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from physgen.errors import RecipeError, suggest
from physgen.systems.family import family

Group = Literal["systems", "transforms", "surrogates", "methods", "metrics", "exporters"]

CONTEXT = frozenset(
    {"schema", "transform", "system", "surrogate", "steps", "paired", "trained", "inner"}
)
"""Constructor parameters that the builder provides; a recipe cannot set them."""


class Section(BaseModel):
    """A part of a recipe: unknown keys are refused, and nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Component(Section):
    """A class by its name, with its options.

    >>> Component(kind="rbm", hidden=256).options
    {'hidden': 256}
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    kind: str

    @property
    def options(self) -> dict[str, Any]:
        """All but the kind."""
        return dict(self.model_extra or {})


@functools.cache
def registered(group: Group) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name; two packages claiming one name is an error."""
    points: dict[str, EntryPoint] = {}
    for point in entry_points(group=f"physgen.{group}"):
        other = points.get(point.name)
        if other is not None and other.value != point.value:
            raise RecipeError(
                f"two packages register the {group[:-1]} {point.name!r}: {other.value} and "
                f"{point.value}; uninstall one of them"
            )
        points[point.name] = point
    return points


def lookup(group: Group, kind: str) -> type[Any]:
    """Return the class registered under `kind`; `RecipeError` with near misses if there is none."""
    known = registered(group)
    if kind not in known:
        raise RecipeError(f"no {group[:-1]} is called {kind!r}{suggest(kind, known)}")
    try:
        return typing.cast("type[Any]", known[kind].load())
    except (ImportError, AttributeError) as error:
        point = known[kind]
        if point.value.startswith("physgen."):
            raise
        warnings.warn(f"plugin {point.value} does not load: {error}", stacklevel=2)
        raise RecipeError(f"the {group[:-1]} {kind!r} is a plugin that does not load") from error


def options_model(cls: type[Any]) -> type[BaseModel]:
    """Return the pydantic model of what a recipe may set of `cls`: its keyword-only parameters."""
    # What a system is told of a file stands in the data section.
    provided = CONTEXT | getattr(cls, "file_keys", frozenset())
    # A dataclass repeats the annotations of its parents, whose names are those of their modules.
    names = {
        k: v for c in reversed(cls.__mro__) for k, v in vars(sys.modules[c.__module__]).items()
    }
    hints = typing.get_type_hints(cls.__init__, globalns=names, include_extras=True)
    # A list of couplings makes them conditions, see `physgen.systems.family`.
    couplings = {variable.name for variable in getattr(cls, "couplings", ())}
    fields: dict[str, Any] = {}
    # The signature of a dataclass holds a mark in the place of a default that is made anew.
    made = {f.name: f.default_factory for f in getattr(cls, "__dataclass_fields__", {}).values()}
    for name, parameter in inspect.signature(cls).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and name not in provided:
            default = ... if parameter.default is parameter.empty else parameter.default
            if made.get(name, MISSING) is not MISSING:
                default = Field(default_factory=made[name])
            varies = name in couplings
            fields[name] = (float | tuple[float, ...] if varies else hints.get(name, Any), default)
    config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)
    return create_model(cls.__name__, __config__=config, **fields)


def build(group: Group, component: Component, context: Mapping[str, Any]) -> Any:
    """Construct what `component` names, handing over what its constructor asks for by name."""
    cls = lookup(group, component.kind)
    options = options_model(cls)(**component.options)
    chosen = {name: getattr(options, name) for name in options.model_fields_set}
    parameters = inspect.signature(cls).parameters
    given = {name: value for name, value in context.items() if name in parameters}
    return family(cls, {**given, **chosen}) if group == "systems" else cls(**given, **chosen)


def asks_for(group: Group, component: Component, name: str) -> bool:
    """Return whether the constructor of what `component` names takes a parameter `name`."""
    return name in inspect.signature(lookup(group, component.kind)).parameters
