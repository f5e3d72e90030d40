"""Constructors as schemas: the keyword-only parameters of a class are what a recipe may set."""

from __future__ import annotations

import inspect
import sys
import typing
from dataclasses import MISSING
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, create_model

CONTEXT = frozenset(
    {"schema", "transform", "system", "surrogate", "steps", "paired", "trained", "inner"}
)
"""Constructor parameters that the builder provides; a recipe cannot set them."""


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
