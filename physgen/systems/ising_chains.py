"""Configurations of the Ising model by Markov chains, on lattices of any bonds.

Where no bonds are frustrated, clusters make one chain of configurations that are about independent;
on the square lattice in the disordered phase 64 replicas in the bits of words are faster. Where
bonds are frustrated, replicas at several temperatures exchange configurations, in several chains
that begin at random and share no random numbers.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from physgen.sampling.autocorrelation import mixed
from physgen.sampling.thinning import spacing
from physgen.systems.spin_chains import by_clusters

LOG = logging.getLogger("physgen")

CHAINS = 8
"""Of frustrated bonds."""
_TRIAL = 200
"""Configurations of the run before, which tells how far apart the kept ones must be."""
_SWEEPS = 10
"""Sweeps between two of them."""
_WIDTH = 2.0
"""sqrt(N) ln(T_a / T_b) of neighbours: about half of the exchanges take place."""


@dataclass(frozen=True)
class Model:
    """What the chains must know of an Ising model.

    Attributes:
        shape: of the lattice.
        neighbours: (N, z) numbers of sites.
        signs: (N, z), of their bonds.
        fast: whether it is the ferromagnet on the square lattice, for which there are kernels.
        start: (*shape), a configuration of low energy without field, where there is no frustration.
        temperature: T.
        field: h.
    """

    shape: tuple[int, ...]
    neighbours: NDArray[np.int32]
    signs: NDArray[np.int8]
    fast: bool
    start: NDArray[np.int8]
    temperature: float
    field: float


def correlation_length(temperature: float) -> float:
    """Return that of the infinite square lattice above Tc, 1 / xi = -ln tanh K - 2K; else inf.

    >>> round(correlation_length(4.0), 3)
    1.103
    """
    k = 1 / temperature
    inverse = -math.log(math.tanh(k)) - 2 * k
    return 1 / inverse if inverse > 0 else math.inf


def packed(
    shape: tuple[int, ...], temperature: float, xi: float, n: int, seed: int
) -> NDArray[np.int8]:
    """Return (n, *shape) of the square lattice above Tc, where the correlation length is `xi`."""
    from physgen.systems.kernels import ising as kernel

    state = kernel.random_state(seed)
    words = np.random.default_rng(seed).integers(2**64, size=shape, dtype=np.uint64)
    sweeps = math.ceil(10 + 20 * xi**2)
    spins = np.empty((-(-n // 64), 64, *shape), np.int8)
    kernel.metropolis_64(words, temperature, 10 * sweeps, state)
    for block in spins:
        kernel.metropolis_64(words, temperature, sweeps, state)
        kernel.unpack_64(words, block)
    return spins.reshape(-1, *shape)[:n]


def clusters(model: Model, n: int, seed: int) -> NDArray[np.int8]:
    """Return (n, *shape) by clusters and, in a field, sweeps between them; bonds not frustrated."""
    from scipy.special import expit

    from physgen.systems.kernels import ising as kernel
    from physgen.systems.kernels import spins as tables

    state, t, h = kernel.random_state(seed), model.temperature, model.field
    # Along the field, so that no metastable state has to be left.
    spins = -model.start if h < 0 else model.start.copy()
    sweeps = 1 if h == 0 else 100
    bonds = tables.Bonds(model.neighbours, model.signs, h)
    flat = spins.reshape(-1)

    def flip(number: int) -> int:
        if model.fast:
            return int(kernel.wolff(spins, t, h, number, state))
        return int(tables.clusters(flat, bonds, t, number, state))

    def fill(n_clusters: int, out: NDArray[np.int8]) -> None:
        if model.fast:
            kernel.cluster_chain(spins, t, h, kernel.Updates(n_clusters, sweeps), out, state)
        else:
            updates = kernel.Updates(n_clusters, sweeps)
            tables.cluster_chain(flat, bonds, t, updates, out.reshape(len(out), -1), state)

    if model.fast:
        kernel.metropolis(spins, t, h, 100, state)
    else:
        tables.heat_bath(flat, bonds, t, 100, state)
    chain = np.empty((n, *model.shape), np.int8)
    by_clusters(flip, fill, chain)
    # An even number of clusters of nearly all sites leaves all spins where they were: whether they
    # are turned is drawn afresh in every state.
    total = chain.sum(tuple(range(1, chain.ndim)), dtype=np.int64)
    generator = np.random.default_rng(seed)
    # Bits without a field, so that data sets that are known by their hash stay what they are.
    if h == 0:
        turned = generator.integers(2, size=n, dtype=np.int8) == 1
    else:
        turned = generator.random(n) < expit(-2 * h * total / t)
    chain[turned] *= -1
    return chain


def ladder(temperature: float, hottest: float, n_sites: int) -> NDArray[np.float64]:
    """Return (R,) temperatures from the one that is asked for up to one where chains move freely.

    >>> ladder(1.0, 2.0, 16).round(2).tolist()
    [1.0, 1.41, 2.0]
    """
    if temperature >= hottest:
        return np.array([temperature])
    steps = math.ceil(math.sqrt(n_sites) * math.log(hottest / temperature) / _WIDTH)
    return np.geomspace(temperature, hottest, steps + 1)


def tempered(model: Model, length: int, seed: int) -> NDArray[np.int8]:
    """Return (CHAINS, length, N) by parallel tempering up to half of the mean-field temperature.

    Kept configurations are two autocorrelation times apart, as a run before measures them; chains
    that do not mix are named in the log.
    """
    from physgen.systems.kernels import spins as kernel

    n_sites, z = model.neighbours.shape
    temperatures = ladder(model.temperature, z / 2, n_sites)
    bonds = kernel.Bonds(model.neighbours, model.signs, model.field)
    streams = np.random.SeedSequence(seed).generate_state(CHAINS, np.uint64).reshape(CHAINS, 1)
    size = (CHAINS, len(temperatures), n_sites)
    replicas = 2 * np.random.default_rng(seed).integers(2, size=size, dtype=np.int8) - 1

    def run(n_skip: int, n_keep: int) -> NDArray[np.int8]:
        out = np.empty((CHAINS, n_keep, n_sites), np.int8)
        for chain, part in enumerate(out):
            kernel.tempering(replicas[chain], bonds, temperatures, n_skip, part, streams[chain])
        return out

    run(_SWEEPS, _TRIAL)
    trial = run(_SWEEPS, _TRIAL)
    likeness = trial[0, -1].astype(np.float64)

    def slow(chains: NDArray[np.int8]) -> dict[str, NDArray[np.float64]]:
        """Return (T, C) energies, and squared overlaps with one configuration of the trial."""
        flat = chains.reshape(-1, n_sites)
        energies = np.array([kernel.energy(one, bonds) for one in flat])
        found = {"E": energies, "overlap": (flat @ likeness / n_sites) ** 2}
        shape = chains.shape[:2]
        return {k: np.ascontiguousarray(v.reshape(shape).T) for k, v in found.items()}

    apart = max(spacing(series) for series in slow(trial).values())
    chains = run(_SWEEPS * apart, length)
    stuck = [k for k, series in slow(chains).items() if length > 1 and not mixed(series)]
    if stuck:
        LOG.warning(
            "at temperature = %g the chains do not mix in %s; means depend on where they began",
            model.temperature,
            " and ".join(stuck),
        )
    return chains
