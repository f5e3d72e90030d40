"""The run that another is built on, as a student or with weights: that the two go together."""

from __future__ import annotations

from typing import Any

from physgen import card as cards
from physgen.components import inner_of
from physgen.errors import RecipeError, errors_of
from physgen.identity import identity_of
from physgen.recipe import Recipe
from physgen.registry import Component, asks_for, lookup, options_model
from physgen.run import Run
from physgen.surrogates.base import Surrogate


def teacher_of(run: Run) -> Surrogate | None:
    """Return the trained surrogate that a run is built on, if its method names one.

    Raises:
        RecipeError: it is of another system, transform or surrogate, or of other rows of the same
            data where its samples are weighed: the first key is named.
        CheckpointError: it is no finished run, or a file of it was changed.
    """
    teacher = run.teacher
    if teacher is None:
        return None
    weighs, inner = _weighs(run), inner_of(run.recipe.surrogate)
    key = "method.generator" if weighs else "method.teacher"
    named = f"{key} ({teacher.path})"
    with errors_of(key):
        surrogate = teacher.load()
    if weighs and inner is None:
        return surrogate  # The surrogate says what it lacks.
    sampler, given = run.recipe.sampling.sampler, teacher.recipe.sampling.sampler
    if teacher.teacher is not None and (not weighs or sampler != given):
        raise RecipeError(
            f"sampling.sampler: {named} is of use with its own sampler alone; take that"
            if weighs
            else f"{named} is distilled itself, and knows only the few steps of its sampler: name "
            f"what it was distilled from, {teacher.teacher.path}"
        )
    ours = _options(run.recipe, inner or run.recipe.surrogate)
    theirs = _options(teacher.recipe, teacher.recipe.surrogate)
    # Of another kind, all options are others.
    for key in sorted(ours.keys() | theirs.keys(), key=lambda key: (".kind" not in key, key)):
        if ours.get(key) != theirs.get(key):
            place = key.replace("surrogate.", "surrogate.generator.", 1) if weighs else key
            raise RecipeError(
                f"{place} is {ours.get(key)!r}, and {theirs.get(key)!r} in {named}: the two have "
                "the same system, transforms and network; change the recipe, or name another run"
            )
    now, before = identity_of(run), teacher.provenance["identity"]
    if before.get("system") != now.get("system"):
        raise RecipeError(
            f"system: a file that it names has changed since {named} was trained; train that "
            "again, or put the file back"
        )
    if weighs:
        _check_rows(run, teacher, named, one_file=before.get("data") == now.get("data"))
    return surrogate


def describe_teacher(run: Run) -> dict[str, Any]:
    """Return what the card says of the run that another is built on; empty if there is none.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from physgen.recipe import read
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     describe_teacher(Run.create(read("phi4-flow"), Path(folder))[0])
    {}
    """
    if run.teacher is None:
        return {}
    recipe, folder = run.teacher.recipe, run.teacher.path
    sha256 = cards.read_card(folder / "surrogate")["weights_sha256"]
    name = "weighs" if _weighs(run) else "distilled_from"
    return {name: {"recipe": recipe.name, "run": folder.name, "weights_sha256": sha256}}


def _check_rows(run: Run, teacher: Run, named: str, *, one_file: bool) -> None:
    """Raise `RecipeError` if a generator may have been trained on rows that judge its weights."""
    ours, theirs = (one.recipe.sections.get("data") for one in (run, teacher))
    if ours is None or theirs is None:
        return
    one_seed = ours.path is None and theirs.path is None and ours.seed == theirs.seed
    for key in ("n", "seed", "split", "left_out"):
        here, there = getattr(ours, key), getattr(theirs, key)
        if here != there and (one_file or one_seed):
            raise RecipeError(
                f"data.{key} is {here!r}, and {there!r} in {named}: rows that the generator was "
                "trained on would be among those that judge its weights; set it as there, or take "
                "other data"
            )


def _weighs(run: Run) -> bool:
    return asks_for("surrogates", run.recipe.surrogate, "inner")


def _options(recipe: Recipe, surrogate: Component) -> dict[str, Any]:
    """Return all options of system, transforms and a surrogate, by their keys."""
    found: dict[str, Any] = {}
    for place, group, component in recipe.components():
        if place in ("system", "surrogate") or place.startswith("transform."):
            component = surrogate if place == "surrogate" else component
            options = options_model(lookup(group, component.kind))(**component.options)
            found[f"{place}.kind"] = component.kind
            found |= {f"{place}.{key}": value for key, value in options.model_dump().items()}
    return found
