"""A scoring while it goes, and what it leaves: scorecard, samples, plots and a page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from physgen.engine import journal
from physgen.io.writer import atomic, hdf5_writer
from physgen.scoring import Count
from physgen.training import Progress, silent
from physgen.validation.comparison import Comparison
from physgen.validation.plots import draw
from physgen.validation.report import report as write_report
from physgen.validation.report import section_of
from physgen.validation.scorecard import Scorecard


@contextmanager
def scoring(progress: Progress | None, stage: str) -> Iterator[Count]:
    """Report a scoring: each metric counts as one, and so does what is written at the end."""
    report_progress, total = progress or silent, 1

    def count(done: int, metrics: int) -> None:
        nonlocal total
        total = metrics + 1
        report_progress(stage, done, total, {})

    report_progress(stage, 0, total, {})
    yield count
    report_progress(stage, total, total, {})


def write_scores_to(folder: Path, comparison: Comparison, card: Scorecard) -> None:
    """The same, into a folder that is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    write_scores(folder, comparison, card)


def write_scores(folder: Path, comparison: Comparison, card: Scorecard) -> None:
    """Write scorecard, samples, plots and `report.html` of a comparison into a folder."""
    with atomic(folder / "scorecard.json", overwrite=True) as part:
        part.write_text(card.to_json() + "\n", encoding="utf-8")
    with hdf5_writer(
        folder / "samples.h5", schema=comparison.system.schema, overwrite=True
    ) as append:
        append(comparison.generated)
    draw(comparison, card, folder / "plots", journal=folder / journal.NAME)
    write_report([section_of(folder)], folder / "report.html")
