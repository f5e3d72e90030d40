"""One page of several samples beside one truth: ranks, ratios, profiles, correlations.

Of each sample no more is kept than is drawn: histograms, profiles and correlations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from physgen.validation import panels
from physgen.validation.canvas import COLOURS, PALETTE, data_uri, new_figure, styled
from physgen.validation.comparison import Comparison, Role, varies
from physgen.validation.correlations import tabulated, varying
from physgen.validation.distances import bin_edges
from physgen.validation.page import write_page
from physgen.validation.panels import Bars, Drawn
from physgen.validation.plots import MOST_HISTOGRAMS, PANELS, label_of, most_telling
from physgen.validation.profiles import profile
from physgen.validation.ranking import Ranking, regions_of, texts
from physgen.validation.scorecard import Scorecard

Array = NDArray[float64]
TEMPLATE = "several.html.j2"
PROFILES = 4
"""Observables of several bins that are drawn."""
CORRELATED = 24
"""Observables whose correlations are drawn."""


@dataclass(frozen=True)
class Sketch:
    """What is drawn of one sample.

    Attributes:
        histograms: densities with errors, by observable.
        profiles: means of the bins of observables with several.
        correlations: (F, F), of the first observables that vary in the truth.
    """

    histograms: Mapping[str, Bars]
    profiles: Mapping[str, Bars]
    correlations: Array


@dataclass(frozen=True)
class Sketches:
    """The truth, and samples that were set beside it.

    Attributes:
        edges: of the histograms, by observable.
        labels: of the axes, by observable.
        correlated: which observables the correlations are of.
        truth: what is drawn of it.
        samples: what is drawn of the samples, by name.
    """

    edges: Mapping[str, Array]
    labels: Mapping[str, str]
    correlated: list[str]
    truth: Sketch
    samples: dict[str, Sketch]

    @classmethod
    def of(cls, comparison: Comparison) -> Sketches:
        """Begin with the truth of a comparison."""
        truth = comparison.measured_truth
        edges = {
            name: bin_edges(values, truth.weight)
            for name, values in truth.scalars.items()
            if varies(values)
        }
        labels = {name: label_of(comparison, name) for name in truth.values}
        correlated = varying(truth)[:CORRELATED]
        return cls(edges, labels, correlated, _sketch(comparison, "truth", edges, correlated), {})

    def add(self, name: str, comparison: Comparison) -> None:
        """Add the generated sample of a comparison with the same truth."""
        self.samples[name] = _sketch(comparison, "generated", self.edges, self.correlated)


def _sketch(
    comparison: Comparison, role: Role, edges: Mapping[str, Array], correlated: list[str]
) -> Sketch:
    measured = comparison.measured[role]
    vectors = [name for name, values in measured.values.items() if values.ndim > 1]
    return Sketch(
        histograms={
            name: panels.density(measured, name, bins)
            for name, bins in edges.items()
            if np.isfinite(measured.values[name]).any()
        },
        profiles={
            name: panels.means(profile(comparison, measured, name)) for name in vectors[:PROFILES]
        },
        correlations=tabulated(measured, correlated).correlations()
        if correlated
        else np.zeros((0, 0)),
    )


def page(
    ranking: Ranking,
    sketches: Sketches,
    output: Path,
    *,
    title: str,
    reports: Mapping[str, str] | None = None,
) -> Path:
    """Write the offline HTML page and return its path.

    Args:
        ranking: of the scorecards.
        sketches: of the samples.
        output: the HTML file; an older one is replaced.
        title: of the page.
        reports: links to the samples' own pages, by name.
    """
    names = [place.name for place in ranking.order]
    with styled():
        pictures = [
            {"title": heading, "caption": caption, "source": data_uri(figure)}
            for figure, heading, caption in _figures(ranking, sketches)
        ]
    short = ranking.in_short
    return write_page(
        TEMPLATE,
        output,
        title=title,
        verdict=ranking.verdict,
        order=ranking.order,
        names=names,
        cards={name: ranking.cards[name] for name in names},
        regions={name: regions_of(ranking.cards[name]) for name in names},
        reports=reports or {},
        tables=[
            [(line, texts(line, names)) for line in lines]
            for lines in (short, [line for line in ranking.lines if line not in short])
        ],
        pictures=pictures,
    )


def _figures(ranking: Ranking, sketches: Sketches) -> Iterator[tuple[Any, str, str]]:
    order = [place.name for place in ranking.order]
    colours = {n: PALETTE[i % len(PALETTE)] for i, n in enumerate(sketches.samples)}

    def drawn(part: Literal["histograms", "profiles"], observable: str) -> list[Drawn]:
        curves = [Drawn("truth", getattr(sketches.truth, part)[observable], COLOURS["truth"])]
        for name in order:
            own = getattr(sketches.samples[name], part)
            if observable in own:
                curves.append(Drawn(name, own[observable], colours[name]))
        return curves

    names = list(sketches.edges)
    text = ""
    if len(names) > MOST_HISTOGRAMS:
        rows = tuple(row for card in ranking.cards.values() for row in card.rows)
        text = f" Of {len(names)} observables these are the {MOST_HISTOGRAMS} that differ most."
        names = most_telling(names, Scorecard(rows=rows))
    for start in range(0, len(names), PANELS):
        part = names[start : start + PANELS]
        n_columns = min(3, len(part))
        n_rows = -(-len(part) // n_columns)
        figure = new_figure(3.9 * n_columns, 3.5 * n_rows, placed=False)
        cells = figure.subfigures(n_rows, n_columns, squeeze=False).flat
        for cell, name in zip(cells, part, strict=False):
            panels.histogram(
                cell, drawn("histograms", name), sketches.edges[name], sketches.labels[name]
            )
        yield (
            figure,
            "Histograms" if start == 0 else f"Histograms {start // PANELS + 1}",
            "Distributions with statistical errors; below, ratios to the truth, whose own error is "
            f"the grey band. The outer bins hold the overflow.{text if start == 0 else ''}",
        )
    for name in sketches.truth.profiles:
        figure = new_figure(6.0, 4.2)
        panels.profile(figure, drawn("profiles", name), sketches.labels[name])
        yield figure, f"Profile of {name}", "Means, bin by bin, and their ratios to the truth."
    if len(sketches.correlated) > 1:
        yield _correlations(sketches, order)


def _correlations(sketches: Sketches, order: list[str]) -> tuple[Any, str, str]:
    off = {
        name: sketches.samples[name].correlations - sketches.truth.correlations for name in order
    }
    bound = max(0.05, *(float(np.abs(values).max()) for values in off.values()))
    size = 3.4 + 0.14 * len(sketches.correlated)
    n_columns = min(2, len(order) + 1)
    n_rows = -(-(len(order) + 1) // n_columns)
    figure = new_figure(size * n_columns + 1, size * n_rows)
    axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    panels.matrix(figure, axes[0], sketches.truth.correlations, 1.0, sketches.correlated, "truth")
    for axis, (name, values) in zip(axes[1:], off.items(), strict=False):
        panels.matrix(figure, axis, values, bound, sketches.correlated, f"{name} - truth")
    for axis in axes[len(order) + 1 :]:
        axis.set_axis_off()
    return (
        figure,
        "Correlations",
        "Pearson correlations of the truth, and the differences of the samples on one scale.",
    )
