"""The bijection of a flow as a recipe names it: one of physgen, or one that a plugin registers."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import (
    ConfigDict,
    Discriminator,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from physgen.errors import RecipeError
from physgen.io.documents import explain
from physgen.plugins import is_own, lookup, registered
from physgen.ranges import Options
from physgen.signatures import options_model
from physgen.surrogates.flows.autoregressive import AutoregressiveOptions
from physgen.surrogates.flows.bijection import Bijection
from physgen.surrogates.flows.continuous import ContinuousOptions
from physgen.surrogates.flows.normflows import NormflowsOptions
from physgen.surrogates.flows.stack import CouplingOptions

_PLUGIN = "plugin"


class PluginBijection(Options):
    """A subclass of `Bijection` of the entry-point group `physgen.bijections`, with its options.

    It is constructed with the number of features and of conditions, and its own keyword-only
    parameters.

    Attributes:
        kind: the name it is registered under.

    >>> PluginBijection(kind="continuous").build((3,), 0).features
    3
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    kind: str

    @field_validator("kind")
    @classmethod
    def _loads(cls, kind: str) -> str:
        try:
            lookup("bijections", kind)
        except RecipeError as error:
            raise ValueError(str(error)) from error
        return kind

    @model_validator(mode="after")
    def _takes_the_options(self) -> PluginBijection:
        model = options_model(lookup("bijections", self.kind))
        try:
            model(**(self.model_extra or {}))
        except ValidationError as error:
            raise ValueError(explain(error, model)) from error
        return self

    def build(self, shape: tuple[int, ...], n_condition: int) -> Bijection:
        """Return the bijection of samples of a shape."""
        cls = lookup("bijections", self.kind)
        options = options_model(cls)(**(self.model_extra or {}))
        chosen = {name: getattr(options, name) for name in options.model_fields_set}
        bijection: Bijection = cls(math.prod(shape), n_condition, **chosen)
        return bijection


def _tag(options: Any) -> str | None:
    if isinstance(options, dict) and "kind" not in options:
        return None
    kind = options["kind"] if isinstance(options, dict) else getattr(options, "kind", None)
    point = registered("bijections").get(str(kind))
    return str(kind) if point is not None and is_own(point) else _PLUGIN


BijectionOptions = Annotated[
    Annotated[CouplingOptions, Tag("coupling")]
    | Annotated[AutoregressiveOptions, Tag("autoregressive")]
    | Annotated[ContinuousOptions, Tag("continuous")]
    | Annotated[NormflowsOptions, Tag("normflows")]
    | Annotated[PluginBijection, Tag(_PLUGIN)],
    Discriminator(_tag),
]
"""What a flow can be made of."""
