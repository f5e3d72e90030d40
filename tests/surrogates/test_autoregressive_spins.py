"""Autoregressive networks of spins against enumeration, and against exact free energies."""

import itertools
import math

import numpy as np
import pytest
import torch
from randomised import generator, randomised
from scipy.stats import chi2
from stub import StubContext
from torch.func import jacrev

from physgen.batch import Batch, Schema, Variable
from physgen.errors import RecipeError
from physgen.networks.masked_conv import MaskedConvOptions
from physgen.sampling.reweighting import log_partition_function
from physgen.surrogates.autoregressive.free_energy import VariationalFreeEnergy, above_others
from physgen.surrogates.autoregressive.heat_bath import interactions, of_sublattice
from physgen.surrogates.autoregressive.network import MaskedDenseOptions
from physgen.surrogates.autoregressive.spins import AutoregressiveSpins
from physgen.surrogates.correction import Corrected
from physgen.systems.family import family
from physgen.systems.ising import Ising
from physgen.systems.scalar import Phi4
from physgen.validation.comparison import Comparison
from physgen.validation.importance import Importance

NETWORKS = {
    "dense": MaskedDenseOptions(hidden=24),
    "conv": MaskedConvOptions(channels=4, depth=3, reach=2),
}


def states(*shape):
    """All configurations of spins."""
    spins = list(itertools.product((-1.0, 1.0), repeat=math.prod(shape)))
    return torch.tensor(spins, dtype=torch.float64).reshape(-1, *shape)


def codes(x):
    """Numbers of configurations in the order of `states`."""
    bits = (x.flatten(1) > 0).long()
    return bits @ (1 << torch.arange(bits.shape[1]).flip(0))


def build(system, kind="dense", *, scale=0.4, **options):
    torch.manual_seed(0)
    model = AutoregressiveSpins(system.schema, system=system, network=NETWORKS[kind], **options)
    return randomised(model, scale).double().eval()


def system_of(shape, symmetric):
    return Ising(shape=shape, field=0.0 if symmetric else 0.3)


@pytest.mark.parametrize(
    ("kind", "heat_bath", "symmetric", "shape"),
    [
        *itertools.product(NETWORKS, (True, False), (True, False), [(3, 3)]),
        *itertools.product(["dense"], (True, False), (True,), [(4, 4)]),
    ],
)
def test_probabilities_sum_to_one_and_are_those_of_samples(kind, heat_bath, symmetric, shape):
    model = build(
        system_of(shape, symmetric), kind, heat_bath=heat_bath, spin_flip_symmetric=symmetric
    )
    every = states(*shape)
    with torch.no_grad():
        log_prob = model.log_prob(Batch(every))
        n = 20_000
        drawn, of_drawn = model.sample_with_log_prob(n, generator=generator(1))
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-12)
    assert torch.equal(log_prob, log_prob.flip(0)) == symmetric
    torch.testing.assert_close(of_drawn, log_prob[codes(drawn.x)])
    expected = n * log_prob.exp().numpy()
    counts = np.bincount(codes(drawn.x).numpy(), minlength=len(expected))
    often = expected >= 5
    expected, counts = (np.append(v[often], v[~often].sum()) for v in (expected, counts))
    statistic = ((counts - expected) ** 2 / np.maximum(expected, 1e-9)).sum()
    assert chi2.sf(statistic, len(expected) - 1) > 1e-4


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_site_depends_on_the_sites_before_it_and_on_all_of_them(kind):
    model = build(Ising(shape=(4, 5)), kind)
    n = len(model.first)
    x = torch.randn(1, n, 1, generator=generator(2), dtype=torch.float64)
    empty = x.new_zeros(1, 0)
    jacobian = jacrev(lambda inputs: model.network(inputs, empty)[0, :, 0])(x)[:, 0, :, 0]
    depends = jacobian != 0
    assert not depends.triu().any()
    if kind == "dense":
        assert depends[torch.tril_indices(n, n, -1).unbind()].all()
    sites = torch.arange(n).reshape(4, 5)
    assert depends[sites[:, 1:], sites[:, :-1]].all()  # To the left.
    assert depends[sites[1:], sites[:-1]].all()  # Above.


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("kind", NETWORKS)
def test_spins_drawn_with_what_is_kept_are_those_of_a_full_pass_a_site(kind, conditional):
    temperature = (2.0, 3.0) if conditional else 2.2
    system = family(Ising, {"shape": (3, 4), "temperature": temperature})
    model = build(system, kind)
    rows = 500
    u = torch.rand(rows, 12, generator=generator(3), dtype=torch.float64)
    condition = None
    if conditional:
        model.conditions.span(*system.bounds)
        condition = 2 + torch.rand(rows, 1, generator=generator(4), dtype=torch.float64)
    fast = model.from_uniform(u, condition).flatten(1)
    x = torch.ones(rows, 12, dtype=torch.float64)
    context = model._context(condition, rows)
    with torch.no_grad():
        for site in range(12):
            shown = model._shown(x[..., None], context[:, None])
            odds = model.network(shown, context)[:, site, 0] + model.bias[site]
            x[:, site] = torch.where(u[:, site] < odds.sigmoid(), 1.0, -1.0)
    assert torch.equal(fast, x)


@pytest.mark.parametrize("shape", [(4, 4), (3, 3), (2, 5)])
def test_the_last_sites_have_the_conditional_distribution_of_the_action(shape):
    system = Ising(shape=shape, temperature=1.7, field=0.2)
    model = build(system, heat_bath=True)
    every, last = states(*shape), model.last
    with torch.no_grad():
        log_q, log_p = model.log_prob(Batch(every)), -system.action(every)
    turned = every.flatten(1).clone()
    turned[:, last] = 1.0  # All states with the same first sites are compared with one of them.
    with torch.no_grad():
        base_q = model.log_prob(Batch(turned.reshape_as(every)))
        base_p = -system.action(turned.reshape_as(every))
    torch.testing.assert_close(log_q - base_q, log_p - base_p, rtol=1e-9, atol=1e-9)


def test_the_sublattice_of_an_even_lattice_is_half_of_it():
    system = Ising(shape=(6, 8))
    _, last = of_sublattice(system, system.shape)
    assert last == [i for i in range(48) if (i // 8 + i % 8) % 2 == 0]
    neighbours = interactions(system.action, system.shape)
    assert (neighbours.sum(0) == 4).all()
    # Of odd lengths no two colours do, and as many as possible in raster order come last.
    odd = Ising(shape=(5, 5))
    _, last = of_sublattice(odd, odd.shape)
    assert len(last) >= 8
    assert not interactions(odd.action, odd.shape)[last][:, last].any()


def test_unfit_systems_are_refused():
    spins = Ising(shape=(4, 4)).schema
    with pytest.raises(RecipeError, match="not linear in each spin"):
        AutoregressiveSpins(spins, system=Phi4(shape=(4, 4)), heat_bath=True)
    with pytest.raises(RecipeError, match=r"heat_bath=false"):
        AutoregressiveSpins(spins, heat_bath=True)
    with pytest.raises(RecipeError, match="'real'"):
        AutoregressiveSpins(Schema((4,), (Variable("x"),)))
    hypercube = Schema((2, 2, 2, 2), (Variable("s", domain="spin"),))
    with pytest.raises(RecipeError, match="one to three axes"):
        AutoregressiveSpins(hypercube, network=MaskedConvOptions())
    system = Ising(shape=(4, 4), field=0.1)
    model = AutoregressiveSpins(system.schema, spin_flip_symmetric=True)
    with pytest.raises(RecipeError, match="spin_flip_symmetric=false"):
        VariationalFreeEnergy(model, system)
    with pytest.raises(RecipeError, match="nothing to leave out"):
        VariationalFreeEnergy(AutoregressiveSpins(spins), system, left_out=(1.0, 2.0))


@pytest.mark.parametrize("heat_bath", [True, False])
def test_the_gradient_is_that_of_the_variational_free_energy(heat_bath):
    system = Ising(shape=(2, 3), temperature=2.0, field=0.2)
    model, every = build(system, heat_bath=heat_bath), states(2, 3)
    method = VariationalFreeEnergy(model, system)
    log_prob = model.log_prob(Batch(every))
    exact = (log_prob.exp() * (log_prob + system.action(every))).sum()
    parameters = [model.network.direct, model.network.last.bias, model.network.second.weight]
    wanted = torch.autograd.grad(exact, parameters)
    uniform = torch.rand(100_000, 6, generator=generator(5), dtype=torch.float64)
    loss = method._loss(uniform).mean()
    assert loss.item() == pytest.approx(exact.item(), abs=0.02)
    for found, true in zip(torch.autograd.grad(loss, parameters), wanted, strict=True):
        assert (found - true).norm() < 0.05 * true.norm()


def test_the_gradient_is_without_bias_in_small_batches():
    """Averaged over all pairs of configurations; one alone shows nothing, and is refused."""
    system = Ising(shape=(2, 2), temperature=3.0, field=0.2)
    model, every = build(system), states(2, 2)
    log_prob = model.log_prob(Batch(every))
    reward = (log_prob + system.action(every)).detach()
    bias = model.network.last.bias
    (wanted,) = torch.autograd.grad(
        (log_prob.exp() * (log_prob + system.action(every))).sum(), bias
    )
    found = torch.zeros_like(wanted)
    rows = model.log_prob(Batch(every))
    score = torch.stack([torch.autograd.grad(row, bias, retain_graph=True)[0] for row in rows])
    p = log_prob.exp().detach()
    for i, j in itertools.product(range(len(every)), repeat=2):
        advantage = above_others(reward[[i, j]], None)
        found += p[i] * p[j] * (advantage @ score[[i, j]]) / 2
    assert torch.allclose(found, wanted, rtol=1e-9)
    heated = family(Ising, {"shape": (2, 2), "temperature": (2.0, 4.0)})
    method = VariationalFreeEnergy(build(heated), heated)
    with pytest.raises(RecipeError, match=r"16 at 16 .* alone; make engine.batch_size, .* 32"):
        method.step({}, StubContext(16, dtype=torch.float64))


def test_annealing_begins_without_the_action():
    system = Ising(shape=(3, 3))
    model = build(system)
    method = VariationalFreeEnergy(model, system, anneal=0.5, learning_rate=1e-9)
    context = StubContext(4000, dtype=torch.float64)
    entropy, whole = [], []
    for step, values in ((0, entropy), (60, whole)):
        context.step = step
        values.append(float(method.step({}, context)["loss"]))
    log_prob = model.log_prob(Batch(states(3, 3)))
    exact = (log_prob.exp() * log_prob).sum().item()
    energy = (log_prob.exp() * system.action(states(3, 3))).sum().item()
    assert entropy[0] == pytest.approx(exact, abs=0.1)
    assert whole[0] == pytest.approx(exact + energy, abs=0.3)


def train(system, steps, **options):
    torch.manual_seed(0)
    model = AutoregressiveSpins(
        system.schema, system=system, spin_flip_symmetric=True, heat_bath=True, **options
    )
    method = VariationalFreeEnergy(model, system, learning_rate=5e-3, anneal=0.9)
    for step in range(steps):
        method.step({}, StubContext(256, seed=step, step=step))
    return model


def test_free_energy_and_chain_of_a_short_training_are_exact():
    system = Ising(shape=(4, 4))
    model = train(system, 200, network=MaskedDenseOptions(hidden=32))
    corrected = Corrected(model, system.action)
    proposals = corrected.propose(8192, generator=generator(6))
    exact = system.exact()["ln Z"]
    assert proposals.log_weight.mean() < exact
    found = log_partition_function(proposals.log_weight)
    assert found.error < 0.03
    assert abs(found.value - exact) < 4 * found.error
    rows = {row.name: row for row in Importance().rows(Comparison(system, proposals))}
    f = rows["F/N"]
    assert f.exact == pytest.approx(-2.201381412966)
    assert f.value == pytest.approx(-system.temperature * found.value / 16)
    assert f.error == pytest.approx(system.temperature * found.error / 16)
    chain = corrected.correct(proposals, generator=generator(7))
    energy = system.observables(chain)["E/N"].mean().item()
    assert energy == pytest.approx(system.exact()["E/N"], abs=0.03)


def test_one_network_serves_a_range_of_temperatures():
    system = family(Ising, {"shape": (4, 4), "temperature": (2.0, 3.0)})
    model = train(system, 150, network=MaskedDenseOptions(hidden=32))
    for t in (2.2, 2.8):
        condition = torch.full((8192, 1), t, dtype=torch.float64)
        model_at = Corrected(model, system.action, "none")
        log_weight = model_at.propose(8192, condition, generator=generator(8)).log_weight
        found = log_partition_function(log_weight)
        exact = Ising(shape=(4, 4), temperature=t).exact()["ln Z"]
        assert abs(found.value - exact) < 4 * found.error
        assert log_weight.std() < 0.5
