r"""Hybrid Monte Carlo for phi^4, compiled: many chains in lanes, any dimension.

The action is S = sum_x [ a phi_x^2 + lambda phi_x^4 - 2 sum_mu phi_x phi_{x+mu} ] with
a = m^2 + 2 d, which is the convention of `physgen.systems.scalar`, and its force is

    F_x = -dS/dphi_x = -2 a phi_x - 4 lambda phi_x^3 + 2 sum_mu (phi_{x+mu} + phi_{x-mu}).

H = p^2 / 2 + S is integrated by leapfrog and the end is accepted with probability
min(1, exp(-dH)). `LANES` chains stand side by side in the last axis, so that a neighbour table
serves every dimension and the compiler vectorises over chains; a group of lanes stays in the cache.

Random numbers are xoshiro256++ (Blackman & Vigna, ACM TOMS 47 (2021) 36), one stream a chain with
its state in an array of the caller; normals come from a ziggurat of 256 layers (Marsaglia & Tsang,
J. Stat. Softw. 5 (2000) 8) that takes its layer and its position from different bits.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from physgen.systems.kernels.cache import CACHE

Real = NDArray[np.float64]
Words = NDArray[np.uint64]
Table = NDArray[np.int32]

LANES = 16
"""Chains that are advanced together."""

_CLUSTERS = 8
"""Trajectories a cluster update: often enough for walls between domains to go, and cheap."""

_TAIL = 3.654152885361009  # where the base layer of a 256-layer ziggurat ends
_AREA = 0.00492867323399  # of each layer


def _ziggurat() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return edges x_0 > x_1 = tail > ... > x_256 = 0 of the layers, and exp(-x^2 / 2) there."""
    x = np.zeros(257)
    x[0] = _AREA / math.exp(-0.5 * _TAIL**2)
    x[1] = _TAIL
    for i in range(2, 256):
        x[i] = math.sqrt(-2 * math.log(_AREA / x[i - 1] + math.exp(-0.5 * x[i - 1] ** 2)))
    return x, np.exp(-0.5 * x**2)


_X, _Y = _ziggurat()


def streams(seed: int, n: int) -> NDArray[np.uint64]:
    """Return (n, 4) generator states, independent for every chain of every seed."""
    words = np.random.SeedSequence(seed).generate_state(4 * n, np.uint64)
    return words.astype(np.uint64).reshape(n, 4)


def neighbours(shape: tuple[int, ...]) -> NDArray[np.int32]:
    """Return (V, 2 d): the sites one step forwards and backwards along each axis, periodic."""
    sites = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
    shifted = [np.roll(sites, s, axis).ravel() for axis in range(len(shape)) for s in (-1, 1)]
    return np.ascontiguousarray(np.stack(shifted, axis=1))


class Theory(NamedTuple):
    """The action of a field.

    Attributes:
        neighbours: (V, 2 d) of every site.
        m2: the bare mass squared.
        lam: the coupling lambda.
    """

    neighbours: Table
    m2: float
    lam: float


class Steps(NamedTuple):
    """The leapfrog steps of a trajectory.

    Attributes:
        size: of a step.
        number: of a trajectory on average. Each takes between half and one and a half of it, at
            random, so that no mode of a nearly free field returns to where it was.
    """

    size: float
    number: int


@numba.njit(cache=CACHE, inline="always")
def _next(state: Words) -> np.uint64:
    s0, s1, s2, s3 = state[0], state[1], state[2], state[3]
    total = s0 + s3
    result: np.uint64 = ((total << np.uint64(23)) | (total >> np.uint64(41))) + s0
    shifted = s1 << np.uint64(17)
    s2 ^= s0
    s3 ^= s1
    s1 ^= s2
    s0 ^= s3
    s2 ^= shifted
    s3 = (s3 << np.uint64(45)) | (s3 >> np.uint64(19))
    state[0], state[1], state[2], state[3] = s0, s1, s2, s3
    return result


@numba.njit(cache=CACHE, inline="always")
def _uniform(state: Words) -> float:
    u: float = (np.float64(_next(state) >> np.uint64(11)) + 0.5) * 1.1102230246251565e-16
    return u


@numba.njit(cache=CACHE)
def _normal(state: Words) -> float:
    while True:
        bits = _next(state)
        layer = np.int64(bits & np.uint64(255))
        u = 2.0 * (np.float64(bits >> np.uint64(11)) + 0.5) * 1.1102230246251565e-16 - 1.0
        x: float = u * _X[layer]
        if abs(x) < _X[layer + 1]:
            return x
        if layer == 0:
            while True:
                tail = -math.log(_uniform(state)) / _TAIL
                if -2.0 * math.log(_uniform(state)) > tail * tail:
                    return _TAIL + tail if u > 0 else -_TAIL - tail
        height = _Y[layer] + _uniform(state) * (_Y[layer + 1] - _Y[layer])
        if height < math.exp(-0.5 * x * x):
            return x


@numba.njit(cache=CACHE)
def normals(state: Words, out: Real) -> None:
    """Fill the flat array `out` with standard normal numbers from one stream (4,)."""
    for i in range(out.size):
        out[i] = _normal(state)


@numba.njit(cache=CACHE)
def uniforms(state: Words, out: Real) -> None:
    """Fill the flat array `out` with uniform numbers in (0, 1) from one stream (4,)."""
    for i in range(out.size):
        out[i] = _uniform(state)


@numba.njit(cache=CACHE, fastmath={"contract", "reassoc", "nsz"})
def _kick(phi: Real, momentum: Real, table: Table, a2: float, lambda4: float, step: float) -> None:
    """Add step * force to the momenta (V, LANES)."""
    n_sites, n_neighbours = table.shape
    for site in range(n_sites):
        here = phi[site]
        if n_neighbours == 4:  # unrolled: the two-dimensional case is the one most used
            first, second = phi[table[site, 0]], phi[table[site, 1]]
            third, fourth = phi[table[site, 2]], phi[table[site, 3]]
            for lane in range(LANES):
                value = here[lane]
                near = first[lane] + second[lane] + third[lane] + fourth[lane]
                momentum[site, lane] += step * (2.0 * near - value * (a2 + lambda4 * value * value))
        else:
            for lane in range(LANES):
                value = here[lane]
                momentum[site, lane] -= step * value * (a2 + lambda4 * value * value)
            for k in range(n_neighbours):
                other = phi[table[site, k]]
                for lane in range(LANES):
                    momentum[site, lane] += 2.0 * step * other[lane]


@numba.njit(cache=CACHE, fastmath={"contract", "reassoc", "nsz"})
def _drift(phi: Real, momentum: Real, step: float) -> None:
    for site in range(phi.shape[0]):
        for lane in range(LANES):
            phi[site, lane] += step * momentum[site, lane]


@numba.njit(cache=CACHE, fastmath={"contract", "reassoc", "nsz"})
def energies(phi: Real, momentum: Real, table: Table, a: float, lam: float, out: Real) -> None:
    """Write H = p^2 / 2 + S of each lane into `out` (LANES,)."""
    out[:] = 0.0
    n_sites, n_neighbours = table.shape
    for site in range(n_sites):
        for lane in range(LANES):
            value = phi[site, lane]
            square = value * value
            kinetic = 0.5 * momentum[site, lane] * momentum[site, lane]
            out[lane] += kinetic + square * (a + lam * square)
        for k in range(0, n_neighbours, 2):
            other = phi[table[site, k]]
            for lane in range(LANES):
                out[lane] -= 2.0 * phi[site, lane] * other[lane]


@numba.njit(cache=CACHE)
def leapfrog(phi: Real, momentum: Real, theory: Theory, step: float, n_steps: int) -> None:
    """Integrate (V, LANES) fields and momenta in place over `n_steps` steps of size `step`."""
    table = theory.neighbours
    a2, lambda4 = 2.0 * theory.m2 + 2.0 * table.shape[1], 4.0 * theory.lam
    _kick(phi, momentum, table, a2, lambda4, 0.5 * step)
    for _ in range(n_steps - 1):
        _drift(phi, momentum, step)
        _kick(phi, momentum, table, a2, lambda4, step)
    _drift(phi, momentum, step)
    _kick(phi, momentum, table, a2, lambda4, 0.5 * step)


@numba.njit(cache=CACHE)
def turn_cluster(phi: Real, lane: int, table: Table, members: Table, state: Words) -> int:
    """Turn the signs of one cluster of a lane; return its size (Brower & Tamayo 1989).

    At fixed |phi| the signs are Ising spins with couplings 2 |phi_x phi_y|, whose clusters Wolff's
    algorithm grows by bonds of probability 1 - exp(-4 |phi_x phi_y|). No trajectory crosses the
    walls between domains that this removes.
    """
    first = np.int32(_uniform(state) * phi.shape[0])
    members[0] = first
    phi[first, lane] = -phi[first, lane]
    size, done = 1, 0
    while done < size:
        site = members[done]
        done += 1
        for k in range(table.shape[1]):
            near = table[site, k]
            # Negative where the neighbour had the sign of the site, which is turned already.
            product = phi[site, lane] * phi[near, lane]
            if product < 0.0 and _uniform(state) > math.exp(4.0 * product):
                phi[near, lane] = -phi[near, lane]
                members[size] = near
                size += 1
    return size


@numba.njit(cache=CACHE, nogil=True)
def trajectories(
    phi: Real,
    states: Words,
    theory: Theory,
    steps: Steps,
    n_skip: int,
    out: Real,
) -> float:
    """Run HMC on one group of lanes, keeping every `n_skip`-th configuration.

    Before each trajectory all signs are turned at random, and before one in `_CLUSTERS` those of a
    cluster.

    Args:
        phi: (V, LANES), where the chains stand; moved in place.
        states: (LANES, 4) generator states; moved in place.
        theory, steps: see there.
        n_skip: trajectories from one kept configuration to the next.
        out: (n_keep, LANES, V), receives the configurations.

    Returns:
        the mean acceptance probability.
    """
    n_sites, table, n_steps = phi.shape[0], theory.neighbours, steps.number
    a = theory.m2 + table.shape[1]
    start, momentum = np.empty_like(phi), np.empty_like(phi)
    before, after = np.empty(LANES), np.empty(LANES)
    members = np.empty(n_sites, np.int32)
    accepted = 0.0
    for row in range(out.shape[0]):
        for skipped in range(n_skip):
            if (row * n_skip + skipped) % _CLUSTERS == 0:
                for lane in range(LANES):
                    turn_cluster(phi, lane, table, members, states[lane])
            start[:] = phi
            for lane in range(LANES):
                # The action is even: flipping the sign is an exact move that never fails.
                sign = 1.0 if _next(states[lane]) >> np.uint64(63) else -1.0
                for site in range(n_sites):
                    start[site, lane] *= sign
                    phi[site, lane] *= sign
                    momentum[site, lane] = _normal(states[lane])
            energies(phi, momentum, table, a, theory.lam, before)
            length = (n_steps + 1) // 2 + np.int64(_uniform(states[0]) * (n_steps + 1))
            leapfrog(phi, momentum, theory, steps.size, length)
            energies(phi, momentum, table, a, theory.lam, after)
            for lane in range(LANES):
                change = after[lane] - before[lane]
                # A NaN compares false, so that a trajectory that ran away is refused.
                probability = math.exp(min(0.0, -change)) if change < 1e3 else 0.0
                accepted += probability
                if not _uniform(states[lane]) < probability:
                    for site in range(n_sites):
                        phi[site, lane] = start[site, lane]
        for lane in range(LANES):
            for site in range(n_sites):
                out[row, lane, site] = phi[site, lane]
    rate: float = accepted / (out.shape[0] * n_skip * LANES)
    return rate
