"""Families side by side: recipes on the same data, trained or loaded, on one page.

A comparison is a YAML file that names recipes which share a system and data,

    title: Digits, 8x8
    preset: quickstart                  # of each recipe, where it has one of that name
    overrides: {sampling.n: 360}        # of every recipe
    recipes: [digits-pca, digits-vae]
    columns: {FPD: Frechet distance}    # heading: name of a row of the scorecards

With `page: costs` the recipes may be of different theories that are known by their action, and the
page says what an independent configuration costs, beside Monte Carlo (`physgen.costing`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError

from physgen import card as cards
from physgen.arguments import user_path
from physgen.components import system_of
from physgen.errors import RecipeError, suggest
from physgen.io.documents import read_yaml
from physgen.io.hdf5_source import HDF5Source
from physgen.io.shipped import shipped, shipped_folder
from physgen.overrides import located
from physgen.recipe import Recipe, presets_of
from physgen.registry import Section
from physgen.run import Run
from physgen.scoring import truth_of
from physgen.surrogates.base import Surrogate
from physgen.validation.families import Families, Family
from physgen.validation.scorecard import Scorecard

FOLDER = "pipelines/comparisons"
TIMED = 512
"""Samples that the speed of sampling is measured with."""


class Plan(Section):
    """Which recipes are compared, and by which of their scores.

    Attributes:
        title, summary: of the page.
        preset: taken of every recipe that has one of this name.
        overrides: dotted keys to values, for every recipe.
        recipes: names or files of recipes.
        page: scores of recipes on the same data, or what their samples cost beside Monte Carlo, for
            any theories.
        columns: headings of the table and the rows of the scorecards below them; of scores.
    """

    title: str
    summary: str = ""
    preset: str | None = None
    overrides: dict[str, Any] = Field(default_factory=dict)
    recipes: tuple[str, ...]
    page: Literal["scores", "costs"] = "scores"
    columns: dict[str, str] = Field(default_factory=dict)


def comparisons() -> list[str]:
    """Return the names of the shipped comparisons.

    >>> comparisons()[:3]
    ['calo', 'digits', 'ising']
    """
    return sorted(file.stem for file in shipped_folder(FOLDER).glob("*.yaml"))


def read_plan(name: str) -> Plan:
    """Read a comparison, shipped under its name or the user's file; raises `RecipeError`.

    >>> read_plan("ising").recipes[:2]
    ('ising-rbm', 'ising-machine')
    """
    path = user_path(name)
    if path.suffix not in (".yaml", ".yml"):
        known = comparisons()
        if name not in known:
            raise RecipeError(f"no comparison is called {name!r}{suggest(name, known)}")
        path = shipped(FOLDER, f"{name}.yaml")
    try:
        plan = Plan.model_validate(read_yaml(path, RecipeError))
    except ValidationError as error:
        raise RecipeError(f"comparison {path} cannot be understood: {error}") from error
    if not plan.recipes:
        raise RecipeError(f"comparison {path}: it names no recipes")
    files = [one.endswith((".yaml", ".yml")) for one in plan.recipes]
    return plan.model_copy(
        update={
            "recipes": tuple(
                str(user_path(one, path.parent)) if is_file else one
                for one, is_file in zip(plan.recipes, files, strict=True)
            ),
            "overrides": {k: located(k, v, path.parent) for k, v in plan.overrides.items()},
        }
    )


def preset_for(plan: Plan, recipe: str) -> str | None:
    """Return the plan's preset if the recipe has it."""
    return plan.preset if plan.preset in presets_of(recipe) else None


def check_comparable(recipes: Sequence[Recipe]) -> None:
    """Raise `RecipeError` unless all recipes are of one system, shape and file."""
    first, *others = recipes

    def of(recipe: Recipe) -> tuple[str, tuple[int, ...], str]:
        path = "" if recipe.target is None else recipe.target.path or ""
        return recipe.system.kind, system_of(recipe).schema.shape, str(path)

    for recipe in others:
        if of(recipe) != of(first):
            differences = " and ".join(
                f"{one.name} is of {kind} of shape {shape}{path and f' in {path}'}"
                for one in (first, recipe)
                for kind, shape, path in (of(one),)
            )
            raise RecipeError(f"{differences}: compare what can be compared")


def families(plan: Plan, runs: Sequence[Run], left_out: Mapping[str, str]) -> Families:
    """Gather what the page shows of scored runs, and of recipes that were `left_out`, and why."""
    first = runs[0]
    truth = truth_of(first).truth
    return Families(
        title=plan.title,
        summary=with_left_out(plan, left_out),
        system=first.system,
        truth=None if truth is None else truth.x,
        columns=plan.columns,
        families=[_family(run) for run in runs],
    )


def with_left_out(plan: Plan, left_out: Mapping[str, str]) -> str:
    """Return the summary of a page, and which recipes are missing, and why."""
    return " ".join(
        [plan.summary, *(f"Left out: {name} ({why})." for name, why in left_out.items())]
    )


def _family(run: Run) -> Family:
    run.check()
    surrogate = run.load()
    description = cards.read_card(run.path / "surrogate")
    return Family(
        name=run.recipe.name,
        summary=run.recipe.summary,
        path=run.path,
        scorecard=run.scorecard,
        likelihood=_likelihood(run.scorecard),
        parameters=sum(p.numel() for p in surrogate.parameters() if p.requires_grad),
        training_seconds=float(description["training_seconds"]),
        samples_per_second=TIMED / _sampling_seconds(surrogate),
        samples=HDF5Source(run.path / "samples.h5").read(0, _GALLERY).x,
        baseline="" if run.recipe.baseline is None else run.recipe.baseline.kind,
    )


_GALLERY = 64


def _likelihood(scorecard: Scorecard) -> str:
    """Return how the likelihood is known: what the note of its row begins with."""
    row = next((row for row in scorecard.rows if row.name == "log-likelihood"), None)
    return "none" if row is None or row.value is None else row.note.split(";")[0]


def _sampling_seconds(surrogate: Surrogate) -> float:
    """Return the shorter time of two draws; the first one may have to warm up."""
    seconds = []
    for seed in range(2):
        generator = torch.Generator(device=surrogate.device).manual_seed(seed)
        started = time.perf_counter()
        with torch.no_grad():
            surrogate.sample(TIMED, generator=generator)
        seconds.append(time.perf_counter() - started)
    return min(seconds)
