"""N-subjettiness of jets by axes of exclusive kT clustering with the winner-take-all scheme.

Particles are merged pairwise, always the pair of the smallest min(pT_i, pT_j)^2 theta_ij^2, until N
are left; a pair has the sum of both pT in the direction of the harder one (Bertolini, Chan &
Thaler, arXiv:1310.7584), which makes axes nearly those that minimise tau_N for beta = 1.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from physgen.systems.kernels.cache import CACHE

_MOST = 3
"""Axes."""


def subjettiness(points: NDArray[np.float64], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return (B, 3), tau_1 to tau_3 over the sum of pT, in radian; NaN for jets without pT.

    Args:
        points: (B, P, 3), eta, phi and pT >= 0.
        mask: (B, P), which of them are there.
    """
    result = np.full((len(points), _MOST), np.nan)
    _jets(np.ascontiguousarray(points), np.ascontiguousarray(mask), result)
    return result


@njit(cache=CACHE, nogil=True)
def _jets(
    points: NDArray[np.float64], mask: NDArray[np.bool_], result: NDArray[np.float64]
) -> None:
    for jet in range(len(points)):
        particles = points[jet][mask[jet]]
        total = particles[:, 2].sum()
        if not total > 0:
            continue
        n = len(particles)
        axes = particles.copy()
        nearest, smallest = np.empty(n, np.int64), np.empty(n)
        for i in range(n):
            _find(axes, n, i, nearest, smallest)
        for n_axes in range(n, 0, -1):
            if n_axes <= _MOST:
                result[jet, n_axes - 1] = _tau(particles, axes[:n_axes]) / total
            if n_axes > 1:
                _merge(axes, n_axes, nearest, smallest)
        for n_axes in range(n, _MOST):
            result[jet, n_axes] = 0.0


@njit(cache=CACHE, nogil=True, inline="always")
def _distance(axes: NDArray[np.float64], i: int, j: int) -> float:
    """Square of the kT distance."""
    pt = min(axes[i, 2], axes[j, 2])
    return float(pt**2 * ((axes[i, 0] - axes[j, 0]) ** 2 + (axes[i, 1] - axes[j, 1]) ** 2))


@njit(cache=CACHE, nogil=True)
def _find(
    axes: NDArray[np.float64],
    n: int,
    i: int,
    nearest: NDArray[np.int64],
    smallest: NDArray[np.float64],
) -> None:
    """Find the nearest of the first n to the i-th."""
    nearest[i], smallest[i] = -1, np.inf
    for j in range(n):
        if j != i:
            distance = _distance(axes, i, j)
            if distance < smallest[i]:
                nearest[i], smallest[i] = j, distance


@njit(cache=CACHE, nogil=True)
def _merge(
    axes: NDArray[np.float64], n: int, nearest: NDArray[np.int64], smallest: NDArray[np.float64]
) -> None:
    """Merge the nearest pair of n; what is left are the first n - 1."""
    a = int(np.argmin(smallest[:n]))
    b = int(nearest[a])
    if a > b:
        a, b = b, a
    if axes[b, 2] > axes[a, 2]:
        axes[a, :2] = axes[b, :2]
    pt = axes[a, 2] + axes[b, 2]
    axes[a, 2] = pt
    last = n - 1
    axes[b] = axes[last]
    nearest[b], smallest[b] = nearest[last], smallest[last]
    # Who was nearest to one of the two looks again, and the last one has moved to b.
    for i in range(last):
        if i == a or nearest[i] == a or nearest[i] == b:
            _find(axes, last, i, nearest, smallest)
        else:
            if nearest[i] == last:
                nearest[i] = b
            distance = _distance(axes, i, a)
            if distance < smallest[i]:
                nearest[i], smallest[i] = a, distance


@njit(cache=CACHE, nogil=True)
def _tau(particles: NDArray[np.float64], axes: NDArray[np.float64]) -> float:
    total = 0.0
    for i in range(len(particles)):
        least = np.inf
        for k in range(len(axes)):
            square = (particles[i, 0] - axes[k, 0]) ** 2 + (particles[i, 1] - axes[k, 1]) ** 2
            least = min(least, square)
        total += particles[i, 2] * np.sqrt(least)
    return float(total)
