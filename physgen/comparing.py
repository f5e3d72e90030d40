"""Families side by side: recipes on the same data, trained or loaded, on one page.

A comparison is a YAML file that names recipes which share a system and data,

    title: Digits, 8x8
    preset: quickstart                  # of each recipe, where it has one of that name
    overrides: {sampling.n: 360}        # of every recipe
    recipes: [digits-pca, digits-vae]
    columns: {FPD: Frechet distance}    # heading: name of a row of the scorecards
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import Field, ValidationError

from physgen.errors import RecipeError, suggest
from physgen.export import card as cards
from physgen.io.hdf5 import HDF5Source
from physgen.io.shipped import shipped, shipped_folder
from physgen.recipe import presets_of
from physgen.registry import Section
from physgen.run import Run
from physgen.scoring import truth_of
from physgen.surrogates.base import HasBound, HasDensity, HasEstimatedLikelihood, Surrogate
from physgen.validation.families import Families, Family

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
        columns: headings of the table and the rows of the scorecards below them.
    """

    title: str
    summary: str = ""
    preset: str | None = None
    overrides: dict[str, Any] = Field(default_factory=dict)
    recipes: tuple[str, ...]
    columns: dict[str, str]


def read_plan(name: str) -> Plan:
    """Read a comparison, shipped under its name or the user's file; raises `RecipeError`."""
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        known = [file.stem for file in shipped_folder(FOLDER).glob("*.yaml")]
        if name not in known:
            raise RecipeError(f"no comparison is called {name!r}{suggest(name, known)}")
        path = shipped(FOLDER, f"{name}.yaml")
    try:
        plan = Plan.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise RecipeError(f"comparison {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValidationError) as error:
        raise RecipeError(f"comparison {path} cannot be understood: {error}") from error
    if not plan.recipes:
        raise RecipeError(f"comparison {path}: it names no recipes")
    return plan


def preset_for(plan: Plan, recipe: str) -> str | None:
    """Return the plan's preset if the recipe has it."""
    return plan.preset if plan.preset in presets_of(recipe) else None


def families(plan: Plan, runs: list[Run]) -> Families:
    """Gather what the page shows of scored runs.

    Raises:
        RecipeError: the runs are not of one system.
    """
    first = runs[0]
    for run in runs[1:]:
        if run.recipe.system.kind != first.recipe.system.kind:
            raise RecipeError(
                f"{run.recipe.name} is of the system {run.recipe.system.kind!r}, and "
                f"{first.recipe.name} of {first.recipe.system.kind!r}: compare what can be compared"
            )
    truth, _, _ = truth_of(first)
    return Families(
        title=plan.title,
        summary=plan.summary,
        system=first.system,
        truth=None if truth is None else truth.x,
        columns=plan.columns,
        families=[_family(run) for run in runs],
    )


def _family(run: Run) -> Family:
    surrogate = run.load()
    kept = cards.read_card(run.path / "surrogate")
    return Family(
        name=run.recipe.name,
        summary=run.recipe.summary,
        path=run.path,
        scorecard=run.scorecard,
        likelihood=_likelihood(surrogate),
        parameters=sum(p.numel() for p in surrogate.parameters() if p.requires_grad),
        training_seconds=float(kept["training_seconds"]),
        samples_per_second=TIMED / _sampling_seconds(surrogate),
        samples=HDF5Source(run.path / "samples.h5").read(0, _GALLERY).x,
    )


_GALLERY = 64


def _likelihood(surrogate: Surrogate) -> str:
    kinds: dict[str, Any] = {
        "exact": HasDensity,
        "bound": HasBound,
        "estimate": HasEstimatedLikelihood,
    }
    return next((name for name, kind in kinds.items() if isinstance(surrogate, kind)), "none")


def _sampling_seconds(surrogate: Surrogate) -> float:
    """Return the shorter time of two draws; the first one may have to warm up."""
    found = []
    for seed in range(2):
        generator = torch.Generator(device=surrogate.device).manual_seed(seed)
        begun = time.perf_counter()
        with torch.no_grad():
            surrogate.sample(TIMED, generator=generator)
        found.append(time.perf_counter() - begun)
    return min(found)
