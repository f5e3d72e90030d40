"""How large distances of one observable are by chance: p-values and errors.

Both are found on histograms of `FINE` bins of equal pooled content (the values themselves, where
they are fewer), which leave W1 and KS what they are; the separation power is that in `bin_edges`
of the pooled values. Bins are placed without looking at which sample a value is of.

- Rows without weights, and rows in groups: `physgen.validation.permutation`.
- Weighted rows: the contents of both histograms are drawn anew under the hypothesis of common
  shares q of the bins, each as a scaled Poisson number (Bohm & Zech 2014, arXiv 1309.1287),

      r Poisson(q W / r),    r = sum w^2 / sum w of the sample's rows in and around the bin,

  which has mean, variance and nearly the skewness of a sum of so many weights. q is the mean of
  both samples' shares by their effective numbers of rows. Right asymptotically.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from physgen.validation.distances import Distances, bin_edges, finite
from physgen.validation.permutation import MOST, Relabelling, sequential
from physgen.validation.sample import Sample

Array = NDArray[float64]

Weighted = tuple[NDArray[np.int64], Array]
"""Bins and weights of the rows of a sample."""

Part = Callable[[Array], Array]
"""Sums the contents of some of the (..., K) bins, in (..., k) ways."""

FINE = 200
"""Bins in which W1 and KS are resampled."""

_ENOUGH = 20
"""Weighted rows in a bin of the separation power: of fewer, signs and sizes are not Poisson."""

_ROUND_ABOUT = 10
"""Rows whose weights say how the weights of a bin are distributed."""


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


def resample(
    a: Sample, b: Sample, *, seed: int, tested: bool = True, n_bootstraps: int = 50
) -> Resampled:
    """Return p-values and bootstrap errors of the three distances.

    Both are those of the distances between histograms in `FINE` bins of equal pooled content (the
    values themselves, where they are fewer), the separation power in `bin_edges` of the pooled
    values, its p-value that of sum (p - q)^2 / pooled share. Rows of one unit stay together. Where
    no relabelling reaches what was observed, the p-value is a bound: the statistic can only be as
    large as it is if |F - G|, or |p - q|, is large at one threshold at least. `tested` says whether
    p-values are asked for.

    >>> x, y = np.random.default_rng(0).normal(size=(2, 300))
    >>> resampled = resample(Sample(x), Sample(y + 1.0), seed=0)
    >>> resampled.exact, resampled.p_value.kolmogorov_smirnov < 1e-6
    (True, True)
    """
    first, second = finite(a.values, a.weight, "first"), finite(b.values, b.weight, "second")
    relabelling = Relabelling(
        len(first[0]),
        len(second[0]),
        weights=(first[1], second[1]),
        groups=(_units(a), _units(b)),
        seed=seed,
    )
    values = np.concatenate([first[0], second[0]])
    grouped = a.unit is not None or b.unit is not None
    permuted = relabelling.exact or grouped
    bins = _Bins.of(values, fewest=1 if permuted else _ENOUGH)
    numbers = bins.numbers(values)
    sums = relabelling.counts(numbers, bins.n)
    shares = relabelling.resampled(sums, n_bootstraps)
    error = Distances(*bins.distances(*shares).std(0, ddof=1).tolist())
    if not tested or not relabelling.usable:
        return Resampled(None, error, relabelling.exact)
    difference = np.subtract(*relabelling.means(sums))
    if permuted:
        bins = bins.with_content(sums.sum(0) / len(values))
        p_values = relabelling.p_values(sums, bins.statistics)

        def tail(part: Part, level: Array) -> float:
            return relabelling.tail(part(sums), level)

    else:
        cut = len(first[0])
        null = _ScaledPoisson.of(
            (numbers[:cut], first[1]), (numbers[cut:], second[1]), bins.n, seed
        )
        bins = bins.with_content(null.variance / null.variance.sum())
        observed = bins.statistics(difference[None, :])[0]
        p_values = sequential(observed, lambda index: bins.statistics(null.draw(index)))
        tail = null.tail
    for i in range(3):
        if p_values[i] * MOST < 1:
            p_values[i] = min(p_values[i], bins.bound(difference, tail, i))
    return Resampled(Distances(*p_values.tolist()), error, relabelling.exact)


def _units(sample: Sample) -> NDArray[np.int64] | None:
    """Return the units of the finite values."""
    return None if sample.unit is None else sample.unit[np.isfinite(sample.values)]


@dataclass(frozen=True)
class _Bins:
    """Fine bins of the pooled values, and the distances as functions of their contents.

    Attributes:
        thresholds: (K - 1,), ascending: bin i holds thresholds[i - 1] <= x < thresholds[i].
        gaps: (K - 1,), the widths that W1 gives to F - G at the thresholds.
        starts: of the coarse bins of the separation power.
        content: (K,), shares of the pooled rows, or of the variance of F - G, under the hypothesis.
    """

    thresholds: Array
    gaps: Array
    starts: NDArray[np.int64]
    content: Array

    @classmethod
    def of(cls, values: Array, fewest: int = 1) -> _Bins:
        """Place the thresholds by (N,) pooled values alone, not by which sample they are of.

        Args:
            values: of both samples.
            fewest: rows that a coarse bin holds at least; those with fewer are joined.
        """
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
        below = np.searchsorted(np.sort(values), coarse)
        n_below = [0]  # Rows below the edges that remain.
        for n in below.tolist():
            if n - n_below[-1] >= fewest and len(values) - n >= fewest:
                n_below.append(n)
        coarse = coarse[np.isin(below, n_below)]
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
        coarse = np.add.reduceat(difference, self.starts, axis=1)
        if len(self.starts) == 1:
            coarse = np.zeros_like(coarse)  # All of both samples: what is left is rounding.
        return np.stack([*self._linear(difference), coarse**2 @ self._inverse_content], axis=1)

    def distances(self, p: Array, q: Array) -> Array:
        """Return (n, 3) distances from (n, K) shares of two samples."""
        linear = self._linear(p - q)
        p, q = (np.add.reduceat(share, self.starts, axis=1) for share in (p, q))
        filled = p + q != 0
        terms = np.where(filled, (p - q) ** 2 / np.where(filled, np.abs(p + q), 1.0), 0.0)
        return np.stack([*linear, terms.sum(1) / 2], axis=1)

    def _linear(self, difference: Array) -> tuple[Array, Array]:
        """Return W1 and KS, (n,) each."""
        cumulative = np.abs(_below(difference))
        return cumulative @ self.gaps, cumulative.max(1, initial=0.0)

    @property
    def _inverse_content(self) -> Array:
        content = np.add.reduceat(self.content, self.starts)
        return np.where(content > 0, 1 / np.where(content > 0, content, 1.0), 0.0)

    def bound(self, difference: Array, tail: Callable[[Part, Array], float], which: int) -> float:
        """Bound the p-value of statistic number `which`, 0 to 2, of (K,) differences of shares.

        A sum or a maximum is only as large as it is if one of its terms is large: the bound is the
        sum over the terms of their probabilities (`tail`) to reach their part of it.
        """
        observed = self.statistics(difference[None, :])[0, which]
        if which == 2:
            inverse = self._inverse_content
            used = inverse > 0

            def coarse(contents: Array) -> Array:
                return np.add.reduceat(contents, self.starts, axis=-1)[..., used]

            return tail(coarse, np.sqrt(observed / (used.sum() * inverse[used])))
        below = np.clip(np.cumsum(self.content)[:-1], 0.0, 1.0)
        spread = np.sqrt(below * (1 - below)) + 1e-12
        level = observed * spread / float(spread @ self.gaps)
        return tail(_below, level if which == 0 else np.full(len(below), observed))


def _below(contents: Array) -> Array:
    """Return the contents below each threshold, (..., K - 1), from those of (..., K) bins."""
    return np.cumsum(contents, axis=-1)[..., :-1]


@dataclass(frozen=True)
class _ScaledPoisson:
    """Contents of the bins of two weighted samples, drawn under the hypothesis of common shares.

    Attributes:
        shares: (K,), common to both.
        scales: (K,) of either sample, r of the module's formula.
        totals: sum of the weights of either sample.
        seed: of what is drawn.
    """

    shares: Array
    scales: tuple[Array, Array]
    totals: tuple[float, float]
    seed: int

    @classmethod
    def of(cls, first: Weighted, second: Weighted, n_bins: int, seed: int) -> _ScaledPoisson:
        """Look at the bin and the weight of each row of both samples."""
        shares, effective, scales = [], [], []
        for bins, weight in (first, second):
            shares.append(np.bincount(bins, weight, n_bins) / weight.sum())
            effective.append(weight.sum() ** 2 / (weight**2).sum())
            scales.append(_scales(bins, weight, n_bins))
        common = np.maximum(np.average(shares, axis=0, weights=effective), 0.0)
        totals = float(first[1].sum()), float(second[1].sum())
        return cls(common / common.sum(), (scales[0], scales[1]), totals, seed)

    @property
    def variance(self) -> Array:
        """(K,), of the difference of the contents as shares, were the totals fixed."""
        parts = zip(self.scales, self.totals, strict=True)
        return np.asarray(sum(self.shares * scale / total for scale, total in parts))

    def draw(self, index: int) -> Array:
        """Return (n, K) differences of shares."""
        generator = np.random.default_rng([self.seed, 5, index])
        shares = []
        for scale, total in zip(self.scales, self.totals, strict=True):
            mean = self.shares * total / scale
            contents = scale * generator.poisson(mean, (500, len(mean)))
            sums = contents.sum(1, keepdims=True)
            shares.append(contents / np.where(sums > 0, sums, 1.0))
        return np.asarray(shares[0] - shares[1])

    def tail(self, part: Part, level: Array) -> float:
        """Bound the probability that any part of the difference reaches its level, by Gaussians."""
        share, own = part(self.shares), part(self.variance)
        spread = (1 - share) ** 2 * own + share**2 * (self.variance.sum() - own)
        bounds = 2 * np.exp(-(level**2) / (2 * np.where(spread > 0, spread, 1e-300)))
        return max(float(np.minimum(bounds, 1.0).sum()), 1e-300)


def _scales(bins: NDArray[np.int64], weight: Array, n_bins: int) -> Array:
    """Return (K,), sum w^2 / sum w of the rows in and around each bin.

    It is (sum w^2 / sum |w|) (sum |w| / sum w), the second factor from more rows than the first: a
    few rows know how large weights are, but not how many are negative. In the outermost bins the
    first factor is the largest |w| seen there, since weights that grow outwards grow on where there
    are no more rows to show it.
    """
    size = np.abs(weight)
    by_place = size[np.argsort(bins, kind="stable")]
    rows, sums, sizes, squares = (
        np.concatenate([[0.0], np.cumsum(np.bincount(bins, values, n_bins))])
        for values in (np.ones(len(bins)), weight, size, weight**2)
    )
    scales = np.empty(n_bins)
    for k in range(n_bins):
        near, far = (_around(rows, k, n) for n in (_ROUND_ABOUT, 10 * _ROUND_ABOUT))
        if rows[k + 1] <= _ROUND_ABOUT:
            scales[k] = by_place[:_ROUND_ABOUT].max()
        elif rows[-1] - rows[k] <= _ROUND_ABOUT:
            scales[k] = by_place[-_ROUND_ABOUT:].max()
        else:
            scales[k] = np.diff(squares[near])[0] / max(np.diff(sizes[near])[0], 1e-300)
        net = np.diff(sums[far])[0]
        scales[k] *= np.diff(sizes[far])[0] / net if net > 0 else sizes[-1] / sums[-1]
    return np.where(scales > 0, scales, squares[-1] / sums[-1])


def _around(rows: Array, k: int, n: int) -> list[int]:
    """Return where bins begin and end around number k that hold `n` rows, or all; (K + 1,) rows."""
    low, high = k, k + 1
    while rows[high] - rows[low] < min(n, rows[-1]):
        low, high = max(low - 1, 0), min(high + 1, len(rows) - 1)
    return [low, high]
