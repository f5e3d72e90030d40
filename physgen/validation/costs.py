"""What an independent configuration costs, by Monte Carlo and by surrogates, and when which pays.

A sampler needs `setup` seconds before its first configuration (training, or tuning and warm-up) and
then `seconds` for each, of which a share `efficiency` counts as independent: the effective sample
size of proposals that are weighted or go through Metropolis, or 1 / (2 tau_int) of a Markov chain.
N independent ones take T(N) = setup + N seconds / efficiency, and one sampler is cheaper than
another one from the N on at which the two lines cross.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from physgen.validation.canvas import PALETTE, data_uri, new_figure, styled
from physgen.validation.page import write_page
from physgen.validation.table import with_error

TEMPLATE = "costs.html.j2"
WANTED = np.logspace(1, 9, 81)
"""Independent configurations, for pictures."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one sampler of one theory costs.

    Attributes:
        name: of the sampler.
        setup: seconds before the first configuration.
        seconds: CPU seconds for each further one.
        efficiency: independent configurations a configuration; `None` where it is not exact, or
            where that is not known.
        efficiency_error: its standard error.
        known_by: what the efficiency is taken from.
        log_partition: ln Z, its error, and the exact value; `None` where that is not known.
        tunnelling: how often a second the topological charge changes; `None` without one.
        warning: why the figures cannot be trusted.
    """

    name: str
    setup: float
    seconds: float
    efficiency: float | None = None
    efficiency_error: float | None = None
    known_by: str = ""
    log_partition: tuple[float | None, float | None, float | None] = (None, None, None)
    tunnelling: float | None = None
    warning: str = ""

    @property
    def each(self) -> float:
        """CPU seconds an independent configuration; infinite where there are none."""
        return self.seconds / self.efficiency if self.efficiency else math.inf

    def cheaper_from(self, other: Cost) -> float:
        """Return how many independent configurations must be wanted before this one is cheaper.

        Infinite: never. NaN: not known, because the efficiency of either is not.

        >>> flow = Cost(name="flow", setup=100, seconds=0.001, efficiency=0.5)
        >>> chain = Cost(name="chain", setup=0, seconds=0.002, efficiency=0.5)
        >>> flow.cheaper_from(chain), chain.cheaper_from(flow)
        (50000.0, inf)
        """
        if not (self.efficiency and other.efficiency):
            return math.nan
        if self.each >= other.each:
            return math.inf
        return max(0.0, (self.setup - other.setup) / (other.each - self.each))


@dataclass(frozen=True, kw_only=True)
class Theory:
    """The samplers of one theory.

    Attributes:
        title: the theory and its couplings.
        monte_carlo: its Monte Carlo.
        surrogates: of its recipes.
    """

    title: str
    monte_carlo: Cost
    surrogates: Sequence[Cost]


HEADINGS = (
    "sampler",
    "training or warm-up [s]",
    "ms a configuration",
    "independent share",
    "ms an independent one",
    "cheaper than Monte Carlo from",
    "changes of Q a second",
    "ln Z",
    "exact ln Z",
    "remarks",
)


def table(theory: Theory) -> list[dict[str, str]]:
    """Return the lines of a theory as texts by heading, Monte Carlo first."""
    lines = []
    for cost in (theory.monte_carlo, *theory.surrogates):
        value, error, exact = cost.log_partition
        first = cost is theory.monte_carlo
        lines.append(
            {
                "sampler": cost.name,
                "training or warm-up [s]": f"{cost.setup:.3g}",
                "ms a configuration": f"{1000 * cost.seconds:.3g}",
                "independent share": _known(cost.efficiency, cost.efficiency_error),
                "ms an independent one": (
                    f"{1000 * cost.each:.3g}" if math.isfinite(cost.each) else ""
                ),
                "cheaper than Monte Carlo from": (
                    "" if first else _from(cost.cheaper_from(theory.monte_carlo))
                ),
                "changes of Q a second": (
                    "" if cost.tunnelling is None else f"{cost.tunnelling:.3g}"
                ),
                "ln Z": _known(value, error),
                "exact ln Z": "" if exact is None else f"{exact:.8g}",
                "remarks": "; ".join(filter(None, (cost.known_by, cost.warning))),
            }
        )
    return lines


def markdown(theories: Sequence[Theory]) -> str:
    """Return a table a theory in Markdown, for documents."""
    parts = []
    for theory in theories:
        rows = [HEADINGS, ["---"] * len(HEADINGS)]
        rows += [[line[heading] for heading in HEADINGS] for line in table(theory)]
        text = "\n".join(
            "| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in rows
        )
        parts.append(f"### {theory.title}\n\n{text}\n")
    return "\n".join(parts)


def page(title: str, summary: str, theories: Sequence[Theory], output: Path) -> Path:
    """Write the offline HTML page and return its path."""
    return write_page(
        TEMPLATE,
        output,
        title=title,
        summary=summary,
        headings=HEADINGS,
        theories=[
            {"title": one.title, "lines": table(one), "picture": _picture(one)} for one in theories
        ],
    )


def _known(value: float | None, error: float | None) -> str:
    return "" if value is None else with_error(value, error)


def _from(n: float) -> str:
    if math.isnan(n):
        return "not known"
    if n == math.inf:
        return "never"
    return "the first" if n == 0 else f"{n:.2g}"


def _picture(theory: Theory) -> str:
    """Return a data URI of T(N) of all samplers."""
    with styled():
        figure = new_figure(6.4, 3.4)
        axes = figure.add_subplot()
        for cost, colour in zip(
            (theory.monte_carlo, *theory.surrogates), ("black", *PALETTE * 9), strict=False
        ):
            if math.isfinite(cost.each):
                total = cost.setup + WANTED * cost.each
                axes.loglog(WANTED, total, color=colour, label=cost.name)
        axes.set_xlabel("independent configurations")
        axes.set_ylabel("CPU time [s]")
        if axes.lines:
            axes.legend()
        return data_uri(figure)
