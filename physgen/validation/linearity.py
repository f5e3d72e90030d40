"""Response, resolution and AUC against the condition, from the rows of `condition-bins`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from physgen.validation.canvas import COLOURS, new_figure
from physgen.validation.scorecard import Row, Scorecard

LEFT_OUT = ", left out of training"
_KINDS = ("response", "resolution", "AUC")


def drawn(scorecard: Scorecard) -> Iterator[tuple[Any, str, str]]:
    """Draw a panel for each of the three, where a scorecard has them."""
    rows = [r for r in scorecard.rows if r.metric == "condition-bins" and "bin" in r.curves]
    panels = {kind: [row for row in rows if row.name.startswith(f"{kind} at ")] for kind in _KINDS}
    panels = {kind: found for kind, found in panels.items() if found}
    if not panels:
        return
    figure = new_figure(5.6, 2.4 * len(panels) + 0.6)
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (kind, found) in zip(axes, panels.items(), strict=True):
        _panel(axis, found)
        axis.set_ylabel(kind)
    about = rows[0].name.split(" at ")[1].split(" ")[0]
    axes[-1].set_xlabel(about)
    ends = np.array([row.curves["bin"][0] for row in rows])
    if ends.min() > 0 and ends.max() > 10 * ends.min():
        axes[-1].set_xscale("log")
    axes[0].legend()
    yield (
        figure,
        f"Response against {about}",
        f"Linearity, resolution and AUC in bins of {about}; shaded is what training never saw.",
    )


def _panel(axis: Any, rows: list[Row]) -> None:
    ends = np.array([row.curves["bin"][0] for row in rows])
    middle, half = ends.mean(1), (ends[:, 1] - ends[:, 0]) / 2
    for row, (low, high) in zip(rows, ends.tolist(), strict=True):
        if row.name.endswith(LEFT_OUT):
            axis.axvspan(low, high, color="0.9", linewidth=0)
    shown = {
        "truth": [(row.exact, row.exact_error) for row in rows],
        "generated": [(row.value, row.error) for row in rows],
    }
    if rows[0].exact is None:
        shown = {"floor": [(row.floor, row.floor_error) for row in rows]} | {
            "generated": shown["generated"]
        }
    for role, pairs in shown.items():
        values, errors = np.array(pairs, dtype=float).T
        axis.errorbar(
            middle, values, errors, half, fmt="o", color=COLOURS[role], label=role, linewidth=1
        )
