"""Panels of distributions and profiles: curves with errors above, their ratios to the first below.

Histograms are in the bins of `distances.bin_edges`, with bands of the statistical errors of the
shares p of all rows: with weights w and d = 1 in the bin and 0 elsewhere, those of the sum of
w (d - p) / sum w, terms of one unit being summed before they are squared; of Markov chains, those
of the Gamma-method for the mean of d.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from physgen.validation.comparison import Measured
from physgen.validation.uncertainty import Estimate, gamma_method

Array = NDArray[float64]
Rows = NDArray[np.int64]
RATIO, PROFILE_RATIO = (0.5, 1.5), (0.8, 1.2)
"""Ratios to the truth that are shown, of histograms and of profiles; triangles mark others."""

STRETCHES = 5000
"""So many, at least, of long Markov chains: errors of histograms need no more."""

Bars = tuple[Array, Array]
"""(bins,) values and their errors."""


@dataclass(frozen=True)
class Drawn:
    """A histogram or a profile of one sample.

    Attributes:
        label: of the sample.
        bars: (bins,) values and errors.
        colour: as matplotlib knows it.
        dashed: drawn so, without error bars.
    """

    label: str
    bars: Bars
    colour: str
    dashed: bool = False

    @property
    def values(self) -> Array:
        """(bins,)."""
        return self.bars[0]

    @property
    def errors(self) -> Array:
        """(bins,)."""
        return self.bars[1]


def density(measured: Measured, name: str, edges: Array) -> Bars:
    """Return (bins,) densities and errors; what lies outside the edges is in the outer bins."""
    values = measured.values[name]
    keep = np.isfinite(values)
    n_bins = len(edges) - 1
    weight = np.ones(len(values)) if measured.weight is None else measured.weight
    weight = weight[keep] / weight[keep].sum()
    number = np.searchsorted(edges, values[keep], side="right").clip(1, n_bins) - 1
    shares: Array = np.bincount(number, weight, n_bins).astype(float64)
    if measured.chain is not None:
        errors = _errors_of_chains(number, weight, measured.chain[keep], n_bins)
    else:
        group = None if measured.group is None else measured.group[keep]
        errors = np.sqrt(np.maximum(_variances(number, weight, group, shares), 0.0))
    return shares / np.diff(edges), errors / np.diff(edges)


def _errors_of_chains(number: Rows, weight: Array, chain: Rows, n_bins: int) -> Array:
    """Return (bins,) errors of shares; long chains are added up over stretches, which is faster."""
    order = np.argsort(chain, kind="stable")
    begins = np.unique(chain[order], return_index=True)[1]
    lengths = np.diff(np.append(begins, len(order)))
    length = max(1, min(len(order) // STRETCHES, int(lengths.max()) // 50))
    if length > 1 and weight.min() > 0:
        place = (np.arange(len(order)) - np.repeat(begins, lengths)) // length
        first = np.append(True, (place[1:] != place[:-1]) | (np.diff(chain[order]) != 0))
        starts = np.flatnonzero(first)
        stretch = np.empty(len(order), dtype=np.int64)
        stretch[order] = np.cumsum(first) - 1
        chain = chain[order][starts]
    else:
        stretch = np.arange(len(number))
    total = np.bincount(stretch, weight)
    errors = np.zeros(n_bins)
    for k in np.unique(number):
        inside = np.bincount(stretch, weight * (number == k), len(total))
        share = np.divide(inside, total, out=np.zeros_like(total), where=total != 0)
        errors[k] = gamma_method(share, chain=chain, weight=total).error
    return errors


def _variances(number: Rows, weight: Array, group: Rows | None, shares: Array) -> Array:
    """Return (bins,), sum over units of (sum of w (d - p) over the unit's rows)^2.

    Args:
        number: (N,) bin of each row.
        weight: (N,), of unit sum.
        group: (N,) keys of the units, or `None`.
        shares: (bins,), p.
    """
    n_bins = len(shares)
    units = np.arange(len(number)) if group is None else np.unique(group, return_inverse=True)[1]
    total = np.bincount(units, weight)  # of each unit
    # Weights of each unit in each of the bins that it fills.
    filled, place = np.unique(units * n_bins + number, return_inverse=True)
    inside, bins, unit = np.bincount(place, weight), filled % n_bins, filled // n_bins
    squares = np.bincount(bins, inside**2, n_bins)
    products = np.bincount(bins, inside * total[unit], n_bins)
    return np.asarray(squares - 2 * shares * products + shares**2 * (total @ total))


def means(bins: Sequence[Estimate]) -> Bars:
    """Return the means of a profile and their errors."""
    return np.array([one.value for one in bins]), np.array([one.error for one in bins])


def histogram(cell: Any, drawn: Sequence[Drawn], edges: Array, label: str) -> None:
    """Draw histograms into a subfigure, and the ratios of all others to the first below.

    Args:
        cell: the subfigure.
        drawn: samples, the truth first; a lone one has no ratio.
        edges: (bins + 1,).
        label: of the horizontal axis.
    """
    import mplhep

    two = len(drawn) > 1
    axes = cell.subplots(
        2 if two else 1,
        1,
        sharex=True,
        squeeze=False,
        gridspec_kw={"height_ratios": [3, 1], "hspace": 0.13} if two else {},
    )[:, 0]
    cell.subplots_adjust(left=0.17, right=0.97, bottom=0.16, top=0.94)
    for i, one in enumerate(drawn):
        mplhep.histplot(
            one.values,
            edges,
            yerr=None if one.dashed or (two and i == 0) else one.errors,
            ax=axes[0],
            label=one.label,
            color=one.colour,
            linestyle="--" if one.dashed else "-",
            linewidth=1.3,
        )
        axes[0].stairs(
            one.values + one.errors,
            edges,
            baseline=one.values - one.errors,
            fill=True,
            color=one.colour,
            alpha=0.2,
            linewidth=0,
        )
    axes[0].set_ylabel("density")
    last = drawn[-1].values
    positive = last[last > 0]
    if len(positive) and positive.max() > 300 * np.median(positive):
        axes[0].set_yscale("log")
        # Error bands of single entries end a little below the entry, or below zero.
        axes[0].set_ylim(bottom=0.3 * least_entry(drawn))
    else:
        axes[0].set_ylim(bottom=0)
    axes[0].margins(x=0)
    axes[0].legend(loc="best")
    axes[-1].set_xlabel(label)
    if two:
        _ratios(axes[1], drawn, edges)
        cell.align_ylabels(axes)


def least_entry(drawn: Sequence[Drawn]) -> float:
    """Return the least positive value of all that are drawn."""
    return float(min(one.values[one.values > 0].min(initial=np.inf) for one in drawn))


def _ratios(axis: Any, drawn: Sequence[Drawn], edges: Array) -> None:
    truth = drawn[0]
    safe = np.where(truth.values > 0, truth.values, np.nan)
    band = truth.errors / safe
    axis.stairs(1 + band, edges, baseline=1 - band, fill=True, color="0.8")
    axis.axhline(1, color="black", linewidth=0.8)
    centres = (edges[1:] + edges[:-1]) / 2
    for one in drawn[1:]:
        axis.errorbar(
            centres,
            one.values / safe,
            one.errors / safe,
            fmt="_" if one.dashed else "o",
            color=one.colour,
            markersize=2.5,
            linewidth=0.8,
        )
        _mark_outside(axis, centres, one.values / safe, RATIO, one.colour)
    axis.set_ylim(*RATIO)
    axis.set_ylabel("ratio")
    axis.margins(x=0)


def _mark_outside(
    axis: Any, x: Array, ratio: Array, shown: tuple[float, float], colour: str
) -> None:
    """Draw a triangle at the edge that a ratio lies beyond, pointing to where it is."""
    for beyond, edge, marker in (
        (ratio < shown[0], shown[0], "v"),
        (ratio > shown[1], shown[1], "^"),
    ):
        if beyond.any():
            places = np.full(int(beyond.sum()), edge)
            axis.plot(
                x[beyond], places, marker, color=colour, markersize=3.5, clip_on=False, zorder=3
            )


def profile(figure: Any, drawn: Sequence[Drawn], label: str) -> None:
    """Draw means bin by bin, the truth first, and their ratios to it below."""
    axes = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [3, 1], "hspace": 0.13})
    reference = drawn[0].values
    bins = np.arange(1.0, len(reference) + 1)
    safe = np.where(reference != 0, reference, np.nan)
    for i, one in enumerate(drawn):
        style = {"fmt": "o-" if i == 0 else "s--", "color": one.colour, "linewidth": 1}
        axes[0].errorbar(bins, one.values, one.errors, label=one.label, **style)
        axes[1].errorbar(bins, one.values / safe, one.errors / np.abs(safe), **style)
        _mark_outside(axes[1], bins, one.values / safe, PROFILE_RATIO, one.colour)
    axes[0].set_ylabel(f"mean of {label}")
    if np.nanmin(reference) > 0 and np.nanmax(reference) > 100 * np.nanmin(reference):
        axes[0].set_yscale("log")
    elif np.nanmin(reference) >= 0:
        axes[0].set_ylim(bottom=0)
    axes[0].legend()
    axes[1].set_ylim(*PROFILE_RATIO)
    axes[1].set_xlabel("bin")
    axes[1].set_ylabel("ratio")


def matrix(
    figure: Any, axis: Any, values: Array, bound: float, names: Sequence[str], title: str
) -> None:
    """Draw a (F, F) matrix of correlations, or of differences of them, on -bound to bound."""
    image = axis.imshow(values, cmap="RdBu_r", vmin=-bound, vmax=bound)
    axis.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.minorticks_off()
    axis.tick_params(length=0, top=False, right=False)
    axis.set_title(title)
    figure.colorbar(image, ax=axis, label="correlation", shrink=0.8)
