"""Values that repeat in the truth: are generated ones among those that there can be?

A column of the truth may lie on a grid (integers, multiples of 0.1: see `physgen.grids`), of which
most points are taken; then a value that is beside it cannot be, while a point of the grid that was
never seen may be in a tail. Or it consists of values that repeat and leave most of their range
empty (codes, positions of sensors); then what lies between them and is none of them cannot be. What
is in the truth but not in its second sample says how often this happens by chance: given all rows
with such values, those among the generated ones are binomial.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy import float64
from numpy.typing import NDArray
from scipy.special import bdtrc

from physgen.grids import ROUNDED, Grid, grid_of, occupied, resolution
from physgen.transforms.distribution import repeated
from physgen.validation.comparison import Comparison, Measured
from physgen.validation.scorecard import ALARM, Row

Floats = NDArray[float64]

APART = 128
"""So many values that repeat far more often than others (zeros, sentinels) may be off the grid."""
MOSTLY = 0.9
"""Where at least this share of rows have the value of another row, it may be one of a set."""
OFF_GRID = 0.01
"""How far beside a grid a value is off it, in steps."""
SHOWN = 3
"""So many columns are named."""


@dataclass(frozen=True)
class _Column:
    """A column of which some values cannot be.

    Attributes:
        name: of the column.
        fault: what the true values are, and the others are not.
        shares: of such values among the generated ones, and in the second sample of the truth.
        p_value: of the hypothesis that they are equally frequent in both.
    """

    name: str
    fault: str
    shares: tuple[float, float]
    p_value: float


def repeats(comparison: Comparison) -> list[Row]:
    """Return one row, about the worst column of repeated values; none where there is none."""
    measured = comparison.measured
    if not {"truth", "floor", "generated"} <= measured.keys():
        return []
    names = [name for name in measured["truth"].scalars if name in measured["generated"].values]
    columns = [column for name in names if (column := _column(comparison, name)) is not None]
    if not columns:
        return []
    columns.sort(key=lambda column: (column.p_value, -column.shares[0]))
    worst = columns[0]
    # The least of several p-values.
    wrong = [column for column in columns if column.p_value * len(columns) < ALARM]
    faults = ", ".join(f"{c.shares[0]:.2%} of {c.name} {c.fault}" for c in wrong[:SHOWN])
    more = f" and so on in {len(wrong) - SHOWN} more columns" if len(wrong) > SHOWN else ""
    return [
        Row(
            name="values that cannot be",
            metric="values",
            value=worst.shares[0],
            floor=worst.shares[1],
            p_value=min(1.0, worst.p_value * len(columns)),
            note=f"{worst.name}, of {len(columns)} columns of values that repeat in the truth",
            warning=f"{faults}{more}: round them, or let transform gaussianise keep them"
            if wrong
            else "",
        )
    ]


def _column(comparison: Comparison, name: str) -> _Column | None:
    """Return what is found in a column, `None` if its values do not repeat."""
    truth, floor, ours = (comparison.measured[role] for role in ("truth", "floor", "generated"))
    column = truth.values[name]
    values, counts = np.unique(column[np.isfinite(column)], return_counts=True)
    if not len(values):
        return None
    apart = repeated(counts, APART)
    rest, times = values[~apart], counts[~apart]
    grid = grid_of(rest, times)
    if grid is not None and occupied(grid.numbers(rest)):
        known, fault = values[apart], f"are off the grid of the true values ({grid})"
    elif times[times > 1].sum() >= MOSTLY * times.sum():
        if any(one.chain is not None for one in (truth, floor, ours)):
            return None
        grid, known = None, values
        fault = f"are none of the {len(values)} values that true ones have"
    else:
        return None
    off = 0.0 if grid is None else 2 * float(np.abs(grid.nearest(rest) - rest).max())
    (n, wrong), (m, usual) = (
        _counted(one, _impossible(one.values[name], known, grid, off), alone=grid is None)
        for one in (ours, floor)
    )
    p_value = float(bdtrc(round(wrong) - 1, round(wrong) + round(usual), min(n / (n + m), 0.9)))
    return _Column(name, fault, (wrong / n, usual / m), p_value)


def _impossible(x: Floats, known: Floats, grid: Grid | None, off: float) -> NDArray[np.bool_]:
    """Whether values (N,) cannot be; those that are not defined are not asked.

    Args:
        x: the values.
        known: rising values that there can be; between which there are no others without a grid.
        grid: on which there are others.
        off: how far beside the grid true values are, by rounding.
    """
    unknown = _unknown(x, known)
    if grid is None:
        return np.asarray(unknown & (x > known[0]) & (x < known[-1]))
    # A file of single precision may stand beside a truth of double precision.
    rounding = np.maximum(ROUNDED * resolution(x), max(off, OFF_GRID * grid.spacing))
    return np.asarray(unknown & (np.abs(x - grid.nearest(x)) > rounding))


def _unknown(x: Floats, values: Floats) -> NDArray[np.bool_]:
    """Whether finite values (N,) are none of some rising ones, but for rounding."""
    unknown = np.isfinite(x)
    if not len(values):
        return unknown
    above = np.searchsorted(values, x).clip(max=len(values) - 1)
    own, known = resolution(x), resolution(values)
    for i in (above, (above - 1).clip(min=0)):
        unknown &= np.abs(x - values[i]) > ROUNDED * np.maximum(own, known[i])
    return unknown


def _counted(
    measured: Measured, impossible: NDArray[np.bool_], *, alone: bool
) -> tuple[float, float]:
    """Return how many rows count, and how many of them are impossible, in effective numbers.

    Args:
        measured: whose rows they are.
        impossible: (N,) which ones are.
        alone: whether rows of one group, which may share a value, count as one row.
    """
    weight = np.ones(measured.n) if measured.weight is None else np.abs(measured.weight)
    if alone and measured.group is not None:
        first = np.unique(measured.group, return_index=True)[1]
        weight, impossible = weight[first], impossible[first]
    total = max(float(weight.sum()), np.finfo(float).tiny)
    n = total**2 / max(float(np.square(weight).sum()), np.finfo(float).tiny)
    return n, n * float(weight[impossible].sum()) / total
