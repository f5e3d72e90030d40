"""The energy mover's distance of two jets (Komiske, Metodiev & Thaler, arXiv:1902.02346, eq. 1).

With z_i, z'_j the pT of their particles and theta_ij their distances,

    EMD = min_f sum_ij f_ij theta_ij / R + |sum z - sum z'|,    f_ij >= 0,
    sum_j f_ij <= z_i,  sum_i f_ij <= z'_j,  sum_ij f_ij = min(sum z, sum z').

One particle more on the lighter side, at the distance R of all, makes it a balanced transport. That
is solved exactly, by successive shortest paths in the dual (as the Hungarian method does for equal
weights).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit
from numpy.typing import NDArray

from physgen.systems.kernels.cache import CACHE

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_ROUNDING = 1e-13
"""What is left of the pT of a jet, relative to it, when it is used up."""


def energy_mover(
    x: Array, mask: Mask, y: Array, other: Mask, radius: float = 1.0, threads: int = 1
) -> Array:
    """Return (N, M) distances of (N, P, 3) to (M, Q, 3) jets, eta, phi and pT, in units of pT.

    Args:
        x, y: particles; a negative pT counts as 0.
        mask, other: (N, P) and (M, Q), which of them are there.
        radius: R, how far pT is moved at the cost of making it.
        threads: that share the N.

    Of two particles it is min(z, z') theta / R + |z - z'|:

    >>> x, y = np.array([[[0.0, 0.0, 1.0]]]), np.array([[[0.3, 0.4, 0.8]]])
    >>> one = np.ones((1, 1), bool)
    >>> round(energy_mover(x, one, y, one).item(), 12)  # 0.8 * 0.5 + 0.2
    0.6
    """
    result = np.zeros((len(x), len(y)))
    a, b = (np.ascontiguousarray(points, np.float64) for points in (x, y))
    mask, other = mask & (x[..., 2] > 0), other & (y[..., 2] > 0)

    def part(first: int) -> None:
        rows = slice(first, None, threads)
        _table(a[rows], mask[rows], b, other, radius, result[rows])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(part, range(threads)))
    return result


@njit(cache=CACHE, nogil=True)
def _table(x: Array, mask: Mask, y: Array, other: Mask, radius: float, result: Array) -> None:
    for i in range(len(x)):
        for j in range(len(y)):
            result[i, j] = _distance(x[i][mask[i]], y[j][other[j]], radius)


@njit(cache=CACHE, nogil=True)
def _distance(a: Array, b: Array, radius: float) -> float:
    total_a, total_b = a[:, 2].sum(), b[:, 2].sum()
    n, m = len(a) + (total_a < total_b), len(b) + (total_b < total_a)
    if n == 0 or m == 0:
        return 0.0
    supply, demand = np.empty(n), np.empty(m)
    supply[: len(a)], demand[: len(b)] = a[:, 2], b[:, 2]
    if n > len(a):
        supply[n - 1] = total_b - total_a
    if m > len(b):
        demand[m - 1] = total_a - total_b
    cost = np.ones((n, m))
    for i in range(len(a)):
        for j in range(len(b)):
            square = (a[i, 0] - b[j, 0]) ** 2 + (a[i, 1] - b[j, 1]) ** 2
            cost[i, j] = np.sqrt(square) / radius
    return float(_transport(supply, demand, cost))


@njit(cache=CACHE, nogil=True)
def _transport(supply: Array, demand: Array, cost: Array) -> float:
    """Return the least cost of moving a supply (n,) to a demand (m,) of the same sum."""
    n, m = cost.shape
    flow = np.zeros((m, n))
    dual, other_dual = np.empty(n), np.zeros(m)
    for i in range(n):
        dual[i] = cost[i].min()
    nothing = _ROUNDING * supply.sum()
    length, sink_from = np.empty(m), np.empty(m, np.int64)
    reached, source_from = np.empty(n), np.empty(n, np.int64)
    open_sinks, unseen = np.empty(m, np.int64), np.empty(n, np.int64)
    for start in range(n):
        while supply[start] > nothing:
            # The shortest path from here to a sink that is not full, over flow that may be undone.
            # Open sinks, and sources not seen, come first in their lists.
            n_open, n_unseen = m, n - 1
            for j in range(m):
                open_sinks[j], sink_from[j] = j, start
                length[j] = cost[start, j] - dual[start] - other_dual[j]
            for i in range(n):
                unseen[i] = i
            unseen[start], unseen[n - 1] = n - 1, start
            reached[start] = 0.0
            end = -1
            while n_open > 0:
                at = 0
                for k in range(1, n_open):
                    if length[open_sinks[k]] < length[open_sinks[at]]:
                        at = k
                end = open_sinks[at]
                if demand[end] > nothing:
                    break
                n_open -= 1
                open_sinks[at], open_sinks[n_open] = open_sinks[n_open], end
                k = 0
                while k < n_unseen:
                    i = unseen[k]
                    if flow[end, i] <= 0:
                        k += 1
                        continue
                    reached[i], source_from[i] = length[end], end
                    n_unseen -= 1
                    unseen[k], unseen[n_unseen] = unseen[n_unseen], i
                    base = length[end] - dual[i]
                    for k_open in range(n_open):
                        j = open_sinks[k_open]
                        further = base + cost[i, j] - other_dual[j]
                        if further < length[j]:
                            length[j], sink_from[j] = further, i
            if n_open == 0:  # What is left is rounding.
                break
            for k in range(n_unseen, n):
                dual[unseen[k]] += length[end] - reached[unseen[k]]
            for k in range(n_open, m):
                j = open_sinks[k]
                other_dual[j] -= length[end] - length[j]
            # As much as the whole path carries.
            amount, j = min(supply[start], demand[end]), end
            while sink_from[j] != start:
                i = sink_from[j]
                j = source_from[i]
                amount = min(amount, flow[j, i])
            supply[start] -= amount
            demand[end] -= amount
            j = end
            while True:
                i = sink_from[j]
                flow[j, i] += amount
                if i == start:
                    break
                j = source_from[i]
                flow[j, i] -= amount
    total = 0.0
    for i in range(n):
        for j in range(m):
            total += flow[j, i] * cost[i, j]
    return total
