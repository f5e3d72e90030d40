r"""Cluster updates of O(N) models, compiled: any dimension, any number of components.

The weight of unit vectors s_x on a periodic lattice is exp(beta sum_<xy> s_x . s_y). Wolff's
update (Phys. Rev. Lett. 62 (1989) 361) draws a direction r and a site, and reflects a cluster,

    s -> s - 2 (r . s) r,

which a bond <xy> is part of with probability 1 - exp(-2 beta (r . s_x) (r . s_y)), where that is
positive. Random numbers are those of `physgen.systems.kernels.scalar`, one stream a chain.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from physgen.systems.kernels.cache import CACHE
from physgen.systems.kernels.scalar import Real, Table, Words, normals, uniforms


class _Scratch(NamedTuple):
    """What a cluster is worked out in: r (N,), r . s (V,), its sites (V,), numbers (2 d + 1,)."""

    direction: Real
    along: Real
    members: NDArray[np.int32]
    random: Real


@numba.njit(cache=CACHE)
def _cluster(spins: Real, table: Table, beta: float, scratch: _Scratch, state: Words) -> int:
    """Reflect one cluster and return how many sites it has."""
    n_sites, n = spins.shape
    direction, along, members, random = scratch
    normals(state, direction)
    length = 0.0
    for a in range(n):
        length += direction[a] ** 2
    for a in range(n):
        direction[a] /= math.sqrt(length)
    for site in range(n_sites):
        total = 0.0
        for a in range(n):
            total += direction[a] * spins[site, a]
        along[site] = total
    uniforms(state, random)
    members[0] = min(n_sites - 1, np.int64(random[-1] * n_sites))
    size, done = 1, 0
    _reflect(spins, direction, along, members[0])
    while done < size:
        here = members[done]
        done += 1
        uniforms(state, random)
        for k in range(table.shape[1]):
            there = table[here, k]
            # Of a member, `along` is turned round already.
            product = -along[here] * along[there]
            if product > 0.0 and random[k] < -math.expm1(-2.0 * beta * product):
                _reflect(spins, direction, along, there)
                members[size] = there
                size += 1
    return size


@numba.njit(cache=CACHE, inline="always")
def _reflect(spins: Real, direction: Real, along: Real, site: int) -> None:
    for a in range(spins.shape[1]):
        spins[site, a] -= 2.0 * along[site] * direction[a]
    along[site] = -along[site]


@numba.njit(cache=CACHE)
def clusters(
    spins: Real, table: Table, beta: float, n_skip: int, out: NDArray[np.float64], state: Words
) -> int:
    """Move a chain by cluster updates, with a configuration after every `n_skip` of them.

    Args:
        spins: (V, N) unit vectors; moved in place.
        table: (V, 2 d) neighbours, both ways along every axis.
        beta: the inverse coupling.
        n_skip: updates between two configurations in `out`.
        out: (n_keep, V, N), receives them.
        state: (4,) of the random stream; moved in place.

    Returns:
        the number of sites in all clusters together.
    """
    n_sites, n = spins.shape
    members, random = np.empty(n_sites, np.int32), np.empty(table.shape[1] + 1)
    scratch = _Scratch(np.empty(n), np.empty(n_sites), members, random)
    total = 0
    for row in range(out.shape[0]):
        for _ in range(n_skip):
            total += _cluster(spins, table, beta, scratch, state)
        for site in range(n_sites):  # Against rounding.
            length = 0.0
            for a in range(n):
                length += spins[site, a] ** 2
            for a in range(n):
                spins[site, a] /= math.sqrt(length)
                out[row, site, a] = spins[site, a]
    return total
