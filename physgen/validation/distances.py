"""Distances between two weighted samples, and how large they are by chance.

With cumulative distributions F, G and histograms p, q of unit sum:

    W1  = int |F(x) - G(x)| dx                     (Wasserstein, in the unit of x; exact in 1D)
    KS  = max_x |F(x) - G(x)|                      (Kolmogorov-Smirnov)
    S   = 1/2 sum_bins (p - q)^2 / (p + q)         (separation power; CaloChallenge, 2410.21611)
    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y)  (Gretton et al. 2012, unbiased: no i = j terms)

Weights are normalised to a mean of one within each sample and may be negative. p-values are those
of permutations of whole rows (value with its weight).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy import float64
from numpy.typing import ArrayLike, NDArray
from scipy.stats import pearson3

from physgen.errors import DomainError

Array = NDArray[float64]
CHUNK = 200_000
"""Numbers handled at once when permuting: fits the cache, changes no result."""


@dataclass(frozen=True)
class Distances:
    """The one-dimensional distances of two samples, one number each."""

    wasserstein: float
    kolmogorov_smirnov: float
    separation: float


@dataclass(frozen=True)
class Resampled:
    """One-dimensional distances under permutation and bootstrap.

    Attributes:
        observed: of the samples themselves.
        p_value: of the hypothesis of one common distribution, by permutation.
        error: standard deviation under resampling of both samples.
    """

    observed: Distances
    p_value: Distances
    error: Distances


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
    pool = _Pool(a, b, weight_a, weight_b, edges)
    return _single(pool.distances(pool.first[None, :]))


def resample(
    a: ArrayLike,
    b: ArrayLike,
    weight_a: ArrayLike | None = None,
    weight_b: ArrayLike | None = None,
    *,
    seed: int,
    group_a: ArrayLike | None = None,
    group_b: ArrayLike | None = None,
    edges: ArrayLike | None = None,
    n_permutations: int = 200,
    n_bootstraps: int = 50,
) -> Resampled:
    """Return the three distances with permutation p-values and bootstrap errors.

    Arguments as in `compare`. Where one sample is weighted and the other is not, rows are
    exchangeable only to leading order. Rows that share a key of `group_a` or `group_b`, (N,) and
    (M,), are resampled together; their p-values mean nothing, since rows are not exchangeable.
    """
    pool = _Pool(a, b, weight_a, weight_b, edges)
    together = pool.together(_keys(group_a, a), _keys(group_b, b))
    generator = np.random.default_rng(seed)
    observed = pool.distances(pool.first[None, :])[:, 0]
    rows = max(1, CHUNK // len(pool.first))
    null, parts = [], []
    for start in range(0, n_permutations, rows):
        n = min(rows, n_permutations - start)
        labels = generator.permuted(np.broadcast_to(pool.first, (n, len(pool.first))), axis=1)
        null.append(pool.distances(labels))
    for start in range(0, n_bootstraps, rows):
        n = min(rows, n_bootstraps - start)
        times = generator.poisson(1.0, (n, int(together.max()) + 1)).take(together, axis=1)
        parts.append(pool.distances(np.broadcast_to(pool.first, times.shape), times))
    return Resampled(
        Distances(*observed.tolist()),
        Distances(*map(tail_probability, observed, np.concatenate(null, axis=1))),
        Distances(*np.concatenate(parts, axis=1).std(1, ddof=1).tolist()),
    )


def _keys(group: ArrayLike | None, values: ArrayLike) -> NDArray[np.int64]:
    """Return the keys of (N,) rows, each its own where there are no groups."""
    found: NDArray[np.int64] = np.arange(np.size(values)) if group is None else np.asarray(group)
    return found


def tail_probability(observed: float, null: Array) -> float:
    """Return the probability of reaching `observed`, from (n,) values under the null hypothesis.

    The observed value counts as one of them: p >= 1 / (n + 1). Where it exceeds them all, the tail
    is that of a Pearson type III distribution with their first three moments (Minas & Montana,
    1307.5238), so that p-values far below 1 / n can be told apart and corrected for multiplicity.
    """
    # Equal up to rounding counts as reached: ties are frequent in discrete samples.
    reached = int((null >= observed * (1 - 1e-12)).sum())
    empirical = (reached + 1) / (len(null) + 1)
    deviation = null.std()
    if reached > 0 or deviation == 0:
        return empirical
    skewness = float(np.mean((null - null.mean()) ** 3) / deviation**3)
    tail = float(pearson3.sf((observed - null.mean()) / deviation, skewness))
    return min(empirical, max(tail, 1e-300))


class _Pool:
    """Both samples sorted together once, so that a relabelling costs two cumulative sums."""

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
        self.finite = [np.isfinite(np.asarray(x, dtype=float64).ravel()) for x in (a, b)]
        self.order = order
        edges = bin_edges(*first) if edges is None else np.asarray(edges, dtype=float64)
        self.cuts = np.searchsorted(values, edges[1:-1], side="left")

    def together(self, keys_a: NDArray[np.int64], keys_b: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the numbers of the groups of the pooled rows; no group is in both samples."""
        numbers, begin = [], 0
        for keys, finite in zip((keys_a, keys_b), self.finite, strict=True):
            found = np.unique(keys[finite], return_inverse=True)[1] + begin
            begin = int(found.max()) + 1
            numbers.append(found)
        return np.concatenate(numbers)[self.order]

    def distances(self, labels: NDArray[np.bool_], times: NDArray[np.int64] | None = None) -> Array:
        """Return (3, n) distances for (n, N) labels, true for the first sample."""
        weights = self.weights if times is None else self.weights * times
        ours = np.cumsum(np.where(labels, weights, 0.0), axis=1)
        theirs = np.cumsum(weights, axis=-1) - ours
        # A resampling of few rows may hold none of them.
        totals = [np.where(part[:, -1:] == 0, 1.0, part[:, -1:]) for part in (ours, theirs)]
        parts = [ours / totals[0], theirs / totals[1]]
        difference = np.abs(parts[0] - parts[1])
        p, q = (self._histogram(part) for part in parts)
        filled = p + q != 0
        squares = np.where(filled, (p - q) ** 2 / np.where(filled, np.abs(p + q), 1.0), 0.0)
        return np.stack(
            [difference[:, :-1] @ self.steps, difference[:, self.last].max(1), squares.sum(1) / 2]
        )

    def _histogram(self, cumulative: Array) -> Array:
        padded = np.concatenate([np.zeros((len(cumulative), 1)), cumulative], axis=1)
        inner = padded[:, np.concatenate([[0], self.cuts, [padded.shape[1] - 1]])]
        return np.diff(inner, axis=1)


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


def _normalised(weight: ArrayLike | None, n: int) -> Array:
    w = np.ones(n) if weight is None else np.asarray(weight, dtype=float64)
    return np.asarray(w / w.mean())


def _single(columns: Array) -> Distances:
    return Distances(*columns[:, 0].tolist())


@dataclass(frozen=True)
class MaximumMean:
    """The squared maximum mean discrepancy, its error and its permutation p-value."""

    value: float
    error: float
    p_value: float
    bandwidth: float


def maximum_mean_discrepancy(
    a: ArrayLike,
    b: ArrayLike,
    weight_a: ArrayLike | None = None,
    weight_b: ArrayLike | None = None,
    *,
    seed: int,
    bandwidth: float | None = None,
    n_permutations: int = 200,
) -> MaximumMean:
    """Return the unbiased MMD^2 of (N, F) and (M, F) with k = exp(-|x - y|^2 / 2 bandwidth^2).

    The default bandwidth is the median distance within the pooled sample. Memory and time grow as
    (N + M)^2: pass a few thousand rows.
    """
    x, y = np.asarray(a, dtype=float64), np.asarray(b, dtype=float64)
    n = len(x)
    weights = np.concatenate([_normalised(weight_a, n), _normalised(weight_b, len(y))])
    pooled = np.concatenate([x, y])
    norms = (pooled**2).sum(1)
    squares = np.maximum(norms[:, None] + norms[None, :] - 2 * pooled @ pooled.T, 0.0)
    if bandwidth is None:
        stride = max(1, len(pooled) // 1000)
        part = squares[::stride, ::stride]
        bandwidth = float(np.sqrt(np.median(part[np.triu_indices(len(part), 1)]))) or 1.0
    kernel = np.exp(squares / (-2 * bandwidth**2))
    np.fill_diagonal(kernel, 0.0)
    generator = np.random.default_rng(seed)
    first = np.arange(len(pooled)) < n
    labels = np.broadcast_to(first, (n_permutations, len(pooled)))
    labels = np.concatenate([first[None, :], generator.permuted(labels, axis=1)])
    values = _quadratic(kernel, weights, labels)
    p_value = tail_probability(values[0], values[1:])
    # First-order (Hoeffding) term of the variance; the permutations give the degenerate rest.
    signed = np.where(first, weights / weights[:n].sum(), -weights / weights[n:].sum())
    witness = 2 * (kernel @ signed) * np.where(first, 1.0, -1.0) * weights
    linear = witness[:n].var() / n + witness[n:].var() / len(y)
    error = float(np.sqrt(linear + values[1:].var()))
    return MaximumMean(float(values[0]), error, p_value, bandwidth)


def _quadratic(kernel: Array, weights: Array, labels: NDArray[np.bool_]) -> Array:
    """Return MMD^2 for each (N,) row of labels; the diagonal of the kernel is zero."""
    u, v = np.where(labels, weights, 0.0), np.where(labels, 0.0, weights)
    ku, kv = u @ kernel, v @ kernel
    pairs_u = u.sum(1) ** 2 - (u**2).sum(1)
    pairs_v = v.sum(1) ** 2 - (v**2).sum(1)
    result: Array = (
        (ku * u).sum(1) / pairs_u
        + (kv * v).sum(1) / pairs_v
        - 2 * (ku * v).sum(1) / (u.sum(1) * v.sum(1))
    )
    return result
