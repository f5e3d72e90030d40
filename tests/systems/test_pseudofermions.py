"""Pseudofermions of the Schwinger model: operator, force, reversibility, exact weights."""

import math

import numpy as np
import pytest
import torch

from physgen.batch import Batch
from physgen.errors import DomainError
from physgen.sampling.reweighting import reweighted_mean
from physgen.surrogates.correction import Corrected
from physgen.surrogates.flows.lattice.closure import ClosureDefect
from physgen.systems import schwinger_chains, wilson
from physgen.systems.kernels.gauge import fermions, lanes
from physgen.systems.kernels.gauge.pseudofermions import PseudofermionChains
from physgen.systems.schwinger import Schwinger
from physgen.validation.comparison import measure
from physgen.validation.uncertainty import gamma_method

KAPPA = 0.22
SHAPES = [(4, 6), (3, 4), (2, 2), (2, 5)]


def angles(shape, seed=1, n=8):
    return np.random.default_rng(seed).uniform(-3, 3, (n, 2, *shape))


def dense(theta):
    """Q = gamma_5 M of one (2, T, L), from the dense matrix; the even sites come first."""
    d = wilson.dirac(torch.from_numpy(theta)[None], KAPPA)[0].numpy()
    if all(extent % 2 == 0 for extent in theta.shape[1:]):
        half = len(d) // 2
        d = np.eye(half) - d[:half, half:] @ d[half:, :half]
    return np.tile([1, -1], len(d) // 2)[:, None] * d


def complexes(field, lattice, lane):
    """The (2 V,) complex numbers of one lane, on the outer sites."""
    re, im = field[lattice.outer].reshape(-1, 2, 2, lanes.LANES)[..., lane].transpose(2, 0, 1)
    return (re + 1j * im).ravel()


def normal(shape, lattice, seed=3):
    phi = np.zeros((math.prod(shape), 4 * lanes.LANES))
    phi[lattice.outer] = np.random.default_rng(seed).normal(size=phi[lattice.outer].shape)
    return phi


def solved(theta, phi, lattice, residual=1e-13):
    u, x, z = lanes.pack(theta)[0], np.empty_like(phi), np.empty_like(phi)
    assert fermions.solve(u, lattice, phi, residual, x, z).all()
    return u, x, z


@pytest.mark.parametrize("shape", SHAPES)
def test_the_solution_is_that_of_the_dense_matrix(shape):
    theta, lattice = angles(shape), fermions.fermions_on(shape, KAPPA)
    phi = normal(shape, lattice)
    _, x, z = solved(theta, phi, lattice)
    for lane in (0, 5):
        q, right = dense(theta[lane]), complexes(phi, lattice, lane)
        np.testing.assert_allclose(q, q.conj().T, atol=1e-14)
        np.testing.assert_allclose(complexes(z, lattice, lane), np.linalg.solve(q, right))
        np.testing.assert_allclose(complexes(x, lattice, lane), np.linalg.solve(q @ q, right))
        sign, log = np.linalg.slogdet(q)
        known = wilson.determinant(torch.from_numpy(theta[lane : lane + 1]), KAPPA)[1].item()
        assert log == pytest.approx(known)
        assert abs(sign.imag) < 1e-12


@pytest.mark.parametrize("residual", [1e-3, 1e-12])
def test_the_residual_is_the_one_that_was_asked_for(residual):
    shape = (8, 8)
    lattice = fermions.fermions_on(shape, KAPPA)
    phi = normal(shape, lattice)
    u, _, z = solved(angles(shape), phi, lattice, residual)
    again, work, left, all_of_it = (np.zeros_like(phi) for _ in range(4))
    fermions.hermitian(u, lattice, z, work, again, lanes.LANES)
    left[lattice.outer] = (again - phi)[lattice.outer]
    all_of_it[lattice.outer] = phi[lattice.outer]
    reached = np.sqrt(
        (left.reshape(-1, lanes.LANES) ** 2).sum(0)
        / (all_of_it.reshape(-1, lanes.LANES) ** 2).sum(0)
    )
    assert (reached < 1.1 * residual).all()
    assert (reached > 1e-3 * residual).any()


@pytest.mark.parametrize("shape", SHAPES)
def test_force_is_the_slope_of_the_pseudofermion_action(shape):
    theta, lattice = angles(shape), fermions.fermions_on(shape, KAPPA)
    phi = normal(shape, lattice)

    def action(angle):
        value = np.empty(lanes.LANES)
        fermions.squares(solved(angle, phi, lattice)[2], lattice.outer, value, lanes.LANES)
        return value

    u, x, z = solved(theta, phi, lattice)
    p = np.zeros((2 * math.prod(shape), lanes.LANES))
    fermions.kick(u, lattice, x, z, 0.5, p)
    direction, step = np.random.default_rng(5).normal(size=theta.shape), 1e-5
    slope = (action(theta + step * direction) - action(theta - step * direction)) / (2 * step)
    along = direction.reshape(lanes.LANES, 2, -1).transpose(2, 1, 0).reshape(p.shape)
    np.testing.assert_allclose(-2 * (p * along).sum(0), slope, rtol=1e-6, atol=1e-6)


def test_pseudofermions_are_drawn_with_their_action():
    """|Q^-1 phi|^2 = |eta|^2 has the mean V on V complex numbers, and the variance V."""
    chains = PseudofermionChains(angles((4, 4)), 1.0, KAPPA, 1)
    u, energies = chains.packed[0], []
    rest = np.zeros((32, lanes.LANES))
    for _ in range(200):
        chains._draw(0)
        energies.append(chains._energy(u, rest, 0))
    gauge = super(PseudofermionChains, chains)._energy(u, rest, 0)
    values = np.array(energies) - gauge
    assert values.mean() == pytest.approx(16, abs=5 * math.sqrt(16 / 1600))
    assert values.var() == pytest.approx(16, rel=0.25)


@pytest.mark.parametrize("shape", [(4, 4), (3, 4)])
def test_trajectories_are_reversible(shape):
    chains = PseudofermionChains(angles(shape), 1.0, KAPPA, 1)
    u, before = chains.packed[0], chains.links()
    p = np.random.default_rng(2).normal(size=(len(u), lanes.LANES))
    first = p.copy()
    chains._draw(0)
    chains._integrate(u, p, 0, 0.1, 10, "minimum-norm")
    assert np.abs(chains.links() - before).max() > 0.1
    p *= -1
    chains._integrate(u, p, 0, 0.1, 10, "minimum-norm")
    difference = np.exp(1j * chains.links()) - np.exp(1j * before)
    assert np.abs(difference).max() < 1e-9
    np.testing.assert_allclose(-p, first, atol=1e-8)


def test_mean_of_exp_of_minus_energy_change_is_one():
    chains = PseudofermionChains(angles((4, 4), n=32), 1.0, KAPPA, 1)
    step = 1.5 * chains.tune()
    chains.run(20, step, 3)
    change = chains.run(60, step, 3).change
    weights = np.exp(-change)
    assert change.std() > 0.3
    assert weights.mean() == pytest.approx(1, abs=4 * weights.std() / math.sqrt(weights.size))
    assert chains.unsolved == 0


def test_links_that_leave_the_circle_are_refused():
    chains = PseudofermionChains(angles((4, 4)), 1.0, KAPPA, 1)
    before = chains.links()
    done = chains.run(1, 50.0, 2)
    assert not done.accepted.any()
    np.testing.assert_allclose(chains.links(), before, atol=1e-12)


def test_links_of_other_theories_are_refused():
    with pytest.raises(DomainError, match=r"\(C, 2, T, L\)"):
        PseudofermionChains(np.zeros((2, 3, 2, 2, 2)), 1.0, KAPPA, 1)


def test_chains_depend_on_their_seed_alone():
    system = Schwinger(shape=(2, 2), beta=1.0, kappa=KAPPA)
    start = torch.from_numpy(angles((2, 2)))
    one, again, other = (
        schwinger_chains.with_pseudofermions(start, 1.0, KAPPA, 4, seed, system._slow)
        for seed in (1, 1, 2)
    )
    assert one.shape == (8, 4, 2, 2, 2)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.slow
def test_simulation_of_more_sites_than_dense_forces_can_do():
    system = Schwinger(shape=(10, 16), beta=1.0, kappa=0.2)
    batch = system.simulate(40, 1)
    assert batch.x.shape == (40, 2, 10, 16)
    assert set(batch.chain.tolist()) == set(range(14))
    assert torch.isfinite(system.observables(batch)["condensate"]).all()


@pytest.mark.slow
def test_against_reweighting_with_the_exact_determinant():
    system = Schwinger(shape=(8, 8), beta=2.0, kappa=0.26)
    batch = system.simulate(2048, 1)
    sampler = Corrected(ClosureDefect(system.schema, beta=2.25), system.action, "none")
    proposals = sampler.sample(16384, generator=torch.Generator().manual_seed(1))
    values, known = measure(system, batch), system.observables(proposals)
    for name in ("plaquette", "|L|", "Q^2", "condensate"):
        found = gamma_method(values.values[name], chain=values.chain)
        other = reweighted_mean(known[name], proposals.log_weight)
        error = math.hypot(found.error, other.error)
        assert abs(found.value - other.value) < 4 * error, name
        if name == "Q^2":  # Without fermions it would be far away.
            assert abs(found.value - known[name].mean().item()) > 6 * error


@pytest.mark.slow
def test_against_the_force_of_the_exact_determinant():
    """The two ways of HMC, on 8 x 8."""
    system = Schwinger(shape=(8, 8), beta=2.0, kappa=0.26)
    start = system.arbitrary(16, torch.Generator().manual_seed(1))
    start[::2] = 0
    exact = schwinger_chains.exact(start, system.action, 24, 1, system._slow)
    other = schwinger_chains.with_pseudofermions(start, 2.0, 0.26, 96, 2, system._slow)
    means = []
    for x in (exact, other):
        chain = torch.arange(len(x)).repeat_interleave(x.shape[1])
        batch = measure(system, Batch(x=x.flatten(0, 1), chain=chain))
        means.append(
            {
                name: gamma_method(batch.values[name], chain=batch.chain)
                for name in ("plaquette", "Q^2", "condensate")
            }
        )
    for name, one in means[0].items():
        two = means[1][name]
        assert abs(one.value - two.value) < 4 * math.hypot(one.error, two.error), name
