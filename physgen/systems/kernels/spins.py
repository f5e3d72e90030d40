r"""Monte Carlo updates of Ising spins on any lattice, compiled: bonds come as tables.

The weight of spins s_i = -1 or +1 is exp(-E / T) with E = - sum_<ij> J_ij s_i s_j - h sum_i s_i.
All leave it invariant:

- `heat_bath`: each spin in turn is drawn afresh, given its neighbours;
- `clusters` (Wolff, Phys. Rev. Lett. 62 (1989) 361), which grow along satisfied bonds, J_ij s_i s_j
  > 0, and whose flips are accepted with min(1, exp(-2 h sum_C s / T)). They hold for any signs of
  J_ij, and only help where no loop of bonds is frustrated: else clusters soon fill the lattice;
- `tempering`: replicas at several temperatures, swept by `heat_bath`, whose neighbours then
  exchange their configurations with min(1, exp((1 / T_a - 1 / T_b) (E_a - E_b))) (Swendsen & Wang,
  Phys. Rev. Lett. 57 (1986) 2607; Hukushima & Nemoto, J. Phys. Soc. Jpn. 65 (1996) 1604).

Random numbers are those of `physgen.systems.kernels.splitmix`, the state one uint64 a chain.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from physgen.systems.kernels.cache import CACHE
from physgen.systems.kernels.ising import Updates
from physgen.systems.kernels.splitmix import STRIDE, mix

_S11, _S32 = np.uint64(11), np.uint64(32)
_TO_UNIT = 2.0**-53


class Bonds(NamedTuple):
    """What spins feel.

    Attributes:
        neighbours: (N, z) flat numbers of sites.
        signs: (N, z), J_ij of -1 or +1.
        field: h.

    >>> ring = Bonds(np.array([[2, 1], [0, 2], [1, 0]], np.int32), np.ones((3, 2), np.int8), 0.5)
    >>> energy(np.ones(3, np.int8), ring)
    -4.5
    """

    neighbours: NDArray[np.int32]
    signs: NDArray[np.int8]
    field: float


@njit(cache=CACHE)
def energy(spins: NDArray[np.int8], bonds: Bonds) -> float:
    """Return E of (N,) spins."""
    twice, total = 0, 0
    for i in range(spins.size):
        for k in range(bonds.neighbours.shape[1]):
            twice += bonds.signs[i, k] * spins[i] * spins[bonds.neighbours[i, k]]
        total += spins[i]
    return -0.5 * twice - bonds.field * total


@njit(cache=CACHE)
def heat_bath(
    spins: NDArray[np.int8],
    bonds: Bonds,
    temperature: float,
    n_sweeps: int,
    state: NDArray[np.uint64],
) -> None:
    """Sweep (N,) spins in place (probabilities to 2^-32)."""
    n_sites, z = bonds.neighbours.shape
    up = np.empty(2 * z + 1, np.uint64)
    for total in range(-z, z + 1):
        probability = 1.0 / (1.0 + np.exp(-2.0 * (total + bonds.field) / temperature))
        up[total + z] = np.uint64(probability * 4294967296.0)
    counter = state[0]
    for _ in range(n_sweeps):
        for i in range(n_sites):
            total = z
            for k in range(z):
                total += bonds.signs[i, k] * spins[bonds.neighbours[i, k]]
            counter += STRIDE
            spins[i] = 1 if (mix(counter) >> _S32) < up[total] else -1
    state[0] = counter


@njit(cache=CACHE)
def clusters(
    spins: NDArray[np.int8],
    bonds: Bonds,
    temperature: float,
    n_clusters: int,
    state: NDArray[np.uint64],
) -> int:
    """Grow and flip clusters in place; return the sum of their sizes (rejected ones count)."""
    n_sites, z = bonds.neighbours.shape
    threshold = np.uint64((1.0 - np.exp(-2.0 / temperature)) * 4294967296.0)
    members, inside = np.empty(n_sites, np.int64), np.zeros(n_sites, np.bool_)
    counter = state[0]
    total = 0
    for _ in range(n_clusters):
        counter += STRIDE
        first = np.int64(((mix(counter) >> _S32) * np.uint64(n_sites)) >> _S32)
        spins[first] = -spins[first]
        members[0], inside[first] = first, True
        size, done = 1, 0
        while done < size:
            here = members[done]
            done += 1
            for k in range(z):
                there = bonds.neighbours[here, k]
                # A member has been flipped: its bonds that were satisfied are not.
                if not inside[there] and bonds.signs[here, k] * spins[here] * spins[there] < 0:
                    counter += STRIDE
                    if (mix(counter) >> _S32) < threshold:
                        spins[there] = -spins[there]
                        members[size], inside[there] = there, True
                        size += 1
        gain = 0
        for k in range(size):
            gain += spins[members[k]]
            inside[members[k]] = False
        if bonds.field * gain < 0.0:
            counter += STRIDE
            draw = np.float64(mix(counter) >> _S11) * _TO_UNIT
            if draw >= np.exp(2.0 * bonds.field * gain / temperature):
                for k in range(size):
                    spins[members[k]] = -spins[members[k]]
        total += size
    state[0] = counter
    return total


@njit(cache=CACHE)
def cluster_chain(
    spins: NDArray[np.int8],
    bonds: Bonds,
    temperature: float,
    updates: Updates,
    chain: NDArray[np.int8],
    state: NDArray[np.uint64],
) -> None:
    """Fill (n, N) with states that are some `updates` apart."""
    for k in range(len(chain)):
        clusters(spins, bonds, temperature, updates.clusters, state)
        heat_bath(spins, bonds, temperature, updates.sweeps, state)
        chain[k] = spins


@njit(cache=CACHE)
def tempering(
    replicas: NDArray[np.int8],
    bonds: Bonds,
    temperatures: NDArray[np.float64],
    n_skip: int,
    out: NDArray[np.int8],
    state: NDArray[np.uint64],
) -> Any:
    """Move replicas, and write down that of the first temperature after every `n_skip` sweeps.

    Args:
        replicas: (R, N) spins; moved in place.
        bonds: of each.
        temperatures: (R,), neighbours of which exchange after every sweep, in two turns.
        n_skip: sweeps between two configurations in `out`.
        out: (n_keep, N), receives them.
        state: (1,) of the random stream; moved in place.

    Returns:
        (R - 1,), how many exchanges of all that were tried took place.
    """
    levels = len(temperatures)
    tried, done = np.zeros(max(levels - 1, 0)), np.zeros(max(levels - 1, 0))
    energies = np.empty(levels)
    for row in range(len(out)):
        for sweep in range(n_skip):
            for a in range(levels):
                heat_bath(replicas[a], bonds, temperatures[a], 1, state)
                energies[a] = energy(replicas[a], bonds)
            for a in range((row * n_skip + sweep) % 2, levels - 1, 2):
                b = a + 1
                gain = (1 / temperatures[a] - 1 / temperatures[b]) * (energies[a] - energies[b])
                state[0] += STRIDE
                draw = np.float64(mix(state[0]) >> _S11) * _TO_UNIT
                tried[a] += 1.0
                if gain >= 0.0 or draw < np.exp(gain):
                    done[a] += 1.0
                    for i in range(replicas.shape[1]):
                        replicas[a, i], replicas[b, i] = replicas[b, i], replicas[a, i]
        out[row] = replicas[0]
    return done / np.maximum(tried, 1.0)
