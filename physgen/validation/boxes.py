"""Boxes of one or two observables in which one sample has more rows than another.

Each column is cut into bins at round numbers near quantiles, finer in the tails; values that many
rows share have a bin of their own, and so has what is not defined. A box is a range of bins of one
column, or a range of each of two. All of them are looked at, by sums over rectangles of
two-dimensional histograms, those of the most telling pairs of columns again with finer bins. Its
departure is

    z^2 - 2 ln N,    z = (q - p) / sqrt(var q + var p),

p and q being the shares of both samples that lie in the box and N how many boxes of its kind there
are: so a box of two columns must tell more than one of a single column.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy import float64
from numpy.typing import NDArray

Array = NDArray[float64]
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]

TAIL = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03)
"""Contents of the outermost bins, on either side."""

ALONE, FINE, COARSE = 64, 24, 10
"""Bins between the tails: of a single column, of each of two, and where all pairs are looked at."""

NEARER = 6
"""Bins between the tails of the two bins at either end of a range that was found."""

LOOKED_AT_AGAIN = 12
"""Pairs of columns of which finer boxes are looked at."""

SAME = 1e-3
"""Columns whose ranks differ by less, as shares of the rows, say the same."""

COMMON = 0.5
"""A value that fills so much of a bin between the tails has a bin of its own."""

PAIRED_COLUMNS = 32
"""Columns of which pairs are looked at: those that depart most by themselves."""


@dataclass(frozen=True)
class Side:
    """A range of one observable.

    Attributes:
        name: of the observable.
        low, high: values from `low` to below `high`; both NaN for what is not defined.
        unit: of both.

    >>> print(Side("E", 10.0, 20.0, "MeV"), "|", Side("E", -math.inf, 2.0))
    E between 10 and 20 MeV | E below 2
    """

    name: str
    low: float
    high: float
    unit: str = "1"

    def __str__(self) -> str:
        unit = "" if self.unit == "1" else f" {self.unit}"
        if math.isnan(self.low):
            return f"{self.name} not defined"
        if self.high == math.nextafter(self.low, math.inf):
            return f"{self.name} = {self.low:.6g}{unit}"
        # A value that many rows share may lie just beside a range.
        low, high = map(_rounded, (self.low, self.high))
        if math.isinf(self.low) and math.isinf(self.high):
            return f"{self.name} defined"
        if math.isinf(self.low):
            return f"{self.name} below {high}{unit}"
        if math.isinf(self.high):
            return f"{self.name} above {low}{unit}"
        if _follows(self.low):
            return f"{self.name} above {low} and below {high}{unit}"
        return f"{self.name} between {low} and {high}{unit}"

    def holds(self, values: Array) -> Mask:
        """Whether (N,) values are in the range."""
        if math.isnan(self.low):
            return np.asarray(~np.isfinite(values))
        return np.asarray(np.isfinite(values) & (values >= self.low) & (values < self.high))


def _rounded(edge: float) -> str:
    return "0" if abs(edge) < 1e-300 else f"{edge:.6g}"


def _follows(edge: float) -> bool:
    """Whether a number is the next one to a round one."""
    return edge == math.nextafter(float(_rounded(edge)), math.inf)


@dataclass(frozen=True)
class Box:
    """Where all of some ranges hold."""

    sides: tuple[Side, ...]

    def __str__(self) -> str:
        return ", ".join(map(str, self.sides))

    def holds(self, columns: Mapping[str, Array]) -> Mask:
        """Whether rows are in the box."""
        inside = [side.holds(columns[side.name]) for side in self.sides]
        return np.asarray(np.logical_and.reduce(inside))


@dataclass(frozen=True)
class Table:
    """Columns of one sample.

    Attributes:
        columns: (N,) by name.
        weight: (N,) of any sign.
    """

    columns: Mapping[str, Array]
    weight: Array

    def without(self, box: Box) -> Table:
        """Return the rows outside of a box."""
        keep = ~box.holds(self.columns)
        return Table({n: c[keep] for n, c in self.columns.items()}, self.weight[keep])


class Cuts:
    """One column, cut into bins.

    Attributes:
        edges: of the finite bins, from -inf to inf.
        ranges: (R, 2), first and last + 1 of the bins of each range.
    """

    def __init__(self, values: Array, inner: Array) -> None:
        """Cut (N,) values at rising edges between their least and their largest."""
        self.edges = np.concatenate([[-math.inf], inner, [math.inf]])
        n = len(self.edges) - 1
        some = [(i, j) for i in range(n) for j in range(i + 1, n + 1) if (i, j) != (0, n)]
        self.n = n + 1  # The last one is of what is not defined.
        if not np.isfinite(values).all():
            some += [(0, n), (n, n + 1)]
        self.ranges = np.array(some, dtype=np.int64).reshape(-1, 2)

    @classmethod
    def at_quantiles(cls, values: Array, n_bins: int) -> Cuts:
        """Cut at quantiles, into so many bins between the tails."""
        return cls(values, _edges(np.sort(values[np.isfinite(values)]), n_bins))

    def about(self, values: Array, side: Side) -> Cuts:
        """Return finer cuts about the ends of a range."""
        edges = []
        for end in (side.low, side.high):
            if math.isfinite(end):
                at = int(np.searchsorted(self.edges, end))
                low, high = self.edges[at - 1], self.edges[at + 1]
                near = np.sort(values[(values >= low) & (values < high)])
                edges += [*_edges(near, NEARER), end]
        return Cuts(values, np.unique(edges))

    def bins(self, values: Array) -> Rows:
        """Return (N,) numbers of bins."""
        place = np.searchsorted(self.edges[1:-1], values, side="right")
        return np.where(np.isfinite(values), place, self.n - 1)

    def side(self, name: str, unit: str, index: int) -> Side:
        """Return a range as it is written."""
        first, last = self.ranges[index]
        if first == self.n - 1:
            return Side(name, math.nan, math.nan, unit)
        return Side(name, float(self.edges[first]), float(self.edges[last]), unit)


def _edges(finite: Array, n_bins: int) -> Array:
    """Return the inner edges of bins of sorted values, of equal content between the tails."""
    if not len(finite) or finite[0] == finite[-1]:
        return np.empty(0)
    middle = np.linspace(TAIL[-1], 1 - TAIL[-1], n_bins + 1)
    shares = np.unique(np.concatenate([TAIL, middle, 1 - np.array(TAIL)]))
    quantiles = finite[np.minimum((shares * len(finite)).astype(int), len(finite) - 1)]
    if np.array_equal(finite, np.round(finite)):
        steps = np.unique(np.concatenate([quantiles - 0.5, quantiles + 0.5]))
        return np.asarray(steps[(steps > finite[0]) & (steps < finite[-1])])
    quantiles = np.unique(quantiles)
    first = np.searchsorted(finite, quantiles, side="left")
    times = np.searchsorted(finite, quantiles, side="right") - first
    common = quantiles[times > COMMON * len(finite) / n_bins]
    rest = np.setdiff1d(quantiles, common)
    if len(rest) > 1:
        gaps = np.diff(rest)
        near = np.minimum(np.append(gaps, gaps[-1]), np.insert(gaps, 0, gaps[0]))
        # Decimal places that move an edge by a tenth of a bin at most.
        places = -np.floor(np.log10(near / 5)).astype(int)
        rest = np.array([round(x, n) for x, n in zip(rest.tolist(), places.tolist(), strict=True)])
    exact = np.concatenate([common, np.nextafter(common, math.inf)])
    edges = np.unique(np.concatenate([rest, exact]))
    return np.asarray(edges[(edges > finite[0]) & (edges <= finite[-1])])


def farthest(truth: Table, other: Table, units: Mapping[str, str]) -> tuple[Box, float] | None:
    """Return the box in which another sample departs most from the truth, and its departure.

    `None` where no column can be cut.
    """
    both = {n: np.concatenate([truth.columns[n], other.columns[n]]) for n in truth.columns}
    both = {name: both[name] for name in _different(both)}
    scan = _Scan(both, np.concatenate([-_normed(truth.weight), _normed(other.weight)]), units)
    singles = sorted((scan.best((name,), ALONE) for name in both), key=_departure, reverse=True)
    chosen = [side.name for _, box in singles[:PAIRED_COLUMNS] for side in box.sides]
    pairs = list(combinations(chosen, 2))
    coarse = [(scan.best(pair, COARSE, len(pairs)), pair) for pair in pairs]
    coarse.sort(key=lambda one: one[0][0], reverse=True)
    again = [scan.best(pair, FINE, len(pairs)) for _, pair in coarse[:LOOKED_AT_AGAIN]]
    found = [one for one in (*singles, *again) if one[1].sides]
    if not found:
        return None
    departure, box = max(found, key=_departure)
    bins, times = (ALONE, 1) if len(box.sides) == 1 else (FINE, len(pairs))
    nearer = scan.nearer(box, bins, times)
    return (nearer[1], nearer[0]) if nearer[0] > departure else (box, departure)


Found = tuple[float, Box]


def _departure(found: Found) -> float:
    return found[0]


def _different(columns: Mapping[str, Array]) -> list[str]:
    """Return the names of the columns that are no rising function of an earlier one."""
    ranks: dict[str, Array] = {}
    for name, values in columns.items():
        order = np.argsort(values, kind="stable")
        rank = np.empty(len(values))
        rank[order] = np.arange(len(values))
        # Of equal values the first one counts.
        first = np.flatnonzero(np.insert(values[order][1:] != values[order][:-1], 0, True))
        rank[order] = np.repeat(first, np.diff(np.append(first, len(values))))
        near = (np.abs(rank - other).max() for other in ranks.values())
        if all(distance > SAME * len(values) for distance in near):
            ranks[name] = rank
    return list(ranks)


class _Scan:
    """All boxes of some columns of two samples, (N,) shares of one being negative."""

    def __init__(
        self, columns: Mapping[str, Array], share: Array, units: Mapping[str, str]
    ) -> None:
        self.columns, self.share, self.units = columns, share, units
        self._cut: dict[tuple[str, int], Cuts] = {}

    def _cuts(self, name: str, n_bins: int) -> Cuts:
        if (name, n_bins) not in self._cut:
            self._cut[name, n_bins] = Cuts.at_quantiles(self.columns[name], n_bins)
        return self._cut[name, n_bins]

    def best(self, names: tuple[str, ...], n_bins: int, times: int = 1) -> Found:
        """Return the box of some columns that departs most.

        Args:
            names: of the columns.
            n_bins: of each, between the tails.
            times: how many such choices of columns there are.
        """
        cuts = [self._cuts(name, n_bins) for name in names]
        n_boxes = times * math.prod(len(one.ranges) for one in cuts)
        if not n_boxes:
            return -math.inf, Box(())
        return self._best(names, cuts, n_boxes)

    def nearer(self, box: Box, n_bins: int, times: int = 1) -> Found:
        """Return the box with ends near those of another one that departs most; as in `best`."""
        names = tuple(side.name for side in box.sides)
        cuts = [self._cuts(name, n_bins) for name in names]
        n_boxes = times * math.prod(len(one.ranges) for one in cuts)
        sides = zip(cuts, box.sides, strict=True)
        finer = [one.about(self.columns[side.name], side) for one, side in sides]
        if not all(len(one.ranges) for one in finer):
            return -math.inf, box
        return self._best(names, finer, n_boxes)

    def _best(self, names: tuple[str, ...], cuts: Sequence[Cuts], n_boxes: int) -> Found:
        places = [one.bins(self.columns[name]) for name, one in zip(names, cuts, strict=True)]
        z = _departures(_sums(self.share, places, cuts), n_boxes)
        best = int(np.argmax(z))
        indices = np.unravel_index(best, [len(one.ranges) for one in cuts])
        parts = zip(names, cuts, indices, strict=True)
        sides = (one.side(name, self.units[name], int(i)) for name, one, i in parts)
        return float(z[best]), Box(tuple(sides))


def _normed(weight: Array) -> Array:
    return np.asarray(weight / weight.sum())


def _sums(share: Array, places: Sequence[Rows], cuts: Sequence[Cuts]) -> Iterator[Array]:
    """Yield (boxes,) sums of the shares in each box, and of their squares."""
    sizes = [one.n for one in cuts]
    flat = np.ravel_multi_index(tuple(places), sizes)
    for values in (share, share**2):
        counts: Array = np.bincount(flat, values, math.prod(sizes)).astype(float64).reshape(sizes)
        for axis, one in enumerate(cuts):
            total = np.insert(np.cumsum(counts, axis), 0, 0.0, axis)
            first, last = one.ranges.T
            counts = total.take(last, axis) - total.take(first, axis)
        yield counts.ravel()


def _departures(sums: Iterator[Array], n_boxes: int) -> Array:
    difference, variance = sums
    known = variance > 0
    z2 = difference**2 / np.where(known, variance, 1.0)
    return np.where(known, z2, 0.0) - 2 * math.log(n_boxes)
