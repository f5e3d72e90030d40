"""From a trained surrogate, or from files alone, to a scorecard and a report."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from physgen.asked import asked
from physgen.batch import Batch, product_of_weights
from physgen.components import surrogate_of
from physgen.engine.device import choose_device
from physgen.errors import DomainError, RecipeError
from physgen.held_out import held_out
from physgen.io.joined import expand
from physgen.io.stream import Stream
from physgen.isolation import global_generators
from physgen.made_from import rows_made_from, shared_events
from physgen.recipe import Recipe
from physgen.registry import Component, build
from physgen.run import Run
from physgen.surrogates.base import Surrogate
from physgen.systems.base import Simulates
from physgen.timing import milliseconds
from physgen.validation.comparison import Comparison, HeldOut, Role
from physgen.validation.geometries import assumed_geometry, geometry_facts
from physgen.validation.judging import Metric, judge
from physgen.validation.likelihood import Likelihood
from physgen.validation.scorecard import Row, Scorecard
from physgen.validation.sources import SEED, two_samples
from physgen.validation.timing import Timing
from physgen.validation.training_rows import TrainingRows

LIMITS = ("tolerance", "maximum", "minimum")
"""How the options of metrics begin that state limits."""

ALWAYS = ("response", "combined-test", "equivalent-events", "memorisation")
"""Metrics of every comparison of files, whatever the recipe asks of its own surrogate."""

Count = Callable[[int, int], None]
"""Called with how many metrics are done, and how many there are."""


def compare(run: Run, surrogate: Surrogate) -> Comparison:
    """Draw samples of a surrogate and set them beside truth, more truth, and the baseline."""
    recipe, system, seed = run.recipe, run.system, run.recipe.sampling.seed
    truths = truth_of(run)
    truth, floor, paired = truths.truth, truths.floor, truths.paired
    n = recipe.sampling.n if truth is None else len(truth)
    condition = None if truth is None else truth.condition
    made_from = None
    if run.origin is not None and truth is not None:
        made_from, groups = rows_made_from(run.origin, len(truth))
    given = condition if made_from is None else made_from.x.flatten(1)
    baseline = _baseline(run, n, given)
    if baseline is not None and truth is not None and condition is not None:
        # Conditions count as often as they do in the truth.
        baseline = baseline.replace(weight=truth.weight)
        paired |= {"baseline"} if truth.chain is None else set()
    device = choose_device(recipe.engine.device)
    surrogate = copy.deepcopy(surrogate).to(device)
    generator = torch.Generator(device=device).manual_seed(seed)
    comparison = Comparison(
        system=system,
        generated=Batch(torch.empty(0)),
        truth=truth,
        floor=floor,
        baseline=baseline,
        held_out=_held_out(recipe, surrogate, truth, floor),
        groups=truths.groups,
        paired=paired,
        training=training_rows_of(run),
        **asked(surrogate, system, truth, metrics_of(recipe), seed),
        seed=seed,
    )
    timed = next((one for one in metrics_of(recipe) if isinstance(one, Timing)), None)
    if timed is not None:
        taken = milliseconds(
            surrogate, given, batches=timed.batches, repeats=timed.repeats, seed=seed
        )
        machine = "one thread" if device.type == "cpu" else torch.cuda.get_device_name(device)
        comparison = replace(comparison, timing=taken, timed_on=machine)
    corrected = run.corrected(surrogate)
    if made_from is not None and given is not None:
        given = given.to(device=device, dtype=surrogate.dtype)
        generated = surrogate.sample(n, given, generator=generator).to("cpu")
        weight = product_of_weights(generated, made_from)
        generated = generated.replace(weight=weight, chain=made_from.chain, condition=None)
        if baseline is not None:
            baseline = baseline.replace(weight=made_from.weight, condition=None)
        groups = {**comparison.groups, **groups}
        return replace(comparison, generated=generated, baseline=baseline, groups=groups)
    if condition is not None:
        condition = condition.to(device=device, dtype=surrogate.dtype)
    if corrected is None:
        if condition is None or truth is None:
            return replace(comparison, generated=surrogate.sample(n, generator=generator).to("cpu"))
        generated = surrogate.sample(n, condition, generator=generator).to("cpu")
        if truth.chain is None:
            paired |= {"generated"}
        if generated.weight is not None and truth.weight is not None:
            comparison = replace(comparison, own_weight=generated.weight.double().numpy())
        generated = generated.replace(weight=product_of_weights(generated, truth))
        return replace(comparison, generated=generated, paired=paired)
    wanted = None if condition is None else corrected.for_proposals(condition)
    n = corrected.n_proposals(recipe.sampling.n) if wanted is None else len(wanted)
    proposals = corrected.propose(n, wanted, generator=generator).to("cpu")
    chains = corrected.correct(proposals, generator=torch.Generator().manual_seed(seed))
    if proposals.log_weight is None:
        return replace(comparison, generated=chains, corrected=True)
    if truth is not None:
        of_truth = corrected.log_weight(truth, generator=generator)
        truth = truth.replace(log_weight=of_truth.cpu())
    comparison = replace(comparison, proposals=proposals, reference=corrected.reference)
    return replace(comparison, generated=chains, truth=truth, corrected=True)


def training_rows_of(run: Run) -> TrainingRows | None:
    """Return the rows that a run was trained on, read anew from its data; `None` without data."""
    data = run.data
    if data is None:
        return None
    source, rows = data.source, data.parts.train
    return TrainingRows(Stream(source, rows, batch_size=source.block).in_order, len(rows))


def check_scoring(run: Run, surrogate: Surrogate) -> None:
    """Raise `RecipeError` if an untrained surrogate could not be scored as the recipe says."""
    recipe = run.recipe
    run.corrected(surrogate)
    kinds = [part.kind for part in recipe.validation.metrics]
    method = recipe.sampling.correction
    if method in ("none", "langevin") and "importance" in kinds:
        raise RecipeError(
            f"validation.metrics.{kinds.index('importance')}: importance looks at log-weights, "
            f"which sampling.correction={method} has not; set sampling.correction, or leave it out"
        )
    metrics_of(recipe)
    if recipe.baseline is not None:
        with global_generators(recipe.engine.seed):
            surrogate_of(recipe.transform, recipe.baseline, run.schema, run.system)


def metrics_of(recipe: Recipe) -> list[Metric]:
    """Construct the metrics of a recipe."""
    return [build("metrics", part, {}) for part in recipe.validation.metrics]


def metrics_for_files(recipe: Recipe) -> list[Metric]:
    """Construct those metrics of a recipe that need no surrogate, without their limits.

    Always among them are those of `ALWAYS`.
    """
    models = ("importance", "likelihood", "timing")
    parts = [part for part in recipe.validation.metrics if part.kind not in models]
    kinds = {part.kind for part in parts}
    parts += [Component(kind=kind) for kind in ALWAYS if kind not in kinds]
    parts.sort(key=lambda part: part.kind != "combined-test")  # What is asked first is shown first.
    free = [{k: v for k, v in part.options.items() if not k.startswith(LIMITS)} for part in parts]
    pairs = zip(parts, free, strict=True)
    return [build("metrics", Component(kind=part.kind, **o), {}) for part, o in pairs]


def score_run(
    run: Run, surrogate: Surrogate, progress: Count | None = None
) -> tuple[Comparison, Scorecard]:
    """Compare and judge; `progress` is called after each metric, see `judge`."""
    comparison = compare(run, surrogate)
    method, assumed = run.recipe.sampling.correction, read_as_assumed(run)
    judged = (
        "as the surrogate draws them"
        if method == "none"
        else f"corrected by {method}, as `physgen generate` draws them; not those of --uncorrected"
    )
    provenance = {
        "recipe": run.recipe.name,
        "run": run.path.name,
        "samples": judged,
        **({"sampling": dict(run.sampling)} if run.sampling else {}),
        **run.provenance,
        **geometry_facts(run.system, assumed=bool(assumed)),
    }
    card = judge(comparison, metrics_of(run.recipe), provenance=provenance, progress=progress)
    rows = assumed_geometry(run.system, assumed)
    if shared := shared_events(run):
        name = "independence of the samples"
        rows.append(Row(name=name, metric="alarms", value=None, warning=shared))
    return comparison, card.model_copy(update={"rows": (*card.rows, *rows)})


def read_as_assumed(run: Run) -> list[Path]:
    """Return the files of a run's samples if nobody named the geometry they are read in."""
    data = run.recipe.target
    if data is None or data.path is None:
        return []
    named = data.binning is not None or "binning" in run.recipe.system.options
    return [] if named else expand(data.path)


@dataclass(frozen=True)
class Truth:
    """Two samples of the truth, if there are any; see `Comparison` for what they are."""

    truth: Batch | None = None
    floor: Batch | None = None
    groups: Mapping[Role, NDArray[np.int64]] = field(default_factory=dict)
    paired: frozenset[Role] = frozenset()


def truth_of(run: Run) -> Truth:
    """Return two independent samples of the truth of the same size, at the same conditions.

    The first was never seen in training. The second, which only the floor looks at, are training
    rows where the data are a file: so the first one can be all that was kept for the test. Their
    conditions are as near to those of the first as there are any.
    """
    recipe, system = run.recipe, run.system
    data = run.data
    if data is not None and data.section.path is not None:
        labelled = data.source.read(0, 1).chain is not None
        limit = recipe.sampling.n
        if run.origin is not None:
            limit = min(limit, len(run.origin.parts.test))
        samples = two_samples(
            data.source,
            data.parts.test,
            np.union1d(data.parts.train, data.left_out),
            limit,
            matched=True,
            chain=None if labelled else data.chain,
        )
        return Truth(samples.truth, samples.floor, samples.groups, samples.paired)
    if not isinstance(system, Simulates):
        return Truth()
    n, seed = recipe.sampling.n, SEED + 2 * recipe.sampling.seed
    truth = system.simulate(n, seed)
    if truth.condition is None:
        return Truth(truth, system.simulate(n, seed + 1))
    try:
        floor = system.simulate(n, seed + 1, truth.condition)
    except DomainError:  # Jets of given pT are not simulated.
        return Truth(truth, system.simulate(n, seed + 1))
    # Rows of a chain are no pairs: they owe more to their neighbours than to the condition.
    return Truth(truth, floor, paired=frozenset({"floor"} if truth.chain is None else ()))


def _baseline(run: Run, n: int, condition: torch.Tensor | None) -> Batch | None:
    component = run.recipe.baseline
    if component is None:
        return None
    with global_generators(run.recipe.engine.seed):
        surrogate = surrogate_of(run.recipe.transform, component, run.schema, run.system)
        surrogate.initialise(run.training_sample())
    generator = torch.Generator().manual_seed(run.recipe.sampling.seed)
    return surrogate.sample(n, condition, generator=generator)


def _held_out(
    recipe: Recipe, surrogate: Surrogate, truth: Batch | None, floor: Batch | None
) -> dict[str, HeldOut]:
    """Log-likelihoods of the truth, where the recipe has a metric that looks at them."""
    asked = [metric for metric in metrics_of(recipe) if isinstance(metric, Likelihood)]
    if truth is None or not asked:
        return {}
    options = asked[0]
    # Training rows are more probable than others: no floor for a likelihood.
    of_file = recipe.target is not None and recipe.target.path is not None
    unseen = None if of_file else floor
    return held_out(
        surrogate, truth, unseen, n=options.n, draws=options.draws, seed=recipe.sampling.seed
    )
