"""The verbs: train, validate, load, generate, quickstart. Each puts the rooms in their order."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from physgen import __version__
from physgen.batch import Batch
from physgen.engine.loop import fit
from physgen.errors import InputError, TrainingError
from physgen.export import card as cards
from physgen.io.stream import Stream
from physgen.recipe import Recipe, build, read
from physgen.run import Run, system_of
from physgen.scoring import score
from physgen.surrogates.base import HasBound, HasDensity, Method, Surrogate
from physgen.systems.base import HasFiles, Simulates
from physgen.validation.scorecard import Scorecard

Progress = Callable[[str, int, int, Mapping[str, float]], None]
"""Called with (what is being done, steps done, steps in all, figures worth showing)."""

HELD_OUT = 8192
"""Validation rows that a held-out loss is computed on."""

QUICKSTART = ("ising-rbm", "phi4-flow", "calo-flow", "events-flow")


def train(
    recipe: str | Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    preset: str | None = None,
    runs: str | Path = "runs",
    force: bool = False,
    score: bool = True,
    progress: Progress | None = None,
    **sections: Mapping[str, Any],
) -> Run:
    """Train a surrogate, or go on where an earlier call with the same arguments stopped.

    Args:
        recipe: name of a shipped recipe, a YAML file, or a run directory to resume.
        overrides: dotted keys to values, {"engine.steps": 2000}.
        preset: a named set of overrides of the recipe.
        runs: folder of the run directories, `<runs>/<recipe name>/<hash of the resolved recipe>`.
        force: resume though data or number of processes changed.
        score: validate and write the report afterwards.
        progress: called while it goes.
        sections: overrides by section, `engine={"steps": 2000}`.

    Raises:
        RecipeError, FormatError, CheckpointError: the input is wrong; the message says how.
        TrainingError: training stopped before its end.
    """
    run = _open_run(recipe, overrides, preset, Path(runs), sections)
    if not run.finished:
        _train(run, force, progress or _silent)
    if score and not (run.path / "report.html").exists():
        validate(run.path, progress=progress)
    return run


def validate(run: str | Path, *, progress: Progress | None = None) -> Scorecard:
    """Score a trained run: writes `scorecard.json`, `samples.h5`, plots and `report.html`."""
    opened = Run(Path(run))
    tell = progress or _silent
    stage = f"{opened.recipe.name}: validate"
    tell(stage, 0, 1, {})
    comparison, card = score(opened, opened.load())
    tell(stage, 1, 1, {})
    return card


def load(run: str | Path) -> Surrogate:
    """Return the trained surrogate of a run directory, in evaluation mode on the CPU."""
    return Run(Path(run)).load()


def simulate(recipe: Recipe, output: Path, n: int, seed: int, *, overwrite: bool = False) -> None:
    """Write `n` samples of the recipe's system from its built-in Monte Carlo into a file."""
    system = system_of(recipe)
    if not isinstance(system, Simulates) or not isinstance(system, HasFiles):
        raise InputError(f"system {recipe.system.kind!r} has no built-in simulation")
    if output.exists() and not overwrite:
        raise InputError(f"{output} exists; choose another name, or pass --overwrite")
    system.write(output, system.simulate(n, seed))


def _open_run(
    recipe: str | Path,
    overrides: Mapping[str, Any] | None,
    preset: str | None,
    runs: Path,
    sections: Mapping[str, Mapping[str, Any]],
) -> Run:
    changes = dict(overrides or {})
    changes |= {f"{name}.{key}": v for name, part in sections.items() for key, v in part.items()}
    if Path(recipe).is_dir():
        if changes or preset:
            raise InputError(
                f"{recipe} is a run: its recipe is settled. Resume it without overrides, or train "
                "its recipe by name to start another run"
            )
        return Run(Path(recipe))
    return Run.create(read(recipe, changes, preset), runs)


def _train(run: Run, force: bool, tell: Progress) -> None:
    recipe, data = run.recipe, run.recipe.data
    name = recipe.name
    if data is not None:
        tell(f"{name}: data", 0, 1, {})
    sample = run.training_sample()
    if data is not None:
        tell(f"{name}: data", 1, 1, {})
    with torch.random.fork_rng():
        torch.manual_seed(recipe.engine.seed)
        surrogate = run.build_surrogate()
        surrogate.initialise(sample)
        context = {"surrogate": surrogate, "system": run.system, "steps": recipe.engine.steps}
        method: Method = build("methods", recipe.method, context)
    identity = {"recipe": recipe.digest()}
    streams: dict[str, Stream] = {}
    described: dict[str, Any] = {}
    evaluate = None
    if run.source is not None:
        source, parts = run.source, run.parts
        identity["data"] = source.digest()
        described = {
            "name": source.name,
            "sha256": identity["data"],
            "rows": len(source),
            "split": {"train": len(parts.train), "validation": len(parts.validation)},
        }
        streams["data"] = Stream(
            source, parts.train, batch_size=recipe.engine.batch_size, seed=recipe.engine.seed
        )
        if len(parts.validation):
            held_out = Stream(source, parts.validation, batch_size=1, seed=recipe.engine.seed)
            evaluate = _held_out_loss(surrogate, held_out.sample(HELD_OUT))
    run.write_provenance({"data": described})
    started = time.monotonic()
    result = fit(
        surrogate,
        method,
        streams,
        run.path,
        recipe.engine,
        identity=identity,
        force=force,
        evaluate=evaluate,
        progress=lambda step, m: tell(f"{name}: train", step, recipe.engine.steps, _brief(m)),
    )
    if not result.finished:
        raise TrainingError(result.message)
    cards.save(
        surrogate,
        run.path / "surrogate",
        {
            "physgen": __version__,
            "recipe": name,
            "system": recipe.system.model_dump(),
            "surrogate": recipe.surrogate.model_dump(),
            "transform": [part.model_dump() for part in recipe.transform],
            "data": described,
            "steps": result.step,
            "training_seconds": round(time.monotonic() - started, 1),
            "held_out": result.best,
        },
    )


def _held_out_loss(surrogate: Surrogate, batch: Batch) -> Callable[[], float] | None:
    """Return what the engine calls now and then: the mean of -log q (or of its bound)."""
    if not isinstance(surrogate, HasDensity | HasBound):
        return None

    def evaluate() -> float:
        moved = batch.to(surrogate.device, surrogate.dtype)
        if isinstance(surrogate, HasDensity):
            terms = -surrogate.log_prob(moved)
        else:
            generator = torch.Generator(device=surrogate.device).manual_seed(0)
            terms = -surrogate.elbo(moved, generator=generator)
        weight = torch.ones_like(terms) if moved.weight is None else moved.weight
        return float((weight * terms).sum() / weight.sum())

    return evaluate


def _brief(metrics: Mapping[str, float]) -> dict[str, float]:
    """Only what fits on a progress line."""
    shown = ("loss", "held_out_loss", "ess")
    return {name: value for name, value in metrics.items() if name in shown}


def _silent(stage: str, done: int, total: int, figures: Mapping[str, float]) -> None:
    """Draw nothing."""
