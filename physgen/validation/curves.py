"""Curves: ROC of the classifiers, importance weights, autocorrelation, training losses."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from physgen.validation.canvas import COLOURS, new_figure
from physgen.validation.comparison import Comparison
from physgen.validation.scorecard import Row, Scorecard
from physgen.validation.uncertainty import autocorrelation


def scores(scorecard: Scorecard) -> Iterator[tuple[Any, str, str]]:
    """ROC curves of the classifiers, the histogram of the log-weights, the shares of classes."""
    judged = [row for row in scorecard.rows if any(name.startswith("ROC") for name in row.curves)]
    if judged:
        figure = new_figure(3.9 * len(judged), 4.2)
        for axis, row in zip(
            figure.subplots(1, len(judged), squeeze=False)[0], judged, strict=True
        ):
            axis.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
            for name, (x, y) in row.curves.items():
                role = name.removeprefix("ROC ")
                value = {"generated": row.value, "floor": row.floor}.get(role, row.baseline)
                axis.plot(
                    x,
                    y,
                    color=COLOURS[role],
                    label=f"{role}, AUC {value:.3f}",
                    linestyle="--" if role == "baseline" else "-",
                )
            axis.set_xlabel("generated taken for true")
            axis.set_ylabel("true taken for true")
            axis.set_title(row.name.removeprefix("AUC, "), fontsize=10)
            axis.legend(loc="lower right")
            axis.set_aspect("equal")
            axis.set(xlim=(0, 1), ylim=(0, 1.02))
        yield (
            figure,
            "Classifiers",
            "ROC curves of the classifiers; the floor is that of two samples of truth.",
        )
    judged = [row for row in scorecard.rows if "w of generated rows" in row.curves]
    if judged:
        figure = new_figure(3.9 * len(judged), 3.6)
        for axis, row in zip(
            figure.subplots(1, len(judged), squeeze=False)[0], judged, strict=True
        ):
            _classifier_weights(axis, row)
        yield (
            figure,
            "Weights of the classifiers",
            "Ratio of densities w = p / (1 - p), true over generated, of rows that the calibrated "
            "classifier never saw. Generated rows on the left are too many, true rows on the right "
            "are missing. Dashed: two samples of truth. The outer bins hold the overflow.",
        )
    for row in scorecard.rows:
        if "log weights" in row.curves:
            edges, counts = row.curves["log weights"]
            figure = new_figure(5.0, 3.6)
            axis = figure.subplots()
            axis.stairs(counts, edges, fill=True, color=COLOURS["generated"], alpha=0.5)
            axis.set_xlabel("log weight, relative to the mean weight")
            axis.set_ylabel("samples")
            axis.set_title(f"ESS {row.value:.3f}")
            text = "All at zero would be a perfect model. The first bin holds smaller weights too."
            yield figure, "Importance weights", text
        shares = {
            name.removeprefix("class shares "): y
            for name, (_, y) in row.curves.items()
            if name.startswith("class shares")
        }
        if shares:
            yield (
                _bars(shares),
                "Classes",
                "Shares of the classes, as a classifier of labelled samples sees them.",
            )


def _classifier_weights(axis: Any, row: Row) -> None:
    """Draw the histograms of the weights of one classifier."""
    for name, (edges, heights) in row.curves.items():
        whose = "generated" if "generated" in name else "truth"
        is_floor = name.startswith("floor")
        axis.stairs(
            heights,
            edges,
            color=COLOURS[whose],
            linestyle="--" if is_floor else "-",
            alpha=0.6 if is_floor else 1.0,
            label=None if is_floor else name.removeprefix("w of "),
        )
    axis.set_yscale("log")
    axis.axvline(0, color="0.7", linewidth=0.8)
    axis.set_xlabel("log10 w")
    axis.set_ylabel("share of the rows")
    axis.set_title(row.name.partition(", ")[2], fontsize=10)
    axis.legend()


def _bars(shares: Mapping[str, Sequence[float]]) -> Any:
    """Draw the shares of the classes by role, side by side."""
    figure = new_figure(6.4, 3.6)
    axis = figure.subplots()
    width = 0.8 / len(shares)
    for i, (role, heights) in enumerate(shares.items()):
        middle = np.arange(len(heights)) + (i - (len(shares) - 1) / 2) * width
        axis.bar(middle, heights, width, color=COLOURS[role], label=role)
    axis.set_xticks(range(len(next(iter(shares.values())))))
    axis.set_xlabel("class")
    axis.set_ylabel("share of the samples")
    axis.legend()
    return figure


def chains(comparison: Comparison) -> Iterator[tuple[Any, str, str]]:
    """Autocorrelation functions of up to six observables of a chain."""
    measured = comparison.measured["generated"]
    if measured.chain is None:
        return
    series = {}
    for name, values in measured.scalars.items():
        # Of a family an observable is defined in the chains of one condition.
        rows = ~np.isin(measured.chain, measured.chain[~np.isfinite(values)])
        if rows.any() and values[rows].std() > 0:
            series[name] = values[rows], measured.chain[rows]
    if not series:
        return
    figure = new_figure(5.6, 3.8)
    axis = figure.subplots()
    reach = 5
    for name in list(series)[:6]:
        rho = autocorrelation(*series[name])
        below = np.flatnonzero(rho < 0.02)
        reach = max(reach, 2 * int(below[0]) if len(below) else len(rho))
        axis.plot(rho, label=name)
    axis.set_xlim(0, reach)
    axis.axhline(0, color="0.7", linewidth=0.8)
    axis.set_xlabel("distance in the chain [steps]")
    axis.set_ylabel("autocorrelation")
    axis.legend()
    yield figure, "Autocorrelation", "How long the generated chain remembers its observables."


def losses(journal: Path) -> Iterator[tuple[Any, str, str]]:
    """What the journal of a training measured, the losses first.

    What a critic says of data and of generated samples is in one panel, with its optimum: D = 1/2,
    where the loss of the best critic, 2 ln 2 - 2 JS, is 2 ln 2.
    """
    series = read_journal(journal.read_text(encoding="utf-8").splitlines())
    if not series:
        return
    optima = {"D": 0.5, "critic_loss": 2 * math.log(2)} if "D_real" in series else {}
    panels: dict[str, list[str]] = {}
    for name in series:
        panels.setdefault(name.removesuffix("_real").removesuffix("_fake"), []).append(name)
    figure = new_figure(min(4.4 * len(panels), 13.2), 3.6 * -(-len(panels) // 3))
    axes = figure.subplots(-(-len(panels) // 3), min(3, len(panels)), squeeze=False).ravel()
    for axis, (panel, names) in zip(axes, panels.items(), strict=False):
        for name, colour in zip(names, (COLOURS["floor"], COLOURS["generated"]), strict=False):
            axis.plot(*series[name], color=colour, linewidth=1, label=name)
        shown = np.concatenate([series[name][1] for name in names])
        low, high = np.quantile(shown, [0.0, 0.98])
        if panel in optima:
            axis.axhline(optima[panel], color="black", linestyle="--", linewidth=0.8)
            low, high = min(low, optima[panel]), max(high, optima[panel])
        if high > low:
            axis.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        if len(names) > 1:
            axis.legend()
        axis.set_xlabel("step")
        axis.set_ylabel(panel)
    for axis in axes[len(panels) :]:
        axis.remove()
    caption = "The journal of the training; the first, largest losses are cut off."
    if optima:
        caption += (
            " Dashed: where generated samples cannot be told from data, D = 1/2 and a critic's "
            "loss of 2 ln 2; the best critic's loss is 2 ln 2 - 2 JS."
        )
    yield figure, "Training", caption


def read_journal(lines: Iterable[str]) -> dict[str, tuple[Sequence[float], Sequence[float]]]:
    """Return (steps, values) of up to six finite metrics of a journal, the losses first."""
    series: dict[str, tuple[list[float], list[float]]] = {}
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue  # A line torn by a kill: the engine cuts it off on resume.
        for name, value in record.get("metrics", {}).items():
            if isinstance(value, int | float) and math.isfinite(value):
                steps, values = series.setdefault(name, ([], []))
                steps.append(record["step"])
                values.append(value)
    retained = sorted(
        (name for name in series if len(series[name][0]) > 1), key=lambda n: "loss" not in n
    )
    return {name: series[name] for name in retained[:6]}
