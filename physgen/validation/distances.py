"""Distances between two weighted samples, and how large they are by chance.

With cumulative distributions F, G and histograms p, q of unit sum:

    W1  = int |F(x) - G(x)| dx                     (Wasserstein, in the unit of x; exact in 1D)
    KS  = max_x |F(x) - G(x)|                      (Kolmogorov-Smirnov)
    S   = 1/2 sum_bins (p - q)^2 / (p + q)         (separation power; CaloChallenge, 2410.21611)

Weights are normalised to a mean of one within each sample and may be negative. p-values are those
of `physgen.validation.permutation`: exact for rows without weights, asymptotic for others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy import float64
from numpy.typing import ArrayLike, NDArray

from physgen.errors import DomainError
from physgen.validation.permutation import MOST, Relabelling

Array = NDArray[float64]
FINE = 200
"""Bins in which W1 and KS are resampled."""


@dataclass(frozen=True)
class Distances:
    """The one-dimensional distances of two samples, one number each."""

    wasserstein: float
    kolmogorov_smirnov: float
    separation: float


@dataclass(frozen=True)
class Resampled:
    """One-dimensional distances under relabelling and bootstrap.

    Attributes:
        p_value: of the hypothesis of one common distribution; `None` where it was not tested.
        error: standard deviation under resampling of both samples.
        exact: whether the p-values are exact, or asymptotic (weights, groups).
    """

    p_value: Distances | None
    error: Distances
    exact: bool


def wasserstein(
    a: ArrayLike, b: ArrayLike, weight_a: ArrayLike | None = None, weight_b: ArrayLike | None = None
) -> float:
    """Return W1 of two (N,), (M,) samples, in their unit."""
    return compare(a, b, weight_a, weight_b).wasserstein


def kolmogorov_smirnov(
    a: ArrayLike, b: ArrayLike, weight_a: ArrayLike | None = None, weight_b: ArrayLike | None = None
) -> float:
    """Return the largest difference of the two cumulative distributions."""
    return compare(a, b, weight_a, weight_b).kolmogorov_smirnov


def separation_power(
    a: ArrayLike,
    b: ArrayLike,
    weight_a: ArrayLike | None = None,
    weight_b: ArrayLike | None = None,
    *,
    edges: ArrayLike | None = None,
) -> float:
    """Return S in [0, 1], in the bins of `edges` (by default `bin_edges(a)`), overflow included."""
    return compare(a, b, weight_a, weight_b, edges=edges).separation


def compare(
    a: ArrayLike,
    b: ArrayLike,
    weight_a: ArrayLike | None = None,
    weight_b: ArrayLike | None = None,
    *,
    edges: ArrayLike | None = None,
) -> Distances:
    """Return all three distances of two (N,), (M,) samples; `a` is the truth that sets the bins."""
    return _Pool(a, b, weight_a, weight_b, edges).distances()


def resample(
    a: ArrayLike,
    b: ArrayLike,
    weight_a: ArrayLike | None = None,
    weight_b: ArrayLike | None = None,
    *,
    seed: int,
    group_a: ArrayLike | None = None,
    group_b: ArrayLike | None = None,
    tested: bool = True,
    n_bootstraps: int = 50,
) -> Resampled:
    """Return p-values and bootstrap errors of the three distances.

    Both are those of the distances between histograms in `FINE` bins of equal pooled content (the
    values themselves, where they are fewer), the separation power in `bin_edges` of the pooled
    values, its p-value that of sum (p - q)^2 / pooled share. Rows that share a key of `group_a` or
    `group_b`, (N,) and (M,), stay together. Where no relabelling reaches what was observed, the
    p-value is a bound: the statistic can only be as large as it is if |F - G|, or |p - q|, is large
    at one threshold at least. `tested` says whether p-values are asked for.
    """
    first, second = _finite(a, weight_a, "first"), _finite(b, weight_b, "second")
    relabelling = Relabelling(
        len(first[0]),
        len(second[0]),
        weights=(first[1], second[1]),
        groups=(_keys(group_a, a), _keys(group_b, b)),
        seed=seed,
    )
    values = np.concatenate([first[0], second[0]])
    bins = _Bins.of(values)
    sums = relabelling.counts(bins.numbers(values), bins.n)
    bins = bins.with_content(sums.sum(0) / len(values))
    shares = relabelling.resampled(sums, n_bootstraps)
    error = Distances(*bins.distances(*shares).std(0, ddof=1).tolist())
    if not tested or not relabelling.usable:
        return Resampled(None, error, relabelling.exact)
    p_values = relabelling.p_values(sums, bins.statistics)
    for i in range(3):
        if p_values[i] * MOST < 1:
            p_values[i] = min(p_values[i], bins.bound(relabelling, sums, i))
    return Resampled(Distances(*p_values.tolist()), error, relabelling.exact)


def _keys(group: ArrayLike | None, values: ArrayLike) -> NDArray[np.int64] | None:
    """Return the keys of the finite values."""
    if group is None:
        return None
    finite = np.isfinite(np.asarray(values, dtype=float64).ravel())
    return np.asarray(np.asarray(group)[finite], dtype=np.int64)


@dataclass(frozen=True)
class _Bins:
    """Fine bins of the pooled values, and the distances as functions of their contents.

    Attributes:
        thresholds: (K - 1,), ascending: bin i holds thresholds[i - 1] <= x < thresholds[i].
        gaps: (K - 1,), the widths that W1 gives to F - G at the thresholds.
        starts: of the coarse bins of the separation power.
        content: (K,), shares of the pooled rows.
    """

    thresholds: Array
    gaps: Array
    starts: NDArray[np.int64]
    content: Array

    @classmethod
    def of(cls, values: Array) -> _Bins:
        """Place the thresholds by (N,) pooled values alone, not by which sample they are of."""
        unique = np.unique(values)
        fine = unique[1:]
        if len(unique) > FINE:
            tails = 10 * 2.0 ** np.arange(20) / len(values)
            tails = tails[tails < 1 / FINE]
            shares = np.unique([*np.linspace(0, 1, FINE + 1)[1:-1], *tails, *(1 - tails)])
            fine = np.unique(np.quantile(values, shares, method="lower"))
            fine = fine[fine > unique[0]]
        coarse = bin_edges(values)[1:-1]
        coarse = coarse[(coarse > unique[0]) & (coarse <= unique[-1])]
        coarse = np.unique(unique[np.searchsorted(unique, coarse)])  # An edge between the same two.
        thresholds = np.unique(np.concatenate([fine, coarse]))
        starts = np.concatenate([[0], np.searchsorted(thresholds, coarse) + 1])
        gaps = np.diff(thresholds, prepend=unique[0])
        return cls(thresholds, gaps, starts.astype(np.int64), np.empty(0))

    @property
    def n(self) -> int:
        return len(self.thresholds) + 1

    def with_content(self, content: Array) -> _Bins:
        return replace(self, content=content)

    def numbers(self, values: Array) -> NDArray[np.int64]:
        """Return (N,), the bin of each value."""
        return np.searchsorted(self.thresholds, values, side="right")

    def statistics(self, difference: Array) -> Array:
        """Return (n, 3) statistics for the test from (n, K) differences of shares."""
        cumulative = np.abs(np.cumsum(difference, axis=1)[:, :-1])
        coarse = np.add.reduceat(difference, self.starts, axis=1)
        return np.stack(
            [
                cumulative @ self.gaps,
                cumulative.max(1, initial=0.0),
                coarse**2 @ self._inverse_content,
            ],
            axis=1,
        )

    @property
    def _inverse_content(self) -> Array:
        content = np.add.reduceat(self.content, self.starts)
        return np.where(content > 0, 1 / np.where(content > 0, content, 1.0), 0.0)

    def distances(self, p: Array, q: Array) -> Array:
        """Return (n, 3) distances from (n, K) shares of two samples."""
        found = self.statistics(p - q)
        p, q = (np.add.reduceat(share, self.starts, axis=1) for share in (p, q))
        filled = p + q != 0
        terms = np.where(filled, (p - q) ** 2 / np.where(filled, np.abs(p + q), 1.0), 0.0)
        found[:, 2] = terms.sum(1) / 2
        return found

    def bound(self, relabelling: Relabelling, sums: Array, which: int) -> float:
        """Bound the p-value of statistic number `which`, 0 to 2."""
        ours, theirs = relabelling.means(sums)
        observed = self.statistics((ours - theirs)[None, :])[0, which]
        if which == 2:
            coarse = np.add.reduceat(sums, self.starts, axis=1)
            inverse = self._inverse_content
            used = inverse > 0
            level = np.sqrt(observed / (used.sum() * inverse[used]))
            return relabelling.tail(coarse[:, used], level)
        cumulative = np.cumsum(sums, axis=1)[:, :-1]
        if which == 1:
            return relabelling.tail(cumulative, np.full(cumulative.shape[1], observed))
        below = np.clip(np.cumsum(self.content)[:-1], 0.0, 1.0)
        spread = np.sqrt(below * (1 - below)) + 1e-12
        return relabelling.tail(cumulative, observed * spread / float(spread @ self.gaps))


class _Pool:
    """Both samples sorted together."""

    def __init__(
        self,
        a: ArrayLike,
        b: ArrayLike,
        weight_a: ArrayLike | None,
        weight_b: ArrayLike | None,
        edges: ArrayLike | None,
    ) -> None:
        first, second = _finite(a, weight_a, "first"), _finite(b, weight_b, "second")
        values = np.concatenate([first[0], second[0]])
        order = np.argsort(values, kind="stable")
        self.weights = np.concatenate([first[1], second[1]])[order]
        self.first = (np.arange(len(values)) < len(first[0]))[order]
        values = values[order]
        self.steps = np.diff(values)
        self.last = np.flatnonzero(np.append(self.steps > 0, True))  # of each run of equal values
        edges = bin_edges(*first) if edges is None else np.asarray(edges, dtype=float64)
        self.cuts = np.searchsorted(values, edges[1:-1], side="left")

    def distances(self) -> Distances:
        """Return the three distances."""
        ours = np.cumsum(np.where(self.first, self.weights, 0.0))
        theirs = np.cumsum(self.weights) - ours
        ours, theirs = ours / ours[-1], theirs / theirs[-1]
        difference = np.abs(ours - theirs)
        p, q = self._histogram(ours), self._histogram(theirs)
        filled = p + q != 0
        squares = np.where(filled, (p - q) ** 2 / np.where(filled, np.abs(p + q), 1.0), 0.0)
        return Distances(
            float(difference[:-1] @ self.steps),
            float(difference[self.last].max()),
            float(squares.sum() / 2),
        )

    def _histogram(self, cumulative: Array) -> Array:
        padded = np.concatenate([[0.0], cumulative])
        return np.diff(padded[np.concatenate([[0], self.cuts, [len(padded) - 1]])])


def bin_edges(truth: ArrayLike, weight: ArrayLike | None = None, n_bins: int = 50) -> Array:
    """Return the edges that histograms and the separation power use; the outer bins are open.

    Up to `n_bins` different values (discrete quantities) have a bin each. Otherwise: equal bins
    between the 0.1% and 99.9% quantiles of the truth, at most one for 20 samples; of quantities
    that are discrete all the same (powers of the energy of spins), each bin holds as many values.
    """
    values, _ = _finite(truth, weight, "truth")
    unique = np.unique(values)
    if len(unique) <= n_bins:
        middle = (unique[1:] + unique[:-1]) / 2
        width = np.diff(unique).min() if len(unique) > 1 else 1.0
        return np.concatenate([[unique[0] - width / 2], middle, [unique[-1] + width / 2]])
    low, high = np.quantile(values, [0.001, 0.999])
    n_bins = max(2, min(n_bins, len(values) // 20))
    if low == high:  # An atom that holds nearly all: what lies off it still needs a bin.
        return np.linspace(unique[0], unique[-1], n_bins + 1)
    within = unique[(unique >= low) & (unique <= high)]
    if 10 * len(unique) < len(values) and len(within) > 1:
        # Bins of equal width would hold now more of the values, now fewer: a comb.
        middle = (within[1:] + within[:-1]) / 2
        first, last = 2 * within[0] - middle[0], 2 * within[-1] - middle[-1]
        together = math.ceil(len(within) / n_bins)
        edges: Array = np.unique([first, *middle[together - 1 :: together], last])
        return edges
    return np.linspace(low, high, n_bins + 1)


def _finite(values: ArrayLike, weight: ArrayLike | None, which: str) -> tuple[Array, Array]:
    """Return the finite values as (N,) with weights of mean one."""
    x = np.asarray(values, dtype=float64).ravel()
    w = np.ones(len(x)) if weight is None else np.asarray(weight, dtype=float64).ravel()
    if len(w) != len(x):
        raise DomainError(f"the {which} sample has {len(x)} values but {len(w)} weights")
    keep = np.isfinite(x)
    x, w = x[keep], w[keep]
    if len(x) == 0 or w.sum() <= 0:
        raise DomainError(
            f"the {which} sample has no finite value with a positive sum of weights: check it for "
            "NaN and its weights"
        )
    return x, w / w.mean()
