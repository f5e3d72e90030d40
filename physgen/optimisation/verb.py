"""The verb `optimize`: steps of an algorithm in a run directory, resumed where they stopped.

The journal of the run holds a line a step: parameters, estimate and gradient, from which the state
of every algorithm follows. Data of a simulator of one's own are kept in `calls/`; built-in ones are
simulated again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from physgen.arguments import user_path
from physgen.engine import journal
from physgen.engine.checkpoint import exclusive
from physgen.engine.journal import Journal
from physgen.io.writer import atomic
from physgen.isolation import isolated
from physgen.optimisation.algorithms import ALGORITHMS
from physgen.optimisation.local import Estimate
from physgen.optimisation.page import write_report
from physgen.optimisation.plan import (
    Array,
    Problem,
    digest_of,
    problem_of,
    read_optimisation,
    tensor,
)
from physgen.tracking import Tracker
from physgen.training import Progress, silent

LOG = logging.getLogger("physgen")

SETTINGS, RESULT, CALLS = "optimisation.yaml", "result.json", "calls"
APART = 3.0
"""Errors by which the surrogate's objective and the simulated one may differ."""
_ENOUGH = 2000
"""Calls by which it is looked whether data depend on the parameters."""
_CHANCE = 0.01
"""Probability of a correlation with the parameters by chance, below which there is one."""


@dataclass(frozen=True)
class Step:
    """A step of an optimisation.

    Attributes:
        psi: (P,) parameters that were asked about.
        estimate: of the objective there.
        calls: of the simulator, all steps up to this one together.
    """

    psi: Array
    estimate: Estimate
    calls: int


@dataclass(frozen=True)
class Optimum:
    """What an optimisation has found.

    Attributes:
        run: its directory.
        parameters: by name.
        objective, error: of fresh calls of the simulator at these, and the standard error.
        estimated, estimated_error: what the search believed it to be.
        calls: of the simulator, in the search.
        final_calls: those of the objective.
        warnings: what must be known of it.
    """

    run: str
    parameters: dict[str, float]
    objective: float
    error: float
    estimated: float
    estimated_error: float
    calls: int
    final_calls: int
    warnings: tuple[str, ...]


class Calls:
    """Calls a problem's simulator, and counts its rows, those that are read from files too."""

    def __init__(self, problem: Problem) -> None:
        self._simulate = problem.design.simulator.simulate
        self._at_once = problem.plan.at_once
        self.n = 0

    def __call__(self, theta: Array, seed: int) -> Array:
        """Return (N, D) data at (N, P) parameters, `at_once` rows a call."""
        parts = []
        for number, first in enumerate(range(0, len(theta), self._at_once)):
            part = theta[first : first + self._at_once]
            parts.append(self._simulate(part, key_of(seed, number)))
            self.n += len(part)
        return np.concatenate(parts)


@isolated()
def optimize(
    problem: str | PathLike[str],
    overrides: Mapping[str, Any] | None = None,
    *,
    preset: str | None = None,
    runs: str | PathLike[str] = "runs",
    track: bool = True,
    progress: Progress | None = None,
) -> Optimum:
    """Choose the parameters of a simulator that make the mean of an objective small.

    The same arguments again go on where the last call stopped, with the same result.

    Args:
        problem: name of a shipped problem, or a YAML file of
            `physgen.optimisation.plan.Optimisation`.
        overrides: dotted keys to values, {"steps": 20, "engine.steps": 500}.
        preset: a named set of overrides of the problem.
        runs: folder of the run directories, `<runs>/<name>/<hash of settings and code>`.
        track: mirror the run in MLflow; `physgen track sync` does it later.
        progress: called while it goes.

    Raises:
        RecipeError: a key is unknown, or parts do not fit.
        InputError: the simulator or the objective is not there, or fails; calls that have returned
            are kept.
        DomainError: the start is outside the bounds, or the simulator returns what is not finite,
            or of another shape.

    >>> import tempfile
    >>> small = {"steps": 2, "draws": 5, "final": 100, "engine.steps": 5}
    >>> with tempfile.TemporaryDirectory() as runs:
    ...     optimum = optimize("three-hump", small, runs=runs, track=False)
    >>> optimum.calls, sorted(optimum.parameters)
    (200, ['psi0', 'psi1'])
    """
    plan = read_optimisation(problem, overrides, preset)
    folder = user_path(runs) / plan.name / digest_of(plan)
    opened = problem_of(plan, folder / CALLS)
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        stack.enter_context(exclusive(folder))
        if track:
            stack.enter_context(Tracker(folder))
        with atomic(folder / SETTINGS, overwrite=True) as part:
            part.write_text(plan.to_yaml(), encoding="utf-8")
        calls = Calls(opened)
        steps = search(opened, calls, folder, progress or silent)
        optimum = _judged(opened, found_of(opened, steps), calls, folder)
        with atomic(folder / RESULT, overwrite=True) as part:
            part.write_text(json.dumps(asdict(optimum), indent=1) + "\n", encoding="utf-8")
        write_report(opened, steps, optimum, folder)
    for warning in optimum.warnings:
        LOG.warning("%s: %s", plan.name, warning)
    return optimum


def search(problem: Problem, calls: Calls, folder: Path, progress: Progress) -> list[Step]:
    """Take all steps of an algorithm, those of the journal without work; return them."""
    plan = problem.plan
    algorithm = ALGORITHMS[plan.algorithm](problem)
    written = Journal(folder)
    done = _done(problem, written)
    stage = f"{plan.name}: optimize"
    progress(stage, 0, plan.steps, {})
    steps: list[Step] = []
    first: list[tuple[Array, Array]] = []
    noticed = False
    for number in range(plan.steps):
        seed = key_of(plan.seed, 1 + number)
        theta = algorithm.design(seed)
        data = calls(theta, seed)
        if not noticed:
            first.append((theta, data))
            noticed = calls.n >= _ENOUGH or number + 1 == plan.steps
            if noticed:
                _notice_no_dependence(
                    problem, *(np.concatenate(p) for p in zip(*first, strict=True))
                )
        known = done[number] if number < len(done) else None
        estimate = known or algorithm.estimate(theta, data, seed)
        steps.append(Step(algorithm.psi.copy(), estimate, calls.n))
        if known is None:
            written.measure(number + 1, _line(problem, steps[-1]))
        algorithm.advance(estimate, theta, data)
        progress(stage, number + 1, plan.steps, {"objective": estimate.objective})
    return steps


def found_of(problem: Problem, steps: Sequence[Step]) -> Step:
    """Return where a search has come to: its last step, or of trials the best one."""
    if problem.plan.algorithm == "bayesian":
        return min(steps, key=lambda step: step.estimate.objective)
    return steps[-1]


def _judged(problem: Problem, found: Step, calls: Calls, folder: Path) -> Optimum:
    """Simulate anew at what was found."""
    plan, search_calls = problem.plan, calls.n
    data = calls(np.repeat(found.psi[None], plan.final, 0), key_of(plan.seed, 0))
    values = problem.values(tensor(data)).detach().numpy()
    objective, error = float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
    estimate = found.estimate
    notes = []
    apart = abs(objective - estimate.objective)
    if apart > APART * float(np.hypot(error, estimate.error)):
        notes.append(
            f"the search believes the objective to be {estimate.objective:.4g} "
            f"({estimate.error:.2g}), and {plan.final} fresh calls say {objective:.4g} "
            f"({error:.2g}): "
            + (
                "the surrogate deceives; train it longer (engine.steps), give it more calls "
                "(draws), or a smaller region"
                if plan.algorithm == "l-gso"
                else "trust these alone"
            )
        )
    at_bound = [
        name
        for name, value, low, high in zip(
            problem.names, found.psi, problem.low, problem.high, strict=True
        )
        if value in (low, high)
    ]
    if at_bound:
        notes.append(f"{', '.join(at_bound)}: at a bound; widen it if it is not one of physics")
    return Optimum(
        str(folder),
        dict(zip(problem.names, found.psi.tolist(), strict=True)),
        objective,
        error,
        estimate.objective,
        estimate.error,
        search_calls,
        plan.final,
        tuple(notes),
    )


def key_of(*numbers: int) -> int:
    """Return a seed that depends on all of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _line(problem: Problem, step: Step) -> dict[str, float]:
    estimate = step.estimate
    line = {
        "calls": step.calls,
        "objective": estimate.objective,
        "error": estimate.error,
        "pull": estimate.pull,
    }
    for key, values in (("parameters", step.psi), ("gradient", estimate.gradient)):
        if len(values):
            line |= {
                f"{key}/{name}": value
                for name, value in zip(problem.names, values.tolist(), strict=True)
            }
    return line


def _done(problem: Problem, written: Journal) -> list[Estimate]:
    """Return the estimates of the journal, without a line that a kill has torn."""
    if not written.path.exists():
        return []
    lines = [entry for entry in journal.read(written.path) if "metrics" in entry]
    written.truncate(len(lines))
    estimates = []
    for metrics in (entry["metrics"] for entry in lines):
        keys = [f"gradient/{name}" for name in problem.names]
        gradient = np.array([metrics[key] for key in keys if key in metrics])
        estimates.append(
            Estimate(metrics["objective"], metrics["error"], gradient, metrics["pull"])
        )
    return estimates


def _notice_no_dependence(problem: Problem, theta: Array, data: Array) -> None:
    """Warn if neither data nor objective vary with any parameter, as far as these calls tell."""
    if len(np.unique(theta, axis=0)) < 3:
        return
    values = problem.values(tensor(data)).detach().numpy()
    columns = [column for column in np.column_stack([data, values]).T if np.ptp(column) > 0]
    varied = [column for column in theta.T if np.ptp(column) > 0]
    tests = [spearmanr(a, b).pvalue for a in varied for b in columns]
    if not tests or min(tests) > _CHANCE / len(tests):
        LOG.warning(
            "%s: in the first %d calls neither data nor objective vary with any parameter: "
            "does the simulator ignore them? Otherwise take more draws, or a larger region",
            problem.plan.name,
            len(theta),
        )
