"""Heat bath and overrelaxation of gauge links: distributions of single links, exact plaquettes."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest, vonmises

from physgen.batch import Batch
from physgen.errors import DomainError
from physgen.sampling import manifold
from physgen.sampling.manifold import not_unitary
from physgen.systems.gauge import Gauge
from physgen.systems.gauge_exact import torus
from physgen.systems.kernels.gauge import draws, heatbath, lanes, su2, su3
from physgen.systems.kernels.gauge.ensemble import Ensemble

GROUPS = ("U(1)", "SU(2)", "SU(3)")


def haar(group, shape, n, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return Gauge(group=group, shape=shape).arbitrary(n, generator).numpy()


def plaquette(links, group, shape):
    values = Gauge(group=group, shape=shape).observables(Batch(x=torch.from_numpy(links)))
    return values["plaquette"].numpy()


def cumulative(a0, alpha):
    """Return F(a_0) of each row by quadrature of sqrt(1 - a_0^2) exp(alpha a_0)."""
    nodes, weights = np.polynomial.legendre.leggauss(400)

    def integral(upper):  # With a_0 = cos t the integrand is smooth.
        t = np.arccos(upper)[:, None] + (np.pi - np.arccos(upper))[:, None] * (nodes + 1) / 2
        value = np.sin(t) ** 2 * np.exp(alpha[:, None] * (np.cos(t) - 1))
        return (value * weights).sum(1) * (np.pi - np.arccos(upper)) / 2

    return integral(a0) / integral(np.ones_like(a0))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.69, 1.71, 8.0, 300.0])
def test_draws_of_su2_have_their_distribution(alpha):
    pool = draws.pool(draws.counters(3, lanes.LANES))
    x = np.empty((2000, 4, lanes.LANES))
    for one in x:
        su2.draw(np.full(lanes.LANES, alpha), pool, one.reshape(-1), lanes.LANES)
    x = x.transpose(0, 2, 1).reshape(-1, 4)
    assert np.abs((x**2).sum(1) - 1).max() < 1e-12
    assert kstest(cumulative(x[:, 0], np.full(len(x), alpha)), "uniform").pvalue > 1e-3
    direction = x[:, 1:] / np.sqrt((x[:, 1:] ** 2).sum(1))[:, None]
    for component in direction.T:  # Archimedes: uniform on a sphere.
        assert kstest(component, "uniform", (-1, 2)).pvalue > 1e-3
    assert abs(np.corrcoef(x.T) - np.eye(4)).max() < 0.03


def last_staples(links, group, shape):
    """Return the sum of the staples of the link that a sweep updates last, and that link."""
    x = torch.from_numpy(links).requires_grad_()
    system = Gauge(group=group, shape=shape, beta=1.0)
    index = (slice(None), -1, *[-1] * len(shape))
    (gradient,) = torch.autograd.grad(system.action(x).sum(), x)
    return -system.n * gradient[index].numpy(), links[index]


@pytest.mark.parametrize("shape", [(3, 2), (2, 3, 2)])
@pytest.mark.parametrize("beta", [0.7, 6.0])
def test_the_last_link_of_a_sweep_has_the_distribution_that_its_staples_give(shape, beta):
    for group in GROUPS:
        links = haar(group, shape, 4000)
        heatbath.sweeps(links, beta, 1, 0, seed=5)
        slope, link = last_staples(links, group, shape)
        if group == "U(1)":
            # -dS/dtheta = -|A| sin(theta + arg A); a shift by pi / 2 gives the cosine.
            turned = links.copy()
            turned[(slice(None), -1, *[-1] * len(shape))] += np.pi / 2
            sine, cosine = -slope, -last_staples(turned, group, shape)[0]
            kappa, angle = beta * np.hypot(sine, cosine), np.arctan2(sine, cosine)
            share = vonmises.cdf(angle, kappa)
        else:
            # Re tr(U A) = sum of slope * numbers: the slope is A^+ in real and imaginary parts.
            staple = (slope[..., 0] + 1j * slope[..., 1]).conj().swapaxes(-1, -2)
            product = (link[..., 0] + 1j * link[..., 1]) @ staple
            w = product[:, -2:, -2:]
            quaternion = (
                np.stack(
                    [
                        (w[:, 0, 0] + w[:, 1, 1]).real,
                        (w[:, 0, 1] + w[:, 1, 0]).imag,
                        (w[:, 0, 1] - w[:, 1, 0]).real,
                        (w[:, 0, 0] - w[:, 1, 1]).imag,
                    ]
                )
                / 2
            )
            length = np.sqrt((quaternion**2).sum(0))
            alpha = 2 * beta / links.shape[-2] * length
            share = cumulative(quaternion[0] / length, alpha)
        assert kstest(share, "uniform").pvalue > 1e-3, group


def test_a_link_among_unit_matrices_has_the_mean_of_one_matrix():
    """SU(3) by subgroups is a Markov chain for one link; its trace is that of one plaquette."""
    shape, beta = (2, 2), 1.5
    unit = np.zeros((lanes.LANES, 2, *shape, 3, 3, 2))
    unit[..., 0] = np.eye(3)
    packed, pool = lanes.pack(unit)[0], draws.pool(draws.counters(2, lanes.LANES))
    chain = Ensemble(lanes.table_of(shape), np.full(lanes.LANES, beta), pool)
    traces, work = [], su3.work()
    for _ in range(6000):
        su3.update(packed, chain, 2, work, True, False)
        traces.append(packed[2].reshape(3, 3, 2, -1)[[0, 1, 2], [0, 1, 2], 0].mean(0))
    blocks = np.array(traces[100:]).reshape(59, 100, -1).mean(1)
    error = blocks.std(ddof=1) / np.sqrt(blocks.size)
    # Two staples: the coupling of one link is 2 beta.
    assert abs(blocks.mean() - torus(3, 2 * beta, 10_000)["plaquette"]) < 4 * error


@pytest.mark.parametrize(
    ("group", "beta"), [("U(1)", 2.0), ("SU(2)", 2.2), ("SU(3)", 5.0), ("SU(2)", 0.4)]
)
@pytest.mark.parametrize("n_overrelaxation", [0, 2])
def test_plaquettes_are_those_of_the_torus(group, beta, n_overrelaxation):
    shape = (4, 3)
    chains = heatbath.Chains(haar(group, shape, 64), beta, seed=7)
    chains.sweep(50, 0)
    means = np.zeros(64)
    for _ in range(150):
        chains.sweep(2, n_overrelaxation)
        means += plaquette(chains.links(), group, shape) / 150
    error = means.std(ddof=1) / 8
    assert abs(means.mean() - torus(lanes.group_of(chains.links())[0], beta, 12)["plaquette"]) < (
        4 * error
    )
    assert error < 0.005


@pytest.mark.parametrize("group", GROUPS)
def test_overrelaxation_leaves_the_action_as_it_is_and_moves_the_links(group):
    shape = (2, 3, 2)
    links = haar(group, shape, 3)
    chains = heatbath.Chains(links, 1.0, seed=1)
    chains.sweep(1, 0)
    before = chains.links()
    run = {"U(1)": heatbath.u1.overrelax, "SU(2)": su2.overrelax}.get(group)
    pool = draws.pool(draws.counters(1, lanes.LANES))
    ensemble = Ensemble(lanes.table_of(shape), np.ones(lanes.LANES), pool)
    if run:
        run(chains.packed[0], ensemble, False)
    else:
        su3.sweep(chains.packed[0], ensemble, False, False)
    after = chains.links()
    assert np.abs(after - before).max() > 0.1
    change = plaquette(after, group, shape) - plaquette(before, group, shape)
    assert np.abs(change).max() < 1e-13


@pytest.mark.parametrize("group", GROUPS)
def test_chains_depend_on_seed_and_number_alone(group):
    shape = (2, 3)
    links = haar(group, shape, 11)
    one, two, other, fewer = links.copy(), links.copy(), links.copy(), links[:3].copy()
    for array, seed in ((one, 1), (two, 1), (other, 2), (fewer, 1)):
        heatbath.sweeps(array, 2.0, 3, 1, seed)
    assert np.array_equal(one, two)
    assert np.array_equal(one[:3], fewer)
    assert np.abs(one - other).reshape(11, -1).max(1).min() > 0.1
    same = np.repeat(links[:1], 16, 0)
    heatbath.sweeps(same, 2.0, 1, 0, 1)
    assert len(np.unique(same.reshape(16, -1), axis=0)) == 16


@pytest.mark.parametrize("group", ["SU(2)", "SU(3)"])
def test_links_stay_in_the_group(group):
    links = haar(group, (2, 2), 8)
    heatbath.sweeps(links, 3.0, 5000, 1, seed=1)
    assert not_unitary(torch.from_numpy(links)).max() < 1e-13


def test_every_chain_has_its_coupling():
    links = haar("SU(2)", (4, 4), 32)
    beta = np.repeat([0.5, 4.0], 16)
    heatbath.sweeps(links, beta, 100, 0, seed=1)
    values = plaquette(links, "SU(2)", (4, 4))
    assert values[:16].mean() < 0.2 < 0.6 < values[16:].mean()


def test_what_cannot_be_swept():
    with pytest.raises(DomainError, match=r"expected \(C, d, \*shape\)"):
        heatbath.sweeps(np.zeros((2, 2, 8)), 1.0, 1, 0, 1)
    with pytest.raises(DomainError, match="must be finite and not negative"):
        heatbath.sweeps(np.zeros((2, 2, 4, 4)), -1.0, 1, 0, 1)


@pytest.mark.parametrize("group", GROUPS)
def test_a_sweep_backwards_undoes_overrelaxation(group):
    """Each reflection is its own inverse, so that the opposite order leads back."""
    shape = (2, 3, 2)
    start = haar(group, shape, 3)
    packed, pool = lanes.pack(start), draws.pool(draws.counters(1, lanes.LANES))
    ensemble = Ensemble(lanes.table_of(shape), np.ones(lanes.LANES), pool)
    run = {"U(1)": heatbath.u1.overrelax, "SU(2)": su2.overrelax}.get(group)
    ends = []
    for backwards in (False, True):
        for group_of_lanes in packed:
            if run:
                run(group_of_lanes, ensemble, backwards)
            else:
                su3.sweep(group_of_lanes, ensemble, False, backwards)
        ends.append(np.empty_like(start))
        lanes.unpack(packed, ends[-1])
    assert np.abs(ends[0] - start).max() > 0.1
    np.testing.assert_allclose(ends[1], start, rtol=0, atol=1e-10)


@pytest.mark.parametrize("group", ["U(1)", "SU(2)"])
def test_the_first_link_comes_last_backwards(group):
    """At a huge coupling a heat bath aligns a link with its staples, which later ones undo."""
    system = Gauge(group=group, shape=(3, 3), beta=1.0)
    forces = {}
    for backwards in (False, True):
        links = haar(group, (3, 3), 8)
        heatbath.sweeps(links, 1e8, 1, 0, 1, backwards=backwards)
        x = torch.from_numpy(links).requires_grad_()
        (gradient,) = torch.autograd.grad(system.action(x).sum(), x)
        on = manifold.CIRCLES if group == "U(1)" else manifold.SPECIAL_UNITARY
        kicks = on.kick(torch.zeros_like(x), x, gradient, 1.0).detach().flatten(3)
        kicks = kicks.reshape(8, 2, 3, 3, -1).abs().amax(-1)
        forces[backwards] = float(kicks[:, 0, 0, 0].max()), float(kicks[:, 1, 2, 2].max())
    assert forces[True][0] < 1e-2 < 0.1 < forces[True][1]
    assert forces[False][1] < 1e-2 < 0.1 < forces[False][0]
