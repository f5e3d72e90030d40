"""Chains of spins by clusters: how far apart configurations are that count as independent."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_TRIAL = 200


def by_clusters(
    flip: Callable[[int], int],
    fill: Callable[[int, NDArray[np.int8]], None],
    chain: NDArray[np.int8],
) -> None:
    """Fill (n, *shape) configurations, each about 10 N sites after the last.

    Args:
        flip: moves the chain by so many clusters, and returns the sum of their sizes.
        fill: fills (n, *shape) with states that are so many clusters apart.
        chain: receives the configurations.
    """
    flip(_TRIAL)
    size = flip(_TRIAL) / _TRIAL
    # A fixed number of clusters: to stop when enough sites were flipped would favour states that
    # large clusters lead to.
    n_clusters = math.ceil(10 * math.prod(chain.shape[1:]) / size)
    flip(20 * n_clusters)
    fill(n_clusters, chain)
