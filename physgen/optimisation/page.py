"""The page of an optimisation: objective and parameters against calls of the simulator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from physgen.optimisation.plan import Problem
from physgen.validation.canvas import COLOURS, PALETTE, data_uri, new_figure, styled
from physgen.validation.page import write_page
from physgen.validation.table import with_error

if TYPE_CHECKING:
    from physgen.optimisation.verb import Optimum, Step

TEMPLATE, REPORT = "optimisation.html.j2", "report.html"
_MOST = 12
"""Parameters that are listed and drawn: those that moved furthest, in units of the region."""


def write_report(problem: Problem, steps: Sequence[Step], optimum: Optimum, folder: Path) -> Path:
    """Write `report.html` into a run directory; return its path."""
    way = np.stack([step.psi for step in steps])
    moved = np.abs(way[-1] - way[0]) / problem.region
    shown = sorted(np.argsort(-moved, kind="stable")[:_MOST])
    names = problem.names
    facts = [
        ("objective, fresh calls", with_error(optimum.objective, optimum.error)),
        (
            "objective, as the search believes",
            with_error(optimum.estimated, optimum.estimated_error),
        ),
        ("calls of the search", str(optimum.calls)),
        ("fresh calls", str(optimum.final_calls)),
        ("algorithm", problem.plan.algorithm),
    ]
    facts += [
        (names[i], f"{optimum.parameters[names[i]]:.5g} (start {problem.start[i]:.5g})")
        for i in shown
    ]
    with styled():
        pictures = [
            (
                "Objective",
                _objective(steps, optimum),
                "What the search believes, step by step, with its standard error; the last point "
                "is of fresh calls of the simulator.",
            ),
            ("Parameters", _parameters(problem, steps, shown), "Step by step."),
        ]
    return write_page(
        TEMPLATE,
        folder / REPORT,
        title=f"{problem.plan.name}: {optimum.run.rpartition('/')[2]}",
        summary=problem.plan.summary,
        warnings=optimum.warnings,
        facts=facts,
        pictures=pictures,
    )


def _objective(steps: Sequence[Step], optimum: Optimum) -> str:
    figure = new_figure(7.5, 4.0)
    axis = figure.subplots()
    calls = [step.calls for step in steps]
    axis.errorbar(
        calls,
        [step.estimate.objective for step in steps],
        [step.estimate.error for step in steps],
        fmt="o-",
        color=COLOURS["generated"],
        label="search",
    )
    axis.errorbar(
        [1.04 * calls[-1]],
        [optimum.objective],
        [optimum.error],
        fmt="s",
        color=COLOURS["truth"],
        label="fresh calls",
    )
    axis.set_xlim(0, 1.08 * calls[-1])
    axis.set_xlabel("calls of the simulator in the search")
    axis.set_ylabel("mean objective")
    axis.legend()
    return data_uri(figure)


def _parameters(problem: Problem, steps: Sequence[Step], shown: Sequence[int]) -> str:
    figure = new_figure(7.5, 4.0)
    axis: Any = figure.subplots()
    calls = [step.calls for step in steps]
    for number, i in enumerate(shown):
        colour = PALETTE[number % len(PALETTE)]
        axis.plot(calls, [step.psi[i] for step in steps], color=colour, label=problem.names[i])
    axis.set_xlim(0, 1.08 * calls[-1])
    axis.set_xlabel("calls of the simulator in the search")
    axis.set_ylabel("parameter")
    axis.legend(ncols=2)
    return data_uri(figure)
