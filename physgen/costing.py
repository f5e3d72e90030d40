"""What an independent configuration costs: Monte Carlo of a theory, and trained surrogates of it.

Times are CPU seconds of this process, so that other work on the machine counts little.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from physgen import card as cards
from physgen.batch import Batch
from physgen.components import system_of
from physgen.errors import RecipeError
from physgen.recipe import Recipe
from physgen.run import Run
from physgen.sampling.reweighting import normalised_weights
from physgen.systems.base import HasAction, HasExact, Simulates, System
from physgen.validation.comparison import Measured, measure
from physgen.validation.costs import Cost, Theory
from physgen.validation.mixing import disagrees
from physgen.validation.scorecard import Row
from physgen.validation.table import with_error
from physgen.validation.uncertainty import Estimate, gamma_method

LEAST, MOST = 256, 262_144
"""Configurations that a Markov chain is timed with: so many at first, and four times as many each
time until it takes long enough."""
LARGEST = 2**27
"""Numbers of the configurations that are held at most: 1 GiB."""
MEASURED = 16_384
"""Configurations whose observables are computed at most: in four dimensions they cost a flow."""
LONG_ENOUGH = 5.0
"""CPU seconds that are timed."""
PROPOSALS = 16
"""Proposals of a surrogate that are timed at first."""
CHARGE = "Q"
"""The observable whose changes are counted."""


def check_simulated(recipes: Sequence[Recipe]) -> None:
    """Raise `RecipeError` unless the systems of all recipes have an action and a Monte Carlo."""
    for recipe in recipes:
        system = system_of(recipe)
        if not (isinstance(system, Simulates) and isinstance(system, HasAction)):
            raise RecipeError(
                f"{recipe.name} samples no action that has a Monte Carlo to compare its cost with "
                f"(system {recipe.system.kind}): leave it out, or set page: scores"
            )


def theories(runs: Sequence[Run], seed: int) -> list[Theory]:
    """Measure what the samplers of scored runs (`check_simulated`) cost, theory by theory.

    Args:
        runs: trained and scored.
        seed: of all samples.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(_title(run), []).append(run)
    return [
        Theory(
            title=title,
            monte_carlo=monte_carlo(group[0].system, seed),
            surrogates=[surrogate(run, seed) for run in group],
        )
        for title, group in groups.items()
    ]


def monte_carlo(system: System, seed: int) -> Cost:
    """Measure the Monte Carlo of a system.

    Runs of one seed, of `LEAST` configurations or more, are as many chains, tuned and warmed up in
    the same way, so that their difference is what further configurations cost, and the rest of the
    shortest is the setup. The efficiency is that of the slowest observable; chains that are shown
    not to mix have none.
    """
    assert isinstance(system, Simulates)
    simulate = system.simulate
    simulate(LEAST, seed)  # Compiles what is compiled.
    first, _ = _timed(simulate, LEAST, seed)
    n, before = LEAST, first
    most = min(MOST, LARGEST // math.prod(system.schema.shape))
    while True:
        size = 4 * n
        after, chains = _timed(simulate, size, seed)
        seconds = max(after - before, 0.0) / (size - n)
        if after - before >= LONG_ENOUGH or 4 * size > most:
            break
        n, before = size, after
    return _of_chains(
        Cost(name="Monte Carlo", setup=max(first - LEAST * seconds, 0.0), seconds=seconds),
        system,
        chains,
    )


def _of_chains(cost: Cost, system: System, chains: Batch) -> Cost:
    """Return the cost with the efficiency of Markov chains, by their slowest observable.

    Those that are shown not to mix have none.
    """
    measured = measure(system, chains[:MEASURED])
    name, slowest = _slowest(measured)
    warning = ""
    if disagrees(slowest):
        warning = f"chains do not mix: means of {name!r} differ from chain to chain"
    elif not slowest.converged:
        warning = f"chains too short to show that they mix ({name!r})"
    tau = max(slowest.tau_int, 0.5)
    known = None if disagrees(slowest) else 0.5 / tau
    return replace(
        cost,
        efficiency=known,
        efficiency_error=None if known is None else 0.5 * slowest.tau_int_error / tau**2,
        known_by=f"{measured.n} configurations, slowest: {name}",
        log_partition=(None, None, _exact_log_partition(system)),
        tunnelling=_changes(measured, cost.seconds),
        warning=warning,
    )


def surrogate(run: Run, seed: int) -> Cost:
    """Measure the surrogate of a scored run, at the precision that its log-weights need.

    The effective sample size is that of its scorecard, and is not believed where it fails there, or
    where no samples of the truth back it: samples of a surrogate are blind to a missing sector.
    """
    model = run.load()
    moved = run.recipe.sampling.correction == "langevin"
    corrected = run.corrected(model, proposals=not moved)
    setup = float(cards.read_card(run.path / "surrogate")["training_seconds"])
    sampler = model if corrected is None else corrected

    def draw(n: int) -> Batch:
        return sampler.sample(n, generator=torch.Generator(device=model.device).manual_seed(seed))

    n = MEASURED if moved else PROPOSALS
    draw(n)  # Compiles what is compiled.
    taken, batch = _timed(draw, n)
    while taken < LONG_ENOUGH and n < MOST:
        n *= 4
        taken, batch = _timed(draw, n)
    cost = Cost(name=run.recipe.name, setup=setup, seconds=taken / n)
    if corrected is None:
        return replace(cost, warning="not corrected: biased")
    if moved:
        return _of_chains(cost, run.system, batch)
    rows = {row.name: row for row in run.scorecard.rows}
    ess, of_truth = rows.get("ESS"), rows.get("ESS on truth")
    if ess is None:
        return replace(cost, warning="without an effective sample size: add the metric importance")
    found = with_error(ess.value, ess.error) if ess.value is not None else "none"
    cost = replace(cost, log_partition=_log_partition(rows.get("ln Z")))
    if doubt := _doubt(ess, of_truth):
        return replace(cost, known_by=f"ESS {found} not believed", warning=doubt)
    assert ess.value is not None  # Else there is a doubt.
    return replace(
        cost,
        efficiency=ess.value,
        efficiency_error=ess.error,
        known_by=f"ESS {ess.note}",
        tunnelling=_changes_of_independent(run.system, batch, cost.seconds / ess.value),
    )


def _doubt(ess: Row, of_truth: Row | None) -> str:
    """Return why an effective sample size is not believed; empty if it is."""
    if ess.value is None or ess.warning:
        return ess.warning or ess.note
    if of_truth is None:
        return "no samples of the truth to show whether a sector is missing"
    for row in (ess, of_truth):
        if row.verdict == "fail" or row.warning:
            return row.warning or f"{row.name} fails in the scorecard"
    return ""


def _timed(call: Callable[..., Batch], *arguments: int) -> tuple[float, Batch]:
    start = time.process_time()
    result = call(*arguments)
    return time.process_time() - start, result


def _title(run: Run) -> str:
    system = run.recipe.system
    options = ", ".join(f"{name} = {value}" for name, value in system.options.items())
    return f"{system.kind}: {options}" if options else system.kind


def _slowest(measured: Measured) -> tuple[str, Estimate]:
    """Return the observable that is slowest, one whose chains disagree before all others."""
    estimates = {
        name: gamma_method(values, chain=measured.chain)
        for name, values in measured.scalars.items()
        if np.ptp(values) > 0
    }
    name = max(estimates, key=lambda one: (disagrees(estimates[one]), estimates[one].tau_int))
    return name, estimates[name]


def _changes(measured: Measured, seconds: float) -> float | None:
    """Return how often a second the charge differs from the configuration before."""
    charge, chain = measured.scalars.get(CHARGE), measured.chain
    if charge is None or chain is None or seconds == 0:
        return None
    same = chain[1:] == chain[:-1]
    changed = (charge[1:].round() != charge[:-1].round()) & same
    return float(changed.sum() / same.sum() / seconds) if same.any() else None


def _changes_of_independent(system: System, batch: Batch, each: float) -> float | None:
    """Return how often a second independent configurations of weighted ones change the charge."""
    batch = batch[:MEASURED]
    charge = measure(system, batch).scalars.get(CHARGE)
    if charge is None or batch.log_weight is None:
        return None
    weight = normalised_weights(batch.log_weight.double())
    _, sector = np.unique(charge.round(), return_inverse=True)
    share = torch.from_numpy(np.bincount(sector, weight.numpy()))
    return float((1 - share.square().sum()) / each)


def _exact_log_partition(system: System) -> float | None:
    return system.exact().get("ln Z") if isinstance(system, HasExact) else None


def _log_partition(row: Row | None) -> tuple[float | None, float | None, float | None]:
    return (None, None, None) if row is None else (row.value, row.error, row.exact)
