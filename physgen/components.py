"""What a recipe names, constructed: its system, and a surrogate behind its transforms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from physgen.batch import Schema, Variable
from physgen.data_sections import Data
from physgen.errors import RecipeError, suggest
from physgen.recipe import Recipe
from physgen.registry import Component, asks_for, build, lookup
from physgen.surrogates.base import HasSampler, HasTruncation, Surrogate
from physgen.systems.base import System
from physgen.transforms.base import Chain


def system_of(recipe: Recipe) -> System:
    """Construct the system of a recipe's samples; what is said of their file goes to it.

    Raises:
        RecipeError: the system is not told such things of files, or knows no pairs.
    """
    if recipe.target is None:
        system: System = build("systems", recipe.system, {})
        return system
    name, partner = recipe.inputs[-1], recipe.target.paired_with
    if partner is None:
        return system_of_files(recipe, name)
    if not asks_for("systems", recipe.system, "paired"):
        raise RecipeError(
            f"data.{name}.paired_with: samples of system {recipe.system.kind!r} cannot be paired; "
            "tables of events can"
        )
    other = system_of_files(recipe, partner)
    return system_of_files(recipe, name, as_conditions(partner, other.schema))


def system_of_files(recipe: Recipe, name: str, paired: Sequence[Variable] = ()) -> System:
    """Construct the system of a recipe for the files of one of its data sections.

    Args:
        recipe: names the system.
        name: of the section.
        paired: conditions that come from the files of another section.

    Raises:
        RecipeError: the system is not told such things of files.
    """
    given = recipe.sections[name].files()
    known = {"path", *getattr(lookup("systems", recipe.system.kind), "file_keys", ())}
    for key in given:
        if key not in known:
            where = key if isinstance(recipe.data, Data) else f"{name}.{key}"
            raise RecipeError(
                f"data.{where}: files of system {recipe.system.kind!r} are read without it; leave "
                f"it out{suggest(key, known)}"
            )
    if paired:
        given["paired"] = tuple(paired)
    system: System = build("systems", recipe.system, given)
    return system


def as_conditions(name: str, schema: Schema) -> tuple[Variable, ...]:
    """Return the columns of the samples of a data section as conditions of others.

    Args:
        name: of the section, which goes before the names of its columns.
        schema: of its samples.

    Raises:
        RecipeError: they have conditions themselves, or are no flat table.
    """
    if schema.condition:
        raise RecipeError(
            f"data.{name}.condition: all columns of data.{name} are conditions already; name them "
            "in `fields`"
        )
    if schema.shape != (len(schema.variables),):
        raise RecipeError(
            f"data.{name}: conditions are columns, and its samples have the shape {schema.shape}"
        )
    return tuple(replace(v, name=f"{name}_{v.name}", present=None) for v in schema.variables)


def surrogate_of(
    transform: Sequence[Component], component: Component, schema: Schema, system: System | None
) -> Surrogate:
    """Construct a surrogate of samples behind transforms."""
    items = {"schema": schema.items, "system": system}
    transforms = [build("transforms", part, items) for part in transform]
    context = {"schema": schema, "system": system, "transform": Chain(transforms, schema)}
    inner = inner_of(component)
    if inner is not None:
        context["inner"] = build("surrogates", inner, context)
    surrogate: Surrogate = build("surrogates", component, context)
    return surrogate


def inner_of(component: Component) -> Component | None:
    """Return the generator within a surrogate that weighs another's samples, if it names one."""
    if not asks_for("surrogates", component, "inner"):
        return None
    given = component.options.get("generator")
    return Component(**given) if isinstance(given, Mapping) and "kind" in given else None


def choose_sampling(recipe: Recipe, surrogate: Surrogate) -> None:
    """Let a surrogate draw as the section `sampling` says; `RecipeError` if it cannot."""
    surrogate.conditions.extrapolate = recipe.sampling.extrapolate
    sampler, truncation = recipe.sampling.sampler, recipe.sampling.truncation
    if truncation is not None:
        if not isinstance(surrogate, HasTruncation):
            raise RecipeError(
                f"sampling.truncation: {type(surrogate).__name__} is no generator of adversarial "
                "networks; leave it out"
            )
        surrogate.truncate(truncation)
    if sampler is None:
        return
    if not isinstance(surrogate, HasSampler):
        raise RecipeError(
            f"sampling.sampler: {type(surrogate).__name__} has no sampler to choose; leave it out"
        )
    surrogate.use_sampler(sampler)
