r"""How kernels hold links: `LANES` configurations side by side, for loops that are vector code.

An array (V d, NUMBERS LANES) has the link U_mu(x) in row x d + mu, x counted in the order of C; of
each number of it, the values of all lanes are next to one another. The numbers are

    U(1): cos theta, sin theta;    SU(2): a_0, ..., a_3 of U = a_0 + i sum_k a_k sigma_k;
    SU(3): the real and imaginary parts of the nine elements, row by row.

Outside, links are arrays (C, d, *shape) of angles or (C, d, *shape, N, N, 2) of real and imaginary
parts. A table of neighbours serves every dimension and all extents.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from physgen.errors import DomainError
from physgen.systems.kernels.cache import CACHE
from physgen.systems.kernels.scalar import neighbours

Real = NDArray[np.float64]
Table = NDArray[np.int32]

LANES = 8
"""Configurations that are advanced together: the doubles of one AVX-512 register."""

inlined = numba.njit(cache=CACHE, forceinline=True)
"""For what kernels call: it becomes a part of them.

Where sums are reordered and contracted, a function that is inlined rounds otherwise than one that
is called, and which of them it is differs between the process that compiles a kernel and those that
load it from the cache. Thus seeds fix samples to the last bit.
"""

FAST = {"contract", "reassoc", "nsz"}
"""What is changed of floating-point arithmetic: NaN and infinity stay what they are."""

fast = numba.njit(cache=CACHE, forceinline=True, fastmath=FAST, error_model="numpy")
"""For the loops over lanes, where sums may be reordered and contracted; inlined, too."""

NUMBERS = {1: 2, 2: 4, 3: 18}
"""Numbers of a link by N."""


def group_of(links: Real) -> tuple[int, tuple[int, ...]]:
    """Return N and the shape of the lattice of links (C, d, *shape) or (C, d, *shape, N, N, 2).

    Raises:
        DomainError: the array has none of these shapes, or an extent below 2.

    >>> group_of(np.zeros((5, 2, 8, 8))), group_of(np.zeros((5, 3, 4, 4, 6, 2, 2, 2)))
    ((1, (8, 8)), (2, (4, 4, 6)))
    """
    d = links.shape[1] if links.ndim > 1 else 0
    n, shape = 1, links.shape[2:]
    if links.ndim == d + 5 and links.shape[-3] == links.shape[-2] and links.shape[-1] == 2:
        n, shape = links.shape[-2], links.shape[2:-3]
    if len(shape) != d or d < 2 or min(shape) < 2 or n not in NUMBERS:
        raise DomainError(
            f"links of shape {links.shape}: expected (C, d, *shape) angles of U(1), or (C, d, "
            "*shape, N, N, 2) numbers of SU(2) or SU(3), with d >= 2 extents of at least 2"
        )
    return n, shape


def pack(links: Real) -> Real:
    """Return (G, V d, NUMBERS LANES), groups of lanes; the last chain is repeated to fill one."""
    n, shape = group_of(links)
    d, n_sites = len(shape), math.prod(shape)
    n_groups = -(-len(links) // LANES)
    packed = np.empty((n_groups, n_sites * d, NUMBERS[n] * LANES))
    flat = np.ascontiguousarray(links).reshape(len(links), d, n_sites, -1)
    for group in range(n_groups):
        for lane in range(LANES):
            chain = flat[min(group * LANES + lane, len(links) - 1)]
            _PACK[n](chain, packed[group], lane)
    return packed


def unpack(packed: Real, links: Real) -> None:
    """Write groups of lanes back into links; a matrix of SU(2) is made of its four numbers."""
    n, shape = group_of(links)
    d, n_sites = len(shape), math.prod(shape)
    flat = np.empty((len(links), d, n_sites, 2 * n * n if n > 1 else 1))
    for chain in range(len(links)):
        _UNPACK[n](packed[chain // LANES], chain % LANES, flat[chain])
    links[...] = flat.reshape(links.shape)


def table_of(shape: tuple[int, ...]) -> Table:
    """Return (V, 2 d): the sites one step forwards and backwards along each axis, periodic."""
    return neighbours(shape)


@numba.njit(cache=CACHE)
def _pack_1(chain: Real, packed: Real, lane: int) -> None:
    for mu in range(chain.shape[0]):
        for site in range(chain.shape[1]):
            row = packed[site * chain.shape[0] + mu]
            row[lane] = math.cos(chain[mu, site, 0])
            row[LANES + lane] = math.sin(chain[mu, site, 0])


@numba.njit(cache=CACHE)
def _pack_2(chain: Real, packed: Real, lane: int) -> None:
    for mu in range(chain.shape[0]):
        for site in range(chain.shape[1]):
            row, u = packed[site * chain.shape[0] + mu], chain[mu, site]
            row[lane] = 0.5 * (u[0] + u[6])
            row[LANES + lane] = 0.5 * (u[3] + u[5])
            row[2 * LANES + lane] = 0.5 * (u[2] - u[4])
            row[3 * LANES + lane] = 0.5 * (u[1] - u[7])


@numba.njit(cache=CACHE)
def _pack_3(chain: Real, packed: Real, lane: int) -> None:
    for mu in range(chain.shape[0]):
        for site in range(chain.shape[1]):
            row, u = packed[site * chain.shape[0] + mu], chain[mu, site]
            for k in range(18):
                row[k * LANES + lane] = u[k]


@numba.njit(cache=CACHE)
def _unpack_1(packed: Real, lane: int, chain: Real) -> None:
    for mu in range(chain.shape[0]):
        for site in range(chain.shape[1]):
            row = packed[site * chain.shape[0] + mu]
            chain[mu, site, 0] = math.atan2(row[LANES + lane], row[lane])


@numba.njit(cache=CACHE)
def _unpack_2(packed: Real, lane: int, chain: Real) -> None:
    for mu in range(chain.shape[0]):
        for site in range(chain.shape[1]):
            row, u = packed[site * chain.shape[0] + mu], chain[mu, site]
            a0, a1 = row[lane], row[LANES + lane]
            a2, a3 = row[2 * LANES + lane], row[3 * LANES + lane]
            u[0], u[1], u[2], u[3] = a0, a3, a2, a1
            u[4], u[5], u[6], u[7] = -a2, a1, a0, -a3


@numba.njit(cache=CACHE)
def _unpack_3(packed: Real, lane: int, chain: Real) -> None:
    for mu in range(chain.shape[0]):
        for site in range(chain.shape[1]):
            row, u = packed[site * chain.shape[0] + mu], chain[mu, site]
            for k in range(18):
                u[k] = row[k * LANES + lane]


_PACK = {1: _pack_1, 2: _pack_2, 3: _pack_3}
_UNPACK = {1: _unpack_1, 2: _unpack_2, 3: _unpack_3}
