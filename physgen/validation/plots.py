"""Pictures of a validation: PNG files, and an index of what they show for the report.

Everything is drawn on figures of their own (no global pyplot state), truth in black, generated
samples in colour, the baseline dashed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from physgen.validation import curves, galleries, linearity, panels
from physgen.validation.canvas import COLOURS, new_figure, styled
from physgen.validation.comparison import Comparison, Measured, varies
from physgen.validation.correlations import tabulated, varying
from physgen.validation.distances import bin_edges
from physgen.validation.exact_distributions import density, known
from physgen.validation.panels import Drawn
from physgen.validation.profiles import profile
from physgen.validation.scorecard import Scorecard

Array = NDArray[float64]
INDEX = "index.json"
TRAINING, BETWEEN, ALONG = "training.gif", "between.png", "along.png"
"""What training leaves beside the plots of a run."""
MOST_HISTOGRAMS = 24
"""Observables whose histograms are drawn; a calorimeter of 45 layers has more than 300."""
PANELS = 6
"""Observables to a picture."""


@dataclass(frozen=True)
class Plot:
    """A PNG or GIF file of a run and the words that stand below it.

    >>> Plot("correlations.png", "Correlations", "Of all observables.").file
    'correlations.png'
    """

    file: str
    title: str
    caption: str


_FROM_TRAINING = (
    Plot(TRAINING, "Samples while training", "The same noise, and conditions, again and again."),
    Plot(
        BETWEEN,
        "Between noise and noise",
        "Each row: samples on the way from one noise to another; then the mean and the standard "
        "deviation of many samples, at the condition of the row where there is one.",
    ),
    Plot(
        ALONG,
        "Along the latent vector",
        "Each row: one entry of the latent vector from -2.5 to 2.5, all other noise being 0; these "
        "are the entries that change samples the most.",
    ),
)


def draw(
    comparison: Comparison, scorecard: Scorecard, folder: Path, *, journal: Path | None = None
) -> list[Plot]:
    """Draw all that there is to be seen into `folder`, with an index for the report.

    Args:
        journal: the run's `journal.jsonl`, for its loss curves.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures: list[Plot] = []
    with styled():
        for figure, title, caption in _figures(comparison, scorecard, journal):
            name = f"{len(pictures) + 1:02d}-{_word(title).lower().replace(' ', '-')}.png"
            figure.savefig(folder / name, dpi=110, metadata={"Software": "physgen"})
            pictures.append(Plot(name, title, caption))
    pictures += from_training(folder)
    index = json.dumps([asdict(picture) for picture in pictures], indent=1)
    (folder / INDEX).write_text(index, encoding="utf-8")
    return pictures


def from_training(folder: Path) -> list[Plot]:
    """Return what a training left in `folder`."""
    return [picture for picture in _FROM_TRAINING if (folder / picture.file).exists()]


def _figures(
    comparison: Comparison, scorecard: Scorecard, journal: Path | None
) -> Iterator[tuple[Any, str, str]]:
    yield from _histograms(comparison, scorecard)
    yield from _profiles(comparison)
    yield from galleries.samples(comparison)
    yield from galleries.voxels(comparison)
    yield from _correlations(comparison)
    yield from curves.scores(scorecard)
    yield from linearity.drawn(scorecard)
    yield from curves.chains(comparison)
    if journal is not None and journal.exists():
        yield from curves.losses(journal)


def label_of(comparison: Comparison, name: str) -> str:
    """Return an observable with its unit, for an axis."""
    unit = comparison.unit(name)
    return name if unit == "1" else f"{name} [{unit}]"


def _shown(comparison: Comparison) -> dict[str, Measured]:
    """Truth first, then what is compared with it; the floor is in the numbers, not drawn."""
    order = ("truth", "baseline", "generated")
    by_role = {str(role): measured for role, measured in comparison.measured.items()}
    return {role: by_role[role] for role in order if role in by_role}


def _histograms(comparison: Comparison, scorecard: Scorecard) -> Iterator[tuple[Any, str, str]]:
    shown = _shown(comparison)
    names = [
        name
        for name, values in shown["generated"].scalars.items()
        if all(np.isfinite(m.values[name]).any() for m in shown.values()) and varies(values)
    ]
    text = ""
    if len(names) > MOST_HISTOGRAMS:
        text = (
            f" Of {len(names)} observables these are the {MOST_HISTOGRAMS} that failed, are "
            "judged, or differ most; the table has them all."
        )
        names = most_telling(names, scorecard)
    for page, start in enumerate(range(0, len(names), PANELS)):
        part = names[start : start + PANELS]
        n_columns = min(3, len(part))
        n_rows = -(-len(part) // n_columns)
        figure = new_figure(3.9 * n_columns, 3.5 * n_rows, placed=False)
        for cell, name in zip(
            figure.subfigures(n_rows, n_columns, squeeze=False).flat, part, strict=False
        ):
            _histogram(comparison, shown, name, cell)
        title = "Histograms" if page == 0 else f"Histograms {page + 1}"
        yield (
            figure,
            title,
            (
                "Distributions of the observables with statistical errors; below, the ratio to the "
                "truth, whose own error is the grey band. The outer bins hold the overflow."
                f"{text if page == 0 else ''}"
            ),
        )


def most_telling(names: list[str], scorecard: Scorecard) -> list[str]:
    """Return those of the observables that a reader should see, in their order."""
    weights: dict[str, tuple[float, ...]] = {}
    for row in scorecard.rows:
        # Rows are called "x", "W1 x" or "x, bin 3 of 9".
        name = row.name.partition(", bin ")[0]
        name = name if name in names else name.partition(" ")[2]
        warning = bool(row.warning) or row.alarming
        weight = (row.verdict == "fail", warning, row.verdict != "info", *row.departure)
        weights[name] = max(weights.get(name, weight), weight)
    nothing = (False, False, False, -math.inf, 0.0)
    first = sorted(names, key=lambda name: weights.get(name, nothing), reverse=True)
    chosen = set(first[:MOST_HISTOGRAMS])
    return [name for name in names if name in chosen]


def _histogram(comparison: Comparison, shown: Mapping[str, Measured], name: str, cell: Any) -> None:
    reference = shown.get("truth", shown["generated"])
    edges = bin_edges(reference.values[name], reference.weight)
    drawn = [
        Drawn(role, panels.density(m, name, edges), COLOURS[role], role == "baseline")
        for role, m in shown.items()
    ]
    exact = comparison.once(known).get(name)
    if exact is not None:
        bars = density(exact, edges), np.zeros(len(edges) - 1)
        drawn.insert(1, Drawn("exact", bars, "black", dashed=True))
    panels.histogram(cell, drawn, edges, label_of(comparison, name))


def _profiles(comparison: Comparison) -> Iterator[tuple[Any, str, str]]:
    shown = _shown(comparison)
    names = [name for name, value in shown["generated"].values.items() if value.ndim > 1]
    for name in names[:4]:
        figure = new_figure(6.0, 4.2)
        drawn = [
            Drawn(role, panels.means(profile(comparison, m, name)), COLOURS[role])
            for role, m in shown.items()
        ]
        panels.profile(figure, drawn, label_of(comparison, name))
        yield (
            figure,
            f"Profile of {name}",
            f"Mean of {name}, bin by bin, and its ratio to the truth.",
        )


def _word(name: str) -> str:
    return "".join(c if c.isalnum() else " " for c in name).strip().replace("  ", " ")


def _correlations(comparison: Comparison) -> Iterator[tuple[Any, str, str]]:
    if "truth" not in comparison.measured:
        return
    names = varying(comparison.measured["truth"])[:24]
    if len(names) < 2:
        return
    truth, ours = (
        tabulated(m, names).correlations()
        for m in (comparison.measured["truth"], comparison.measured["generated"])
    )
    size = 3.4 + 0.14 * len(names)
    figure = new_figure(2 * size + 1, size)
    limit = max(0.05, float(np.abs(ours - truth).max()))
    pairs = ((truth, 1.0, "truth"), (ours - truth, limit, "generated - truth"))
    for axis, (matrix, bound, title) in zip(figure.subplots(1, 2), pairs, strict=True):
        panels.matrix(figure, axis, matrix, bound, names, title)
    yield figure, "Correlations", "Pearson correlations of the observables, and their difference."
