"""One page of families side by side: what they draw, how well, how fast, how large.

Beside each score stands the floor, the same statistic between two samples of truth.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from physgen.systems.base import System
from physgen.validation.canvas import data_uri, new_figure
from physgen.validation.galleries import sheet
from physgen.validation.page import write_page
from physgen.validation.scorecard import Row, Scorecard
from physgen.validation.table import with_error

TEMPLATE = "families.html.j2"


@dataclass(frozen=True)
class Family:
    """A trained and scored surrogate.

    Attributes:
        name, summary: of its recipe.
        path: of its run directory.
        scorecard: its scores.
        likelihood: how it is known: "exact", "bound", "bound of 64 draws", "estimated" or "none".
        parameters: how many are trained.
        training_seconds: on the machine that trained it.
        samples_per_second: on this machine.
        samples: (n, *shape), some to look at.
        baseline: kind of the surrogate that its scores stand beside, if there is one.
    """

    name: str
    summary: str
    path: Path
    scorecard: Scorecard
    likelihood: str
    parameters: int
    training_seconds: float
    samples_per_second: float
    samples: Tensor
    baseline: str = ""


@dataclass(frozen=True)
class Families:
    """Families on the same data.

    Attributes:
        title, summary: of the page.
        system: what the samples are.
        truth: (n, *shape) true samples; `None` where there are none.
        columns: headings and the names of the rows below them.
        families: in the order of the page.
    """

    title: str
    summary: str
    system: System
    truth: Tensor | None
    columns: Mapping[str, str]
    families: Sequence[Family]


FACTS = ("parameters", "training [s]", "samples / s", "likelihood")


def table(compared: Families) -> list[dict[str, str]]:
    """Return the rows of the comparison as texts by heading.

    The first one holds the floors, the second what the values should be, where that is known; then
    come baselines, the scores of which are the same in every family that has them.

    >>> from physgen.systems.scalar import Phi4
    >>> rows = table(Families("phi^4", "", Phi4(), None, {"AUC": "AUC, boosted"}, []))
    >>> rows[0]["family"], rows[0]["AUC"]
    ('truth against truth', '')
    """
    floors = {"family": "truth against truth"} | dict.fromkeys(FACTS, "")
    ideals = {"family": "truth, exact if known"} | dict.fromkeys(FACTS, "")
    for heading, name in compared.columns.items():
        rows = [row for family in compared.families if (row := _row(family, name)) is not None]
        floor = next((row for row in rows if row.floor is not None), None)
        floors[heading] = "" if floor is None else with_error(floor.floor, floor.floor_error)
        ideal = next((row for row in rows if row.exact is not None), None)
        ideals[heading] = "" if ideal is None else with_error(ideal.exact, ideal.exact_error)
    lines = [floors, ideals]
    first = {family.baseline: family for family in reversed(compared.families) if family.baseline}
    for kind, family in first.items():
        line = {"family": f"baseline: {kind}"} | dict.fromkeys(FACTS, "")
        for heading, name in compared.columns.items():
            row = _row(family, name)
            value = None if row is None else row.baseline
            line[heading] = "" if value is None else with_error(value, None)
        lines.append(line)
    for family in compared.families:
        line = {
            "family": family.name,
            "parameters": f"{family.parameters:,}",
            "training [s]": f"{family.training_seconds:.0f}",
            "samples / s": f"{family.samples_per_second:.3g}",
            "likelihood": family.likelihood,
        }
        for heading, name in compared.columns.items():
            row = _row(family, name)
            line[heading] = "" if row is None else with_error(row.value, row.error)
        lines.append(line)
    return lines


def markdown(compared: Families) -> str:
    """Return the table in Markdown, for documents."""
    headings = ["family", *FACTS, *compared.columns]
    escaped = [heading.replace("|", "\\|") for heading in headings]
    lines = [f"| {' | '.join(escaped)} |", f"| {' | '.join(['---'] * len(headings))} |"]
    lines += [
        f"| {' | '.join(line[heading] for heading in headings)} |" for line in table(compared)
    ]
    return "\n".join(lines) + "\n"


def page(compared: Families, output: Path) -> Path:
    """Write the offline HTML page and return its path."""
    galleries: list[dict[str, object]] = []
    if compared.truth is not None:
        source = _picture(compared.system, compared.truth)
        galleries.append({"name": "truth", "summary": "", "report": "", "source": source})
    for family in compared.families:
        report = os.path.relpath(family.path / "report.html", output.parent)
        galleries.append(
            {
                "name": family.name,
                "summary": family.summary,
                "report": report,
                "warnings": family.scorecard.warnings,
                "source": _picture(compared.system, family.samples),
            }
        )
    return write_page(
        TEMPLATE,
        output,
        title=compared.title,
        summary=compared.summary,
        headings=["family", *FACTS, *compared.columns],
        lines=table(compared),
        galleries=galleries,
    )


def _row(family: Family, name: str) -> Row | None:
    return next((row for row in family.scorecard.rows if row.name == name), None)


def _picture(system: System, samples: Tensor) -> str:
    """Return a data URI of a picture of the first samples."""
    figure = new_figure(4.2, 2.1)
    sheet(figure, system, samples)
    return data_uri(figure)
