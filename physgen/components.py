"""What a recipe names, constructed: its system, and a surrogate behind its transforms."""

from __future__ import annotations

from physgen.batch import Schema
from physgen.errors import RecipeError
from physgen.recipe import Recipe
from physgen.registry import DATA_KEYS, Component, build
from physgen.surrogates.base import HasSampler, Surrogate
from physgen.systems.base import System
from physgen.transforms.base import Chain


def system_of(recipe: Recipe) -> System:
    """Construct the system of a recipe; the data section's keys go to where they are named.

    >>> from physgen.recipe import read
    >>> system_of(read("ising-rbm", {"system.shape": [4, 4]})).schema.shape
    (4, 4)
    """
    data = {} if recipe.data is None else recipe.data.model_dump(include=set(DATA_KEYS))
    given = {name: value for name, value in data.items() if value is not None}
    system: System = build("systems", recipe.system, given)
    return system


def surrogate_of(
    recipe: Recipe, component: Component, schema: Schema, system: System | None
) -> Surrogate:
    """Construct a surrogate of a recipe's samples behind the recipe's transforms."""
    items = {"schema": schema.items, "system": system}
    transforms = [build("transforms", part, items) for part in recipe.transform]
    context = {"schema": schema, "system": system, "transform": Chain(transforms, schema)}
    surrogate: Surrogate = build("surrogates", component, context)
    return surrogate


def choose_sampler(recipe: Recipe, surrogate: Surrogate) -> None:
    """Let a surrogate draw as `sampling.sampler` says; `RecipeError` if it cannot."""
    sampler = recipe.sampling.sampler
    if sampler is None:
        return
    if not isinstance(surrogate, HasSampler):
        raise RecipeError(
            f"sampling.sampler: {type(surrogate).__name__} has no sampler to choose; leave it out"
        )
    surrogate.use_sampler(sampler)
