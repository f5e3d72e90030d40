"""Prints a checksum of what compiled kernels compute, a line each; run by `test_compiled.py`."""

import hashlib

import numpy as np

from physgen import recipe
from physgen.components import system_of
from physgen.systems.kernels import gauge_flow, gauge_steps
from physgen.systems.kernels.gauge.flow import flowed
from physgen.systems.kernels.gauge.heatbath import Chains
from physgen.systems.kernels.gauge.hmc import HybridChains
from physgen.systems.kernels.gauge.pseudofermions import PseudofermionChains


def cold(n):
    """Eight configurations of unit links of U(1), SU(2), SU(3) on 4 x 4."""
    if n == 1:
        return np.zeros((8, 2, 4, 4))
    links = np.zeros((8, 2, 4, 4, n, n, 2))
    links[..., range(n), range(n), 0] = 1
    return links


def hot(n):
    """Eight configurations that are far from unit links."""
    chains = HybridChains(cold(n), beta=0.0, seed=1)
    chains.run(2, 0.2, 5)
    return chains.links()


def heat_bath(n):
    chains = Chains(cold(n), beta=2.0, seed=1)
    chains.sweep(5, 2)
    return chains.links()


def moved(chains):
    done = chains.run(5, 0.1, 10)
    return chains.links(), done.change


def learned_flow(n):
    rng = np.random.default_rng(1)
    u, _ = np.linalg.qr(rng.normal(size=(8, 32, n, n)) + 1j * rng.normal(size=(8, 32, n, n)))
    u = np.ascontiguousarray(u / np.linalg.det(u)[..., None, None] ** (1 / n) if n > 1 else u)
    where = gauge_flow.lattice((4, 4))
    c = rng.normal(scale=0.1, size=(4, 3, gauge_flow.N_TERMS))
    change = gauge_steps.integrate(u, where, c, 0.1)
    return u, change, *gauge_steps.derivatives(u, where, np.arange(gauge_flow.N_TERMS))


def simulated(name, **changes):
    batch = system_of(recipe.read(name, changes)).simulate(64, 1)
    return batch.x.numpy()


def say(name, *numbers):
    every = b"".join(np.ascontiguousarray(x).tobytes() for x in numbers)
    print(name, hashlib.sha256(every).hexdigest())


for n in (1, 2, 3):
    say(f"heat bath, N = {n}", heat_bath(n))
    say(f"HMC, N = {n}", *moved(HybridChains(cold(n), beta=2.0, seed=1)))
    say(f"gradient flow, N = {n}", flowed(hot(n), 0.2))
    say(f"learned flow, N = {n}", *learned_flow(n))
say("pseudofermions", *moved(PseudofermionChains(cold(1), beta=1.0, kappa=0.2, seed=1)))
say("phi^4", simulated("phi4-flow"))
say("Ising", simulated("ising-rbm"))
say("showers", simulated("calo-flow"))
