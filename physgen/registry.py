"""Classes that recipes name, turned into objects.

A recipe sets the options of a class (`physgen.signatures`); what the builder knows (`schema`,
`system`, `surrogate`, ...) is handed over by parameter name.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from physgen.plugins import Group, lookup, registered
from physgen.signatures import options_model
from physgen.systems.family import family

__all__ = [
    "Component",
    "Group",
    "Section",
    "asks_for",
    "build",
    "lookup",
    "options_model",
    "registered",
]


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
