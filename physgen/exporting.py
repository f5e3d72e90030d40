"""The verb export: a run becomes what another program calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from physgen import card as cards
from physgen.arguments import user_path
from physgen.errors import InputError
from physgen.export.base import Exporter, Trained, new_folder
from physgen.io.documents import explain, read_yaml
from physgen.io.shipped import shipped_or_own
from physgen.isolation import isolated
from physgen.recipe import Recipe
from physgen.registry import Component, build, lookup, options_model
from physgen.run import Run
from physgen.systems.calorimeter import Calorimeter, geometry_of
from physgen.systems.geometry import Geometry
from physgen.training import Progress

_SAMPLING = "sampling."


@isolated()
def export(
    run: str | PathLike[str],
    to: str,
    output: str | PathLike[str],
    options: Mapping[str, Any] | None = None,
    *,
    trust: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write a trained surrogate in the form of a target; return the folder.

    Args:
        run: a run directory whose training has finished.
        to: name of a target, see `physgen list exporters`.
        output: folder, which must not exist; it appears when it is complete.
        options: of the target, the keyword-only parameters of its class; and changes to the
            recipe's section `sampling`, {"sampling.sampler.steps": 4}: the verdict of the run is
            not about such samples, and the card says that they were not scored.
        trust: run the code that the recipe of the run names.
        progress: called while it goes.

    Raises:
        CheckpointError: there is no finished surrogate, or a file of it was changed.
        InputError: no such target or option, this surrogate cannot be exported so, or the folder
            exists or cannot be written.
    """
    given = options or {}
    sampling = {key: value for key, value in given.items() if key.startswith(_SAMPLING)}
    component = Component(kind=to, **{key: given[key] for key in given.keys() - sampling.keys()})
    try:
        options_model(lookup("exporters", to))(**component.options)
    except ValidationError as error:
        raise InputError(f"--to {to}: {explain(error, None)}") from error
    exporter: Exporter = build("exporters", component, {})
    changes = {key.removeprefix(_SAMPLING): value for key, value in sampling.items()}
    opened = Run(user_path(run), trust, changes)
    opened.check()
    trained = replace(_trained(opened), progress=progress)
    with new_folder(user_path(output)) as folder:
        exporter.write(trained, folder)
    return user_path(output)


def _trained(run: Run) -> Trained:
    recipe = run.recipe
    # Scores are of the samples that the recipe draws.
    scored = run.scored and not run.sampling
    return Trained(
        surrogate=run.load(),
        run=run.path,
        recipe=recipe.name,
        kind=recipe.surrogate.kind,
        description=cards.read_card(run.path / "surrogate"),
        sampling=run.sampling,
        correction=recipe.sampling.correction,
        scorecard=run.scorecard if scored else None,
        geometry=_geometry(run),
        licence=_licence(recipe),
    )


def _geometry(run: Run) -> Geometry | None:
    """Return where the voxels of a calorimeter are."""
    if not issubclass(lookup("systems", run.recipe.system.kind), Calorimeter):
        return None
    return geometry_of(run.system, "export")


def _licence(recipe: Recipe) -> str | None:
    """Return the licence of the data that a recipe is trained on, if their card names one."""
    data = recipe.target
    if data is None:
        return None
    if data.path is None:
        return "BSD-3-Clause (simulated by physgen)"
    if not isinstance(data.path, str) or not data.path.endswith((".yaml", ".yml")):
        return None
    file = shipped_or_own("datasets", data.path)
    document = read_yaml(file) if file.is_file() else None
    licence = document.get("licence") if isinstance(document, dict) else None
    return None if licence is None else str(licence)
