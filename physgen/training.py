"""From a run's recipe to its trained surrogate: data, surrogate, method, streams, engine, card."""

from __future__ import annotations

import hashlib
import logging
import signal
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import torch

from physgen import card as cards
from physgen.animation import (
    draw_along,
    draw_between,
    has_pictures,
    snapshot_callback,
    write_gif,
)
from physgen.batch import Batch
from physgen.built_on import describe_teacher, teacher_of
from physgen.engine import journal
from physgen.engine.distributed import World
from physgen.engine.loop import FitResult, fit
from physgen.engine.options import Engine
from physgen.errors import FormatError, InputError, Stopped
from physgen.identity import identity_of
from physgen.io.source import blocks
from physgen.io.stream import Stream
from physgen.io.weights import WeightSums
from physgen.isolation import global_generators
from physgen.made_from import check_classes, shared_events, unrelated_pairs
from physgen.registry import build
from physgen.run import Run
from physgen.run_data import RunData
from physgen.scoring import check_scoring
from physgen.surrogates.base import HasRelativeDensity, Surrogate, bound_of, density_of
from physgen.surrogates.conditions import LARGEST
from physgen.surrogates.decoding import DecodedNoise
from physgen.surrogates.method import Method
from physgen.validation.plots import ALONG, BETWEEN, TRAINING

Progress = Callable[[str, int, int, Mapping[str, float]], None]
"""Called with (what is being done, steps done, steps in all, figures worth showing)."""


def silent(stage: str, done: int, total: int, figures: Mapping[str, float]) -> None:
    """Report no progress."""


LOG = logging.getLogger("physgen")

PICTURES = "pictures"
"""Folder of a run with what its surrogate made of fixed noise as it learned."""

HELD_OUT = 8192
"""Validation rows that a held-out loss is computed on."""

FEW_EVENTS = 100
"""Effective number of weighted events below which a training deserves a warning."""


def train_run(run: Run, world: World, report_progress: Progress, *, force: bool = False) -> None:
    """Train the surrogate of a run, or go on where its last checkpoint is, and keep it.

    Raises:
        Stopped: SIGTERM came; the same call goes on.
        KeyboardInterrupt: SIGINT came; the same call goes on.
    """
    recipe = run.recipe
    name = recipe.name
    if world.first:
        _prepare_data(run, report_progress)
    world.barrier()
    data = run.data
    streams = {key: _training_stream(one, recipe.engine) for key, one in run.inputs.items()}
    surrogate, method = _build(run, streams)
    identity, teacher = identity_of(run), describe_teacher(run)
    description = _describe_inputs(run, streams, surrogate, identity)
    evaluate = None
    if data is not None and len(data.parts.validation):
        rows = Stream(data.source, data.parts.validation, batch_size=1, seed=recipe.engine.seed)
        evaluate = _held_out_loss(surrogate, rows.sample(HELD_OUT))
    on_evaluate = None
    # What it was not given conditions for it cannot show.
    pictured = has_pictures(surrogate) and not (data is None and surrogate.schema.condition)
    if world.first:
        run.write_provenance({"identity": identity, "data": description})
        if pictured:
            on_evaluate = snapshot_callback(surrogate, run.path / PICTURES, recipe.engine.seed)

    held = "held-out loss" if isinstance(surrogate, HasRelativeDensity) else "held-out -log q"

    def progress(step: int, metrics: Mapping[str, float]) -> None:
        for sentence in method.warnings(step, metrics):
            LOG.warning("%s: %s", name, sentence)
        report_progress(f"{name}: train", step, recipe.engine.steps, _brief(metrics, held))

    if world.first:
        report_progress(f"{name}: train", 0, recipe.engine.steps, {})
    result = fit(
        surrogate,
        method,
        streams,
        run.path,
        recipe.engine,
        identity=identity,
        force=force,
        evaluate=evaluate,
        on_evaluate=on_evaluate,
        progress=progress,
    )
    if not result.finished:
        _end(result)
    if not world.first:
        return
    if pictured:
        write_gif(run.path / PICTURES, run.path / "plots" / TRAINING)
        draw_between(surrogate, run.path / "plots" / BETWEEN, recipe.engine.seed)
        if isinstance(surrogate, DecodedNoise):
            draw_along(surrogate, run.path / "plots" / ALONG, recipe.engine.seed)
    cards.save(
        surrogate,
        run.path / "surrogate",
        {
            "recipe": name,
            "system": recipe.system.model_dump(),
            "surrogate": recipe.surrogate.model_dump(),
            "transform": [part.model_dump() for part in recipe.transform],
            "data": description,
            **teacher,
            "steps": result.step,
            "training_seconds": round(_seconds(run), 1),
            "held_out": result.best,
        },
    )
    run.seal_training()


def _build(run: Run, streams: Mapping[str, Stream]) -> tuple[Surrogate, Method]:
    """Construct surrogate and method, with all that is fitted once to the training rows.

    Raises:
        FormatError: all of these rows are empty.
        InputError: the method cannot learn from the weights of these rows.
    """
    recipe = run.recipe
    trained = teacher_of(run)
    sample = run.training_sample()
    if run.data is not None and sample is not None and not sample.x.any():
        raise FormatError(
            f"{run.data.source.name}: all {len(sample)} training rows are empty, or nothing but "
            "zeros: nothing can be learned from them; name a file with others, or look at the "
            "columns of the data and at what was selected"
        )
    with global_generators(recipe.engine.seed):
        surrogate = run.build_surrogate()
        surrogate.initialise(sample)
        if len(streams) > 1:
            origin = next(iter(streams.values())).sample(LARGEST)
            surrogate.conditions.fit(origin.x.flatten(1), origin.weight, as_they_are=True)
        elif run.data is not None and run.data.partner is not None:
            pairs = streams["data"].conditions(LARGEST)
            if pairs is not None:
                surrogate.conditions.fit(*pairs, as_they_are=True)
        elif sample is not None and len(sample) < len(streams["data"]):
            conditions = streams["data"].conditions(LARGEST)
            if conditions is not None:
                surrogate.conditions.fit(*conditions)
        source = next(iter(run.inputs.values())) if run.inputs else None
        if surrogate.schema.condition and source is not None and source.section.path is not None:
            for batch in blocks(source.source):
                given = batch.condition if len(streams) == 1 else batch.x.flatten(1)
                if given is not None:
                    surrogate.conditions.cover(given)
        check_scoring(run, surrogate)
        context = {"surrogate": surrogate, "system": run.system, "steps": recipe.engine.steps}
        context["trained"] = trained
        method: Method = build("methods", recipe.method, context)
    for name, stream in streams.items():
        if stream.weights is not None:
            _check_weights(name, stream.weights, method, recipe.method.kind)
    return surrogate, method


def _describe_inputs(
    run: Run, streams: Mapping[str, Stream], surrogate: Surrogate, hashes: Mapping[str, str]
) -> dict[str, Any]:
    """Return what card and provenance say of the data: above all of those that are modelled."""
    if not streams:
        return {}
    described = {
        name: {"sha256": hashes[name], **_describe(run.inputs[name], stream)}
        for name, stream in streams.items()
    }
    description = described.popitem()[1]
    if described:
        # One hash for all: another file of either is another run.
        together = "".join(hashes[name] for name in streams)
        description["sha256"] = hashlib.sha256(together.encode()).hexdigest()
        description["made_from"] = described
    if surrogate.schema.condition:
        description["conditions"] = {
            "rows": min(len(next(iter(streams.values()))), LARGEST),
            "distinct": len(surrogate.conditions.values),
        }
    return description


def _describe(data: RunData, stream: Stream) -> dict[str, Any]:
    """Return rows, split and weights of one input."""
    parts, weights = data.parts, stream.weights
    description: dict[str, Any] = {
        "name": data.source.name,
        "rows": len(data.source),
        "split": {"train": len(parts.train), "validation": len(parts.validation)},
    }
    if weights is not None:
        description["weights"] = {
            "sum": weights.total,
            "effective_events": round(weights.effective, 1),
            "negative_share": weights.negative_share,
        }
    return description


def _end(result: FitResult) -> NoReturn:
    """End a training that a signal stopped, as the signal would have ended it."""
    handler = None if result.signal is None else signal.getsignal(result.signal)
    if result.signal is not None and callable(handler) and handler != signal.default_int_handler:
        # The host's own handler only had to wait until all was saved.
        signal.raise_signal(result.signal)
    if result.signal == signal.SIGINT:
        raise KeyboardInterrupt(result.message)
    raise Stopped(result.message)


def _seconds(run: Run) -> float:
    """Return how long the training took, over all its sessions."""
    total = begun = last = 0.0
    for entry in journal.read(run.path / journal.NAME):
        if entry.get("event") in ("start", "resume"):
            total += last - begun
            begun = entry["time"]
        last = entry["time"]
    return total + last - begun


def _prepare_data(run: Run, report_progress: Progress) -> None:
    """Simulate or open the data, and say what is to be known of a user's files."""
    stage = f"{run.recipe.name}: data"
    for data in run.inputs.values():
        report_progress(stage, 0, 1, {})
        rows = len(data.source)
        if data.section.path is not None:
            for note in data.notes:
                LOG.warning(note)
        report_progress(stage, rows, rows, {})
    check_classes(run)
    for warning in (shared_events(run), unrelated_pairs(run)):
        if warning:
            LOG.warning(warning)


def _training_stream(data: RunData, engine: Engine) -> Stream:
    """Return the training rows of a run in batches."""
    return Stream(data.source, data.parts.train, batch_size=engine.batch_size, seed=engine.seed)


def _check_weights(name: str, weights: WeightSums, method: Method, kind: str) -> None:
    """Refuse negative weights where a method cannot learn from them; say if few events count.

    Raises:
        InputError: some weights are negative, and the method knows no negative events.
    """
    where = "data.weight" if name == "data" else f"data.{name}.weight"
    if weights.negative_share and not method.negative_weights:
        others = (
            "take maximum-likelihood, denoising, evidence-lower-bound or flow-matching with "
            "method.coupling=independent"
            if name == "data"
            else "pair the two files and take a bridge"
        )
        raise InputError(
            f"{where}: {weights.negative_share:.2%} of the weight of the training rows is "
            f"negative, and method.kind: {kind} cannot learn from events that are to be taken "
            f"away; {others}, or positive weights"
        )
    if weights.effective < FEW_EVENTS:
        LOG.warning(
            "%s: the weights of %d training rows have the statistics of %.3g events of "
            "equal weight%s: expect large errors; take more rows, or weights that vary less",
            where,
            weights.rows,
            weights.effective,
            " (some are negative)" if weights.negative_share else "",
        )


def _held_out_loss(surrogate: Surrogate, batch: Batch) -> Callable[[], float] | None:
    """Return what the engine calls now and then: the mean of -log q, of its bound, or of a loss."""
    density, bound = density_of(surrogate), bound_of(surrogate)
    relative = surrogate if isinstance(surrogate, HasRelativeDensity) else None
    if density is None and bound is None and relative is None:
        return None
    total = len(batch) if batch.weight is None else float(batch.weight.double().sum())
    if total <= 0:
        raise InputError(
            f"data.weight: the weights of {len(batch)} validation rows sum to {total:g}, so that "
            "no held-out loss can be taken; raise the second number of data.split, or set it to 0"
        )

    def evaluate() -> float:
        moved = surrogate.accept(batch)
        terms = torch.zeros(len(moved))
        if density is not None:
            terms = -density.log_prob(moved)
        elif bound is not None:
            generator = torch.Generator(device=surrogate.device).manual_seed(0)
            terms = -bound.elbo(moved, generator=generator)
        elif relative is not None:
            terms = relative.held_out_loss(moved)
        weight = torch.ones_like(terms) if moved.weight is None else moved.weight
        return float((weight * terms).double().sum() / total)

    return evaluate


def _brief(metrics: Mapping[str, float], held: str) -> dict[str, float]:
    """Only what fits on a progress line.

    Losses are of transformed rows, and those held out in the units of the samples: by their names
    nobody should compare them.
    """
    shown = {"loss": "loss", "held_out_loss": held, "ess": "ess"}
    return {shown[name]: value for name, value in metrics.items() if name in shown}
