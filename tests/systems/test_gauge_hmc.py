"""Hybrid Monte Carlo of gauge links: force, reversibility, <exp(-dH)>, exact plaquettes."""

import numpy as np
import pytest
import torch

from physgen.batch import Batch
from physgen.sampling import manifold
from physgen.systems.gauge import Gauge
from physgen.systems.kernels.gauge import lanes, motion
from physgen.systems.kernels.gauge.hmc import _DRIFT, _KICK, HybridChains

GROUPS = {"U(1)": 1, "SU(2)": 2, "SU(3)": 3}


def system(group, shape, beta=1.7):
    return Gauge(group=group, shape=shape, beta=beta)


def links(group, shape, n=8):
    return system(group, shape).arbitrary(n, torch.Generator().manual_seed(1)).numpy()


def plaquette(chains, group):
    batch = Batch(x=torch.from_numpy(chains.links()))
    return system(group, chains.shape).observables(batch)["plaquette"].numpy()


def moved(group, shape, step=1.0, scale=1.0, seed=2):
    """Return chains of random links, random velocities, and the links exp(step scale A) U."""
    chains = HybridChains(links(group, shape), 1.7, seed)
    n = GROUPS[group]
    p = np.empty((len(chains.packed[0]), motion.VELOCITIES[n] * lanes.LANES))
    motion.momenta(p, n, chains._pools[0])
    p *= scale
    _DRIFT[n](chains.packed[0], p, step, lanes.LANES)
    return chains, p


def as_matrices(p, n):
    """Return (rows, LANES, N, N), the anti-Hermitian matrices of velocities."""
    v = torch.from_numpy(p.reshape(len(p), -1, lanes.LANES)).movedim(1, -1)
    if n == 3:
        return manifold.matrices(v.reshape(*v.shape[:2], 3, 3, 2)).contiguous()
    sigma = torch.tensor([[[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]]).to(
        torch.cdouble
    )
    return 1j * (v[..., None, None] * (sigma if n == 2 else torch.ones(1, 1, 1))).sum(-3)


@pytest.mark.parametrize("group", GROUPS)
def test_links_move_by_the_exponential(group):
    shape, n = (2, 3), GROUPS[group]
    chains, p = moved(group, shape, step=0.3)
    a = as_matrices(p, n).transpose(0, 1).reshape(8, 6, 2, n, n).movedim(2, 1).contiguous()
    before = torch.from_numpy(links(group, shape))
    u = torch.polar(torch.ones_like(before), before)[..., None, None]
    u = u if n == 1 else manifold.matrices(before)
    expected = torch.linalg.matrix_exp(0.3 * a) @ u.reshape(8, 2, 6, n, n)
    after = torch.from_numpy(chains.links())
    found = torch.polar(torch.ones_like(after), after)[..., None, None]
    found = (found if n == 1 else manifold.matrices(after)).reshape(8, 2, 6, n, n)
    assert (found - expected).abs().max() < 1e-13
    assert (a + a.mH).abs().max() == 0
    assert n == 1 or a.diagonal(dim1=-2, dim2=-1).sum(-1).abs().max() < 1e-15


@pytest.mark.parametrize("group", GROUPS)
def test_momenta_have_unit_variance_in_every_direction(group):
    n = GROUPS[group]
    chains = HybridChains(links(group, (30, 30)), 1.0, 3)
    p = np.empty((len(chains.packed[0]), motion.VELOCITIES[n] * lanes.LANES))
    motion.momenta(p, n, chains._pools[0])
    energy = np.empty(lanes.LANES)
    motion.kinetic(p, n, energy)
    degrees = max(n * n - 1, 1) * len(p)
    # sum p_a^2 / 2 over all components, each of mean 1/2 and variance 1/2.
    assert np.abs(energy - degrees / 2).max() < 5 * np.sqrt(degrees / 2)
    a = as_matrices(p, n).reshape(-1, n * n)
    covariance = torch.cat([a.real, a.imag], 1).T.cov()
    expected = {1: 1.0, 2: 0.25, 3: 0.25}[n]  # of the imaginary part of the last off-diagonal one
    assert covariance[-1 if n == 1 else -2, -1 if n == 1 else -2].item() == pytest.approx(
        expected, rel=0.06
    )
    assert kinetic_matches(a, energy.sum(), n)


def kinetic_matches(a, total, n):
    return (a.abs() ** 2).sum().item() * (0.5 if n == 1 else 1) == pytest.approx(total)


@pytest.mark.parametrize("shape", [(2, 3), (2, 2, 3), (2, 2, 2, 3)])
@pytest.mark.parametrize("group", GROUPS)
def test_the_force_is_the_slope_of_the_action(group, shape):
    """Along A the action changes by dS/ds = -2 tr(A F) for a kick of A by -F ds."""
    n, beta, eps = GROUPS[group], 1.7, 1e-4
    chains, p = moved(group, shape, step=0.0)
    force = np.zeros_like(p)
    c = beta if n == 1 else beta / (2 * n)
    _KICK[n](chains.packed[0], force, chains._table, 1.0, np.full(lanes.LANES, c))
    factor = {1: 1.0, 2: 4.0, 3: 2.0}[n]  # dK/dp . force, with K as `kinetic` has it
    power = -factor * (p * force).reshape(len(p), -1, lanes.LANES).sum((0, 1))
    actions = []
    for sign in (1, -1):
        there, _ = moved(group, shape, step=sign * eps)
        actions.append(system(group, shape, beta).action(torch.from_numpy(there.links())).numpy())
    assert np.abs((actions[0] - actions[1]) / (2 * eps) - power).max() < 1e-5 * np.abs(power).max()


@pytest.mark.parametrize("integrator", ["leapfrog", "minimum-norm"])
@pytest.mark.parametrize("group", GROUPS)
def test_trajectories_are_reversible_and_of_second_order(group, integrator):
    shape = (3, 2)
    errors = []
    for n_steps in (10, 20):
        chains, p = moved(group, shape, step=0.0)
        u = chains.packed[0]
        before, velocity, start = u.copy(), p.copy(), chains._energy(u, p, 0)
        chains._integrate(u, p, 0, 1 / n_steps, n_steps, integrator)
        errors.append(np.abs(chains._energy(u, p, 0) - start).mean())
        assert np.abs(u - before).max() > 0.1
        p *= -1
        chains._integrate(u, p, 0, 1 / n_steps, n_steps, integrator)
        assert np.abs(u - before).max() < 1e-12
        assert np.abs(p + velocity).max() < 1e-12
    assert 3 < errors[0] / errors[1] < 5.5


@pytest.mark.parametrize("integrator", ["leapfrog", "minimum-norm"])
@pytest.mark.parametrize(("group", "beta"), [("U(1)", 1.5), ("SU(2)", 2.2), ("SU(3)", 4.0)])
def test_plaquettes_and_energy_changes_are_exact(group, beta, integrator):
    shape = (3, 4)
    chains = HybridChains(links(group, shape, 64), beta, 4)
    step = chains.tune(integrator)
    n_steps = max(1, round(1 / step))
    chains.run(20, step, n_steps, integrator)
    values, changes, rate = [], [], []
    for _ in range(60):
        done = chains.run(1, step, n_steps, integrator)
        changes.append(done.change[0])
        rate.append(done.accepted.mean())
        values.append(plaquette(chains, group))
    assert 0.5 < np.mean(rate) < 0.99
    unity = np.exp(-np.array(changes)).mean(0)
    assert abs(unity.mean() - 1) < 4 * unity.std(ddof=1) / 8
    assert unity.std(ddof=1) / 8 < 0.05
    means = np.array(values).mean(0)
    exact = system(group, shape, beta).exact()["plaquette"]
    assert abs(means.mean() - exact) < 4 * means.std(ddof=1) / 8
    assert np.abs(np.array(changes)).mean() > 1e-3
