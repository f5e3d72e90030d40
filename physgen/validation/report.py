"""One offline HTML page for one or several scored runs: the verdict first, then how it came about.

The page refers to nothing outside itself: pictures are embedded, styles are inline, there are no
scripts. All text is escaped, so that names in files cannot become markup.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from physgen.errors import FormatError
from physgen.io import manifest
from physgen.io.documents import LARGEST_JSON, LARGEST_YAML, read_json, read_text
from physgen.validation.page import write_page
from physgen.validation.plots import INDEX, Plot
from physgen.validation.scorecard import Row, Scorecard
from physgen.validation.table import row_cells, row_digits

TEMPLATE = "report.html.j2"
_SHOWN = ("scorecard.json", "samples.h5", "recipe.yaml", "provenance.json", "plots/")
"""What of a run stands on the page, or was measured for it."""
COLUMNS = ("observable", "value", "floor", "baseline", "exact", "pull", "limit", "verdict")


@dataclass(frozen=True)
class Section:
    """What a page shows of one run.

    Attributes:
        name: its title.
        scorecard: what was found.
        pictures: folder with the pictures of `physgen.validation.plots.draw`, if there is one.
        recipe: the resolved recipe as text.
        provenance: versions, seeds, hashes; that of the scorecard is shown as well.
        summary: one line on what the run is.
    """

    name: str
    scorecard: Scorecard
    pictures: Path | None = None
    recipe: str = ""
    provenance: Mapping[str, Any] | None = None
    summary: str = ""


def report(runs: Path | Sequence[Path | Section], output: Path, *, title: str = "") -> Path:
    """Write the page and return its path; it replaces an older one at once and whole.

    Args:
        runs: a run directory, or several of them, or `Section`s made by hand.
        output: the HTML file.
        title: of the page; by default the names of the runs.

    Raises:
        FormatError: a run directory has no scorecard, or a picture is missing.
        CheckpointError: a file of a run is not what was written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = report([Section("toy", Scorecard(rows=()))], Path(folder) / "report.html")
    ...     "<title>toy</title>" in page.read_text()
    True
    """
    several = [runs] if isinstance(runs, Path) else list(runs)
    for run in several:
        # Scores of files have no manifest.
        if isinstance(run, Path) and (run / manifest.NAME).exists():
            _check(run)
    sections = [section_of(run) if isinstance(run, Path) else run for run in several]
    return write_page(
        TEMPLATE,
        output,
        title=title or ", ".join(section.name for section in sections),
        sections=[_content(section, f"run{i}") for i, section in enumerate(sections, 1)],
        columns=COLUMNS,
    )


def _check(run: Path) -> None:
    """Raise an `InputError` unless a run has whole scores, as they were written."""
    if "scorecard.json" not in manifest.check(run, lambda name: name.startswith(_SHOWN)):
        raise FormatError(f"{run} has no complete scores: run `physgen validate {run}` first")


def section_of(run: Path) -> Section:
    """Read what a run directory holds for a report."""
    card = run / "scorecard.json"
    if not card.exists():
        raise FormatError(f"{run} has no scorecard: run `physgen validate {run}` first")
    recipe, provenance = run / "recipe.yaml", run / "provenance.json"
    scorecard = Scorecard.from_json(read_text(card, LARGEST_JSON))
    judged = scorecard.provenance.get("generated")
    name = run.parent.name if run.parent.name else run.name
    if not recipe.exists() and isinstance(judged, dict) and "file" in judged:
        name = Path(judged["file"]).name  # That of the samples, not of the folder of the report.
    return Section(
        name=name,
        scorecard=scorecard,
        pictures=run / "plots" if (run / "plots" / INDEX).exists() else None,
        recipe=read_text(recipe, LARGEST_YAML) if recipe.exists() else "",
        provenance=read_json(provenance) if provenance.exists() else None,
    )


def _content(section: Section, anchor: str) -> dict[str, Any]:
    rows = section.scorecard.rows
    first = [row.verdict != "info" or row.has_warning for row in rows]
    judged = [_line(row) for row, is_first in zip(rows, first, strict=True) if is_first]
    informative = [_line(row) for row, is_first in zip(rows, first, strict=True) if not is_first]
    provenance = {**section.scorecard.provenance, **(section.provenance or {})}
    counts = {v: sum(row.verdict == v for row in rows) for v in ("pass", "fail", "info")}
    return {
        "anchor": anchor,
        "name": section.name,
        "summary": section.summary,
        "samples": section.scorecard.provenance.get("samples", ""),
        "verdict": section.scorecard.verdict,
        "headline": section.scorecard.headline,
        "warnings": section.scorecard.warnings,
        "counts": counts,
        "judged": judged,
        "informative": informative,
        "pictures": [] if section.pictures is None else _pictures(section.pictures),
        "recipe": section.recipe,
        "provenance": _flat(provenance),
    }


def _line(row: Row) -> dict[str, Any]:
    facts = row.model_dump(include={"note", "warning", "verdict"})
    return {
        "cells": row_cells(row),
        "hover": row_digits(row),
        **facts,
        "has_warning": row.has_warning,
    }


def _pictures(folder: Path) -> list[dict[str, str]]:
    index = folder / INDEX
    try:
        listed = [Plot(**entry) for entry in read_json(index)]
        # Only names: an index cannot make the page embed a file from elsewhere.
        data = [(folder / Path(picture.file).name).read_bytes() for picture in listed]
    except (OSError, ValueError, TypeError) as error:
        raise FormatError(
            f"{index}: {error}; run `physgen validate` again to draw the pictures"
        ) from error
    return [
        {
            "title": picture.title,
            "caption": picture.caption,
            "source": f"data:image/{'gif' if picture.file.endswith('.gif') else 'png'};base64,"
            + base64.b64encode(content).decode("ascii"),
        }
        for picture, content in zip(listed, data, strict=True)
    ]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return (dotted key, text) of a nested mapping."""
    lines: list[tuple[str, str]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            lines += _flat(value, f"{prefix}{key}.")
        else:
            lines.append((f"{prefix}{key}", str(value)))
    return lines
