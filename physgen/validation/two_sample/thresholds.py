"""Differences of distribution functions at thresholds: of every observable, and of projections.

With c_k the difference of the shares below threshold k and F_k the pooled share, the statistics are
KS max |c|, Anderson-Darling sum c^2 / F (1 - F), the scan max c^2 / F (1 - F), which sees a narrow
tail that KS does not, and the Wasserstein distance, sum |c_k| (x_{k+1} - x_k), averaged over random
projections (sliced; Bonneel et al., J. Math. Imaging Vis. 51 (2015) 22).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from physgen.validation.two_sample.pool import Family, Pool

Array = NDArray[float64]

N_BINS = 40
"""Bins of equal content of an observable, besides thresholds in both tails."""

PROJECTIONS, PROJECTED_BINS = 32, 32

CELLS = 2**19
"""Differences whose squares are held at once."""

FEWEST = 8
"""Rows that must lie on each side of a threshold: of fewer nothing can be told."""


@dataclass(frozen=True)
class _Cuts:
    """Thresholds of several columns, those of a column in a row.

    Attributes:
        edges: (K,) thresholds.
        below: (K,), shares of the pooled rows at or below.
        gaps: (K,), from each threshold to the next of its column.
        begins: (columns,), the first of each column.
        columns: (K,), the column of each.
    """

    edges: Array
    below: Array
    gaps: Array
    begins: NDArray[np.int64]
    columns: NDArray[np.int64]

    def by_column(self, function: np.ufunc, values: Array) -> Array:
        """Reduce (n, K) numbers to (n, columns)."""
        return np.asarray(function.reduceat(values, self.begins, axis=1))

    def squares(self, difference: Array) -> Array:
        """Return (n, K), c^2 / F (1 - F)."""
        return np.asarray(difference**2 / (self.below * (1 - self.below)))


def _cut(
    columns: list[Array], pool: Pool, n_bins: int, *, tails: bool
) -> tuple[_Cuts, NDArray[np.floating[Any]]] | None:
    """Return the thresholds of (N,) columns, and the sums by block of what lies at or below.

    What is not defined lies above all. Columns without any threshold are left out.
    """
    fewest = max(FEWEST, math.ceil(pool.least_share * len(pool.labels)))
    found = {
        number: edges
        for number, column in enumerate(columns)
        if len((edges := _edges(_above(column), n_bins, fewest, tails=tails))[0])
    }
    if not found:
        return None
    at, shares, gaps = (np.concatenate(parts) for parts in zip(*found.values(), strict=True))
    sizes = [len(edges[0]) for edges in found.values()]
    begins = np.cumsum([0, *sizes[:-1]])
    cuts = _Cuts(at, shares, gaps, begins, np.repeat(list(found), sizes))
    relabelling = pool.relabelling
    # Filled where they stay: of some hundred columns they are the largest array there is.
    sums = np.empty((relabelling.blocks, len(at)), relabelling.counts_type)
    for number, begin, size in zip(found, begins, sizes, strict=True):
        bins = np.searchsorted(at[begin : begin + size], _above(columns[number]), side="left")
        counts = relabelling.counts(bins, size + 1)
        sums[:, begin : begin + size] = counts.cumsum(1)[:, :-1]
    return cuts, sums


def _above(column: Array) -> Array:
    """Return the values of a column, those that are not defined above all others."""
    return np.where(np.isfinite(column), column, np.inf)


def _edges(x: Array, n_bins: int, fewest: int, *, tails: bool) -> tuple[Array, Array, Array]:
    """Return thresholds at quantiles, the share of the values up to each, and gaps above each."""
    n = len(x)
    shares = np.arange(1, n_bins) / n_bins
    if tails:
        far = 10 * 2.0 ** np.arange(20)
        far = far[far < n / n_bins] / n
        shares = np.sort(np.concatenate([far, shares, 1 - far]))
    ordered = np.sort(x)
    at = np.unique(ordered[(shares * n).astype(np.int64)])
    finite = ordered[np.isfinite(ordered)]
    if 0 < len(finite) < n:
        at = np.unique(np.append(at, finite[-1]))
    below = np.searchsorted(ordered, at, side="right")
    usable = np.isfinite(at) & (below >= fewest) & (n - below >= fewest)
    at, below = at[usable], below[usable]
    # The last gap ends at the next value there is, of few values the next of them.
    end = finite[np.minimum(below[-1:], len(finite) - 1)]
    return at, below / n, np.diff(at, append=end)


def of_observables(pool: Pool) -> Family | None:
    """Return KS, Anderson-Darling and scans of observables, conditions and residuals."""
    names = [*pool.names, *pool.condition_names]
    columns = [*pool.values.T, *pool.conditions.T, *pool.residuals.T]
    if pool.residuals.shape[1]:
        about = " and ".join(pool.condition_names)
        names += [f"{name} given {about}" for name in pool.names]
    cut = _cut(columns, pool, N_BINS, tails=True)
    if cut is None:
        return None
    cuts, sums = cut
    count = np.diff(cuts.begins, append=len(cuts.edges))

    def of_rows(difference: Array) -> Array:
        scan = cuts.squares(difference)
        largest = cuts.by_column(np.maximum, difference**2)
        area = cuts.by_column(np.add, scan) / count
        return np.stack(
            [
                largest.max(1),
                np.sqrt(largest).mean(1) ** 2,
                scan.max(1),
                area.max(1),
                area.mean(1),
            ],
            1,
        )

    def statistics(difference: Array) -> Array:
        size = max(1, CELLS // len(cuts.edges))
        return np.concatenate(
            [of_rows(difference[i : i + size]) for i in range(0, len(difference), size)]
        )

    def causes(truth: Array, generated: Array) -> list[str]:
        difference = (truth - generated)[None]
        scan = cuts.squares(difference)[0]
        of_column = cuts.by_column(np.add, scan[None])[0] / count
        worst = int(of_column.argmax())
        inside = slice(cuts.begins[worst], cuts.begins[worst] + count[worst])
        in_area = cuts.begins[worst] + int(scan[inside].argmax())
        by_ks, by_scan = int(np.abs(difference[0]).argmax()), int(scan.argmax())

        def cause(k: int) -> str:
            name, edge = names[cuts.columns[k]], cuts.edges[k]
            shares = [generated[k], truth[k]]
            side = "at or below"
            if cuts.below[k] > 0.5:
                side, shares = "above", [1 - share for share in shares]
            percent = [f"{100 * share:.3g}%" for share in shares]
            return (
                f"{name} {side} {edge:.4g}: {percent[0]} of the generated, {percent[1]} of the true"
            )

        return [cause(k) for k in (by_ks, by_ks, by_scan, in_area, in_area)]

    return Family(
        ("KS", "mean KS", "scan", "Anderson-Darling", "mean Anderson-Darling"),
        sums,
        statistics,
        causes,
    )


def of_projections(
    name: str, rows: Array, pool: Pool, generator: np.random.Generator
) -> Family | None:
    """Return sliced Wasserstein and sliced KS of (N, D) rows; `None` if too few rows differ."""
    directions = generator.normal(size=(rows.shape[1], PROJECTIONS))
    directions /= np.linalg.norm(directions, axis=0)
    projected = list((rows @ directions).T)
    cut = _cut(projected, pool, PROJECTED_BINS, tails=False)
    if cut is None:
        return None
    cuts, sums = cut

    def statistics(difference: Array) -> Array:
        size = np.abs(difference)
        distance = cuts.by_column(np.add, size * cuts.gaps).mean(1)
        return np.stack([distance**2, cuts.by_column(np.maximum, size).mean(1) ** 2], 1)

    def causes(truth: Array, generated: Array) -> list[str]:
        return [f"projections of all {name} observables"] * 2

    return Family((f"sliced W, {name}", f"sliced KS, {name}"), sums, statistics, causes)
