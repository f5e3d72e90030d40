"""P-values of two-sample tests by relabelling rows, exact where rows are exchangeable.

Every test here is a function T(D) of the differences of the means of features of rows,

    D = sum_{i in first} w_i phi_i / W_first  -  sum_{i in second} w_i phi_i / W_second,

where the features phi (indicators of bins, waves of a kernel, residuals) come from the pooled rows
without looking at labels, so that a relabelling is one more column of a matrix product.

- Rows without weights are exchangeable if the two distributions agree: their labels are permuted.
  They are dealt at random into blocks of equal size within their sample and whole blocks are
  permuted, which is a subgroup of all permutations: the test is exact (Hemerik & Goeman,
  arXiv 1411.7565), and costs as little as that of `BLOCKS` rows.
- Rows with weights, or in groups (candidates of one collision), are not. For them D is drawn with
  multipliers eps = +-1, one a block of whole groups,

      D* = sum_i eps_i s_i (phi_i - mean of phi in both samples),   s = w / W or -w / W,

  which has the covariance of D, whatever the weights have to do with the features, and is right
  asymptotically (van der Vaart & Wellner 1996, section 3.6). One mean for both samples, as the
  hypothesis has it, keeps small p-values rare where few rows carry the weight (Davidson &
  Flachaire, J. Econometrics 146 (2008) 162); it is that of both, by their effective rows.

- Rows i of both samples that were drawn at one condition are a pair (they share a key): the two of
  a pair are exchanged, or those of a block of pairs together, which is a random sign of their
  difference. Without weights, or with equal ones, this is exact too.

Draws end when `REACHED` of them reach what was observed, or after `MOST` (Besag & Clifford 1991):
p = REACHED / (draws so far), or (reached + 1) / (MOST + 1), which is valid at every level.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy import float64
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from physgen.validation.blocks import BLOCKS, blocks_of_groups, blocks_of_pairs, equal_blocks
from physgen.validation.hypergeometric import hypergeometric_tail

Array = NDArray[float64]
Statistic = Callable[[Array], Array]
"""Maps (n, k) differences of feature means to (n, s) statistics, large where samples differ."""

MOST = 10_000
"""Relabellings at most: a p-value below 1e-4 can be told from larger ones."""

REACHED = 20
"""As many relabellings reach the observed value before drawing ends: p is known to 22%."""

FEWEST = 20
"""Blocks of each sample without which the multipliers say nothing."""

_CELLS = 500_000
"""Labels drawn at once."""

_FEATURES = 2048
"""Features whose differences are drawn at once: of a few hundred observables there are 40,000."""


class Relabelling:
    """The rows of two samples, dealt into blocks, and how these are relabelled.

    Attributes:
        exact: whether the rows, or the two of a pair, are exchangeable, so that p-values hold for
            any number of rows.
        usable: whether p-values mean something: of multipliers there must be `FEWEST` a sample.
        seed: of everything that is drawn.

    >>> x = np.random.default_rng(0).normal(size=(400, 1))
    >>> relabelling = Relabelling(200, 200, seed=0)
    >>> sums = relabelling.sums(np.concatenate([x[:200], x[200:] + 1.0]))
    >>> bool(relabelling.p_values(sums, np.abs)[0] < 0.001), relabelling.exact
    (True, True)
    """

    def __init__(
        self,
        first: int,
        second: int,
        *,
        weights: tuple[ArrayLike | None, ArrayLike | None] = (None, None),
        groups: tuple[ArrayLike | None, ArrayLike | None] = (None, None),
        seed: int,
    ) -> None:
        """Deal the pooled rows, those of the first sample first.

        Args:
            first, second: how many rows there are of each sample.
            weights: of both samples, (first,) and (second,); equal weights are none.
            groups: keys of rows that stay together, (first,) and (second,); rows of both samples
                that share one are paired.
            seed: of everything that is drawn.
        """
        cut, n = first, first + second
        sides = [
            np.ones(rows) if weight is None else np.asarray(weight, dtype=float64)
            for rows, weight in zip((first, second), weights, strict=True)
        ]
        w = np.concatenate(sides)
        keys = [
            np.arange(rows) if group is None else np.asarray(group)
            for rows, group in zip((first, second), groups, strict=True)
        ]
        alone = all(group is None for group in groups)
        self._paired = not alone and len(np.intersect1d(keys[0], keys[1])) > 0
        self.exact = alone and all(bool((side == side[0]).all()) for side in sides)
        self.seed = seed
        generator = np.random.default_rng(seed)
        if self._paired:
            self.exact = (
                all(np.array_equal(*both) for both in (keys, sides))
                and len(np.unique(keys[0])) == first
            )
            block, counts = blocks_of_pairs(keys, generator)
        elif self.exact:
            w = np.ones(n)
            size = max(1, min(-(-n // BLOCKS), min(first, second) // 50))
            block, counts = equal_blocks((first, second), size, generator)
        else:
            block, counts = blocks_of_groups(keys, generator)
        # Movable blocks of the first sample, of the second, then rows that are left over.
        self._counts = counts
        self.usable = self.exact or min(counts) >= FEWEST
        self._first = np.zeros(max(int(block.max()) + 1, sum(counts)), dtype=bool)
        self._first[block[:cut]] = True
        self._totals = (float(w[:cut].sum()), float(w[cut:].sum()))
        self._dealt = csr_array((w, (block, np.arange(n))), shape=(len(self._first), n))
        self._weights = np.asarray(self._dealt.sum(1)).ravel()

    @property
    def blocks(self) -> int:
        """How many blocks there are, with those that are not moved."""
        return len(self._first)

    @property
    def counts_type(self) -> type[np.floating[Any]]:
        """Of sums of indicators: single precision where labels are permuted, which is exact."""
        return np.float32 if self.exact and not self._paired else float64

    def sums(self, features: NDArray[np.floating[Any]]) -> Array:
        """Return (M, k), the weighted sums of (N, k) features of the pooled rows by block."""
        return np.asarray(self._dealt @ features)

    def counts(self, bins: NDArray[np.int64], n_bins: int) -> Array:
        """Return (M, n_bins), the sums of the indicators of (N,) bins."""
        n = len(bins)
        indicators = csr_array((np.ones(n), (np.arange(n), bins)), shape=(n, n_bins))
        return np.asarray((self._dealt @ indicators).toarray())

    def means(self, sums: NDArray[np.floating[Any]]) -> tuple[Array, Array]:
        """Return (k,), the mean of the features in the first and in the second sample."""
        ours, theirs = (sums[side].sum(0, float64) for side in (self._first, ~self._first))
        return ours / self._totals[0], theirs / self._totals[1]

    def resampled(self, sums: Array, n: int) -> tuple[Array, Array]:
        """Return two (n, k), the means of both samples when their blocks are drawn anew.

        Blocks are drawn with Poisson multiplicities, as in a bootstrap.
        """
        generator = np.random.default_rng([self.seed, 1])
        if self._paired:
            times = np.tile(generator.poisson(1.0, (n, self._counts[0])), 2).astype(float64)
        else:
            times = generator.poisson(1.0, (n, len(sums))).astype(float64)
        means = []
        for side in (self._first, ~self._first):
            totals = times[:, side] @ self._weights[side]
            # A resampling of few rows may hold none of them.
            means.append(times[:, side] @ sums[side] / np.where(totals == 0, 1.0, totals)[:, None])
        return means[0], means[1]

    def p_values(self, sums: NDArray[np.floating[Any]], statistic: Statistic) -> Array:
        """Return (s,) p-values of the statistics of the features whose sums by block are given."""
        ours, theirs = self.means(sums)
        observed = statistic((ours - theirs)[None, :])[0]
        draw = self.draw(sums)
        return sequential(observed, lambda index: statistic(draw(index)))

    def draw(self, sums: NDArray[np.floating[Any]]) -> Callable[[int], Array]:
        """Return what draws (n, k) differences D of relabelled rows, given a number.

        The same number is the same relabelling, of whatever features.
        """
        permuted = self.exact and not self._paired
        return self._exchange(sums) if permuted else self._multiply(sums)

    def deviations(self, sums: Array) -> Array:
        """Return (k,), the standard deviations of D under random signs."""
        return np.asarray(np.sqrt((self._moved(sums) ** 2).sum(0)))

    def tail(self, sums: Array, level: Array) -> float:
        """Bound the probability that any |D| reaches its `level`, (k,), under the hypothesis.

        The sum over the features of hypergeometric tails where labels are permuted, for which they
        must be indicators; else of Hoeffding's bound 2 exp(-level^2 / 2 Var D*).
        """
        if self._paired or not self.exact:
            variance = np.maximum(self.deviations(sums) ** 2, 1e-300)
            bounds = 2 * np.exp(-(level**2) / (2 * variance))
            return max(float(np.minimum(bounds, 1.0).sum()), 1e-300)
        n, m = self._totals
        marked = sums.sum(0)
        per_row, centre = 1 / n + 1 / m, marked / m
        # The number of marked rows in the first sample at which |D| reaches the level.
        above = np.ceil((centre + level) / per_row - 1e-9)
        below = np.floor((centre - level) / per_row + 1e-9)
        upper = hypergeometric_tail(above, marked, n, n + m)
        # Few marked rows in the first sample are many that are not marked.
        lower = hypergeometric_tail(n - below, n + m - marked, n, n + m)
        return max(float(np.minimum(upper + lower, 1.0).sum()), 1e-300)

    def _exchange(self, sums: NDArray[np.floating[Any]]) -> Callable[[int], Array]:
        """Return what draws D with the labels of the blocks permuted."""
        n_first, n_second = self._counts
        movable = sums[: n_first + n_second].astype(np.float32, copy=False)  # Counts stay exact.
        left = sums[n_first + n_second :]
        fixed = left[self._first[n_first + n_second :]].sum(0, float64)
        n, m = self._totals
        total = sums.sum(0, float64)

        def draw(index: int) -> Array:
            labels = _labels(n_first, n_second, self.seed, index).astype(np.float32)
            result = np.empty((len(labels), len(total)))
            for start in range(0, len(total), _FEATURES):
                part = slice(start, start + _FEATURES)
                ours = (labels @ movable[:, part]).astype(float64) + fixed[part]
                result[:, part] = ours / n - (total[part] - ours) / m
            return result

        return draw

    def _multiply(self, sums: NDArray[np.floating[Any]]) -> Callable[[int], Array]:
        """Return what draws D* with a random sign for each block."""
        moved = self._moved(sums)

        def draw(index: int) -> Array:
            return np.asarray(_signs(len(moved), self.seed, index).astype(float64) @ moved)

        return draw

    def _moved(self, sums: NDArray[np.floating[Any]]) -> Array:
        """Return what the random signs multiply: shares of blocks, or differences of pairs."""
        means = self.means(sums)
        result = np.empty(sums.shape)
        sides = (self._first, ~self._first)
        totals = self._totals
        squares = [(self._weights[side] ** 2).sum() for side in sides]
        worth = [total**2 / square for total, square in zip(totals, squares, strict=True)]
        mean = np.average(means, axis=0, weights=worth)
        for side, total in zip(sides, totals, strict=True):
            # An exchange of pairs is exact as it is.
            centre = 0.0 if self.exact else self._weights[side, None] * mean
            result[side] = (sums[side] - centre) / total
        n = self._counts[0]
        return result[:n] - result[n:] if self._paired else result


def sequential(observed: Array, draw: Callable[[int], Array], *, most: int = MOST) -> Array:
    """Return (s,) p-values of (s,) observed statistics, large ones being improbable.

    Args:
        observed: (s,).
        draw: returns (n, s) statistics of relabelled rows; called with 0, 1, ... until all p-values
            are known.
        most: draws at most.
    """
    reached = np.zeros(len(observed), dtype=np.int64)
    p_values = np.full(len(observed), np.nan)
    drawn, index = 0, 0
    while drawn < most and np.isnan(p_values).any():
        null = draw(index)
        # Equal up to rounding counts as reached: ties are frequent in discrete samples.
        count = reached + np.cumsum(null >= observed - 1e-6 * np.abs(observed), axis=0)
        ended = np.isnan(p_values) & (count[-1] >= REACHED)
        p_values[ended] = REACHED / (drawn + 1 + (count >= REACHED).argmax(0)[ended])
        reached, drawn, index = count[-1], drawn + len(null), index + 1
    return np.where(np.isnan(p_values), (reached + 1) / (drawn + 1), p_values)


@lru_cache(maxsize=64)
def _labels(first: int, second: int, seed: int, index: int) -> NDArray[np.bool_]:
    """Return (n, first + second) labels, true for the first sample; drawn once for all features."""
    generator = np.random.default_rng([seed, 2, index])
    n = _draws(first + second, index)
    labels = np.broadcast_to(np.arange(first + second) < first, (n, first + second))
    return generator.permuted(labels, axis=1)


@lru_cache(maxsize=64)
def _signs(blocks: int, seed: int, index: int) -> NDArray[np.int8]:
    """Return (n, blocks) random signs."""
    generator = np.random.default_rng([seed, 3, index])
    n = _draws(blocks, index)
    return (2 * generator.integers(0, 2, (n, blocks), dtype=np.int8) - 1).astype(np.int8)


def _draws(blocks: int, index: int) -> int:
    """Return how many relabellings are drawn at once: few at first, which is mostly enough."""
    return max(10, min(500, 100 * (index + 1), _CELLS // blocks))
