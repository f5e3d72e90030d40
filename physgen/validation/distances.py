"""Distances between two weighted samples.

With cumulative distributions F, G and histograms p, q of unit sum:

    W1  = int |F(x) - G(x)| dx                     (Wasserstein, in the unit of x; exact in 1D)
    KS  = max_x |F(x) - G(x)|                      (Kolmogorov-Smirnov)
    S   = 1/2 sum_bins (p - q)^2 / (p + q)         (separation power; CaloChallenge, 2410.21611)

Weights are normalised to a mean of one within each sample and may be negative; of S, bins with a
negative sum are joined to their neighbours. How large they are
by chance is said by `physgen.validation.resampling`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy import float64
from numpy.typing import ArrayLike, NDArray

from physgen.errors import DomainError

Array = NDArray[float64]


@dataclass(frozen=True)
class Distances:
    """The one-dimensional distances of two samples, one number each."""

    wasserstein: float
    kolmogorov_smirnov: float
    separation: float


def wasserstein(
    a: ArrayLike, b: ArrayLike, weight_a: ArrayLike | None = None, weight_b: ArrayLike | None = None
) -> float:
    """Return W1 of two (N,), (M,) samples, in their unit.

    >>> wasserstein([0.0, 1.0], [1.0, 2.0])
    1.0
    """
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
        first, second = finite(a, weight_a, "first"), finite(b, weight_b, "second")
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
        p, q = _without_negative(self._histogram(ours), self._histogram(theirs))
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


def _without_negative(p: Array, q: Array) -> tuple[Array, Array]:
    """Join neighbouring bins until none has a negative sum of weights, so that S is at most 1."""
    if min(p.min(), q.min()) >= 0:
        return p, q
    joined: list[tuple[float, float]] = []
    left, right = 0.0, 0.0
    for a, b in zip(p.tolist(), q.tolist(), strict=True):
        left, right = left + a, right + b
        if left >= 0 and right >= 0:
            joined.append((left, right))
            left, right = 0.0, 0.0
    # What remains goes to the bins before it, as many as it takes.
    while joined and (left < 0 or right < 0):
        a, b = joined.pop()
        left, right = left + a, right + b
    table = np.array([*joined, (left, right)])
    return table[:, 0], table[:, 1]


def bin_edges(truth: ArrayLike, weight: ArrayLike | None = None, n_bins: int = 50) -> Array:
    """Return the edges that histograms and the separation power use; the outer bins are open.

    Up to `n_bins` different values (discrete quantities) have a bin each. Otherwise: equal bins
    between the 0.1% and 99.9% quantiles of the truth, at most one for 20 samples; of quantities
    that are discrete all the same (powers of the energy of spins), each bin holds as many values.
    """
    values, _ = finite(truth, weight, "truth")
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


def finite(values: ArrayLike, weight: ArrayLike | None, which: str) -> tuple[Array, Array]:
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
