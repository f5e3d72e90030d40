"""The run that another one is distilled from: its surrogate, and that the two go together."""

from __future__ import annotations

from typing import Any

from physgen import card as cards
from physgen.errors import RecipeError, errors_of
from physgen.identity import identity_of
from physgen.recipe import Recipe
from physgen.registry import lookup, options_model
from physgen.run import Run
from physgen.surrogates.base import Surrogate


def teacher_of(run: Run) -> Surrogate | None:
    """Return the trained surrogate that the method of a run learns from, if it names one.

    Raises:
        RecipeError: it is of another system, transform or surrogate: the first key is named.
        CheckpointError: it is no finished run, or a file of it was changed.
    """
    teacher = run.teacher
    if teacher is None:
        return None
    with errors_of("method.teacher"):
        surrogate = teacher.load()
    if teacher.teacher is not None:
        raise RecipeError(
            f"method.teacher ({teacher.path}) is distilled itself, and knows only the few steps of "
            f"its sampler: name what it was distilled from, {teacher.teacher.path}"
        )
    ours, theirs = _options(run.recipe), _options(teacher.recipe)
    # Of another kind, all options are others.
    for key in sorted(ours.keys() | theirs.keys(), key=lambda key: (".kind" not in key, key)):
        if ours.get(key) != theirs.get(key):
            raise RecipeError(
                f"{key} is {ours.get(key)!r}, and {theirs.get(key)!r} in method.teacher "
                f"({teacher.path}): a student has the system, transforms and network of its "
                "teacher; change the recipe, or name another run"
            )
    if teacher.provenance["identity"].get("system") != identity_of(run).get("system"):
        raise RecipeError(
            f"system: a file that it names has changed since method.teacher ({teacher.path}) was "
            "trained; train the teacher again, or put the file back"
        )
    return surrogate


def describe_teacher(run: Run) -> dict[str, Any]:
    """Return what the card says of the teacher; empty if there is none.

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
    return {"distilled_from": {"recipe": recipe.name, "run": folder.name, "weights_sha256": sha256}}


def _options(recipe: Recipe) -> dict[str, Any]:
    """Return all options of system, transforms and surrogate, by their keys."""
    found: dict[str, Any] = {}
    for place, group, component in recipe.components():
        if place in ("system", "surrogate") or place.startswith("transform."):
            options = options_model(lookup(group, component.kind))(**component.options)
            found[f"{place}.kind"] = component.kind
            found |= {f"{place}.{key}": value for key, value in options.model_dump().items()}
    return found
