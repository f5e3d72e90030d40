r"""Monte Carlo updates of Potts spins on any lattice, compiled.

The weight of spins s_i = 0, ..., q - 1 is exp(-E / T) with E = - sum_<ij> delta(s_i, s_j). Both
leave it invariant:

- `metropolis`: to each site in turn one of all q values is proposed;
- `clusters` (Wolff, Phys. Rev. Lett. 62 (1989) 361): a cluster of equal spins grows by bonds of
  probability 1 - exp(-1 / T) and takes one of the q - 1 other values.

Random numbers are those of `physgen.systems.kernels.splitmix`, the state one uint64 a chain.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from physgen.systems.kernels.cache import CACHE
from physgen.systems.kernels.splitmix import STRIDE, mix

_S32 = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


@njit(cache=CACHE, inline="always")
def _choose(draw: Any, n: int) -> Any:
    """Return one of n numbers by the high half of a random word, uniform to n / 2^32."""
    return np.int64(((draw >> _S32) * np.uint64(n)) >> _S32)


@njit(cache=CACHE)
def metropolis(
    spins: NDArray[np.int8],
    neighbours: NDArray[np.int32],
    options: tuple[int, float],
    n_sweeps: int,
    state: NDArray[np.uint64],
) -> None:
    """Sweep (N,) spins in place, given (N, z) neighbours and (q, T) (acceptance to 2^-32)."""
    n_sites, z = neighbours.shape
    q, temperature = options
    table = np.empty(z + 1, np.uint64)
    for cost in range(z + 1):
        table[cost] = np.uint64(np.exp(-cost / temperature) * 4294967296.0)
    counter = state[0]
    for _ in range(n_sweeps):
        for i in range(n_sites):
            counter += STRIDE
            draw = mix(counter)
            proposed = _choose(draw, q)
            cost = 0
            for k in range(z):
                near = spins[neighbours[i, k]]
                cost += int(near == spins[i]) - int(near == proposed)
            # Halves of a word are independent.
            if cost <= 0 or (draw & _LOW) < table[cost]:
                spins[i] = proposed
    state[0] = counter


@njit(cache=CACHE)
def clusters(
    spins: NDArray[np.int8],
    neighbours: NDArray[np.int32],
    options: tuple[int, float],
    n_clusters: int,
    state: NDArray[np.uint64],
) -> int:
    """Grow clusters and give them other values, in place; return the sum of their sizes."""
    n_sites, z = neighbours.shape
    q, temperature = options
    threshold = np.uint64((1.0 - np.exp(-1.0 / temperature)) * 4294967296.0)
    members = np.empty(n_sites, np.int64)
    counter = state[0]
    total = 0
    for _ in range(n_clusters):
        counter += STRIDE
        first = _choose(mix(counter), n_sites)
        counter += STRIDE
        old = spins[first]
        new = (old + 1 + _choose(mix(counter), q - 1)) % q
        spins[first] = new
        members[0] = first
        size, done = 1, 0
        while done < size:
            here = members[done]
            done += 1
            for k in range(z):
                there = neighbours[here, k]
                if spins[there] == old:
                    counter += STRIDE
                    if (mix(counter) >> _S32) < threshold:
                        spins[there] = new
                        members[size] = there
                        size += 1
        total += size
    state[0] = counter
    return total
