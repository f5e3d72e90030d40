"""Rows of one sample at the conditions of another, as nearly as there are any."""

from __future__ import annotations

import numpy as np
from numpy import float64
from numpy.typing import NDArray
from scipy.spatial import cKDTree


def nearest_rows(
    pool: NDArray[float64], wanted: NDArray[float64], *, seed: int
) -> NDArray[np.int64]:
    """Return (n,) different rows of a pool whose conditions are next to those that are wanted.

    Those that are nearest are served first; equal conditions (labels) are drawn at random.

    Args:
        pool: (N, C) conditions to choose from, N >= n.
        wanted: (n, C).
        seed: of the choice between equal conditions.
    """
    generator = np.random.default_rng(seed)
    scale = pool.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    # So little that it decides between equal conditions only.
    pool, wanted = (c / scale + 1e-9 * generator.standard_normal(c.shape) for c in (pool, wanted))
    nearest = np.empty(len(wanted), dtype=np.int64)
    free, left = np.arange(len(pool)), np.arange(len(wanted))
    while len(left):
        distance, near = cKDTree(pool[free]).query(wanted[left])
        order = np.argsort(distance, kind="stable")
        taken, first = np.unique(near[order], return_index=True)
        served = order[first]
        nearest[left[served]] = free[taken]
        free, left = np.delete(free, taken), np.delete(left, served)
    return nearest
