"""The energy mover's distance of two jets (Komiske, Metodiev & Thaler, arXiv:1902.02346, eq. 1).

With z_i, z'_j the pT of their particles and theta_ij their distances,

    EMD = min_f sum_ij f_ij theta_ij / R + |sum z - sum z'|,    f_ij >= 0,
    sum_j f_ij <= z_i,  sum_i f_ij <= z'_j,  sum_ij f_ij = min(sum z, sum z').

One particle more on the lighter side, at the distance R of all, makes it a balanced transport. That
is solved exactly, by successive shortest paths in the dual (as the Hungarian method does for equal
weights).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from physgen.systems.kernels.cache import CACHE

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_ROUNDING = 1e-13
"""What is left of the pT of a jet, relative to it, when it is used up."""


def energy_mover(x: Array, mask: Mask, y: Array, other: Mask, radius: float = 1.0) -> Array:
    """Return (N, M) distances of (N, P, 3) to (M, Q, 3) jets, eta, phi and pT, in units of pT.

    Args:
        x, y: particles; a negative pT counts as 0.
        mask, other: (N, P) and (M, Q), which of them are there.
        radius: R, how far pT is moved at the cost of making it.

    Of two particles it is min(z, z') theta / R + |z - z'|:

    >>> x, y = np.array([[[0.0, 0.0, 1.0]]]), np.array([[[0.3, 0.4, 0.8]]])
    >>> one = np.ones((1, 1), bool)
    >>> round(energy_mover(x, one, y, one).item(), 12)  # 0.8 * 0.5 + 0.2
    0.6
    """
    result = np.zeros((len(x), len(y)))
    a, b = (np.ascontiguousarray(points, np.float64) for points in (x, y))
    _table(a, mask & (x[..., 2] > 0), b, other & (y[..., 2] > 0), radius, result)
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
    flow = np.zeros((n, m))
    dual, other_dual = np.empty(n), np.zeros(m)
    for i in range(n):
        dual[i] = cost[i].min()
    nothing = _ROUNDING * supply.sum()
    length, sink_from = np.empty(m), np.empty(m, np.int64)
    reached, done = np.empty(n), np.empty(m, np.bool_)
    source_from, seen = np.empty(n, np.int64), np.empty(n, np.bool_)
    for start in range(n):
        while supply[start] > nothing:
            # The shortest path from here to a sink that is not full, over flow that may be undone.
            seen[:], done[:] = False, False
            seen[start], reached[start] = True, 0.0
            length[:] = cost[start] - dual[start] - other_dual
            sink_from[:] = start
            while True:
                end = -1
                for j in range(m):
                    if not done[j] and (end < 0 or length[j] < length[end]):
                        end = j
                if end < 0 or demand[end] > nothing:
                    break
                done[end] = True
                for i in range(n):
                    if not seen[i] and flow[i, end] > 0:
                        seen[i], reached[i], source_from[i] = True, length[end], end
                        for j in range(m):
                            further = length[end] + cost[i, j] - dual[i] - other_dual[j]
                            if not done[j] and further < length[j]:
                                length[j], sink_from[j] = further, i
            if end < 0:  # What is left is rounding.
                break
            for i in range(n):
                if seen[i]:
                    dual[i] += length[end] - reached[i]
            for j in range(m):
                if done[j]:
                    other_dual[j] -= length[end] - length[j]
            # As much as the whole path carries.
            amount, j = min(supply[start], demand[end]), end
            while sink_from[j] != start:
                i = sink_from[j]
                j = source_from[i]
                amount = min(amount, flow[i, j])
            supply[start] -= amount
            demand[end] -= amount
            j = end
            while True:
                i = sink_from[j]
                flow[i, j] += amount
                if i == start:
                    break
                j = source_from[i]
                flow[i, j] -= amount
    return float((flow * cost).sum())
