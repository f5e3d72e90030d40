"""Autoregressive networks of Potts spins against enumeration, and against exact free energies."""

import itertools
import math

import numpy as np
import pytest
import torch
from randomised import generator, randomised
from scipy.stats import chi2
from stub import StubContext

from physgen.batch import Batch, Schema, Variable
from physgen.errors import RecipeError
from physgen.networks.masked_conv import MaskedConvOptions
from physgen.sampling.reweighting import log_partition_function
from physgen.surrogates.autoregressive.free_energy import VariationalFreeEnergy
from physgen.surrogates.autoregressive.heat_bath import value_sublattice
from physgen.surrogates.autoregressive.network import MaskedDenseOptions
from physgen.surrogates.autoregressive.potts import AutoregressivePotts
from physgen.surrogates.correction import Corrected
from physgen.surrogates.flows.likelihood import MaximumLikelihood
from physgen.systems.family import family
from physgen.systems.ising import Ising
from physgen.systems.potts import Potts

NETWORKS = {
    "dense": MaskedDenseOptions(hidden=24),
    "conv": MaskedConvOptions(channels=4, depth=2, reach=2),
}


def states(*shape, q=3):
    """All configurations."""
    values = list(itertools.product(range(q), repeat=math.prod(shape)))
    return torch.tensor(values, dtype=torch.float64).reshape(-1, *shape)


def codes(x, q=3):
    """Numbers of configurations in the order of `states`."""
    return (x.flatten(1).long() * q ** torch.arange(x[0].numel()).flip(0)).sum(1)


def build(system, kind="dense", **options):
    torch.manual_seed(0)
    model = AutoregressivePotts(system.schema, system=system, network=NETWORKS[kind], **options)
    return randomised(model, 0.4).double().eval()


@pytest.mark.parametrize(
    ("kind", "heat_bath", "symmetric"),
    [*itertools.product(NETWORKS, (True, False), (True, False))],
)
def test_probabilities_sum_to_one_and_are_those_of_samples(kind, heat_bath, symmetric):
    model = build(Potts(shape=(3, 3)), kind, heat_bath=heat_bath, permutation_symmetric=symmetric)
    every, n = states(3, 3), 40_000
    with torch.no_grad():
        log_prob = model.log_prob(Batch(every))
        drawn, of_drawn = model.sample_with_log_prob(n, generator=generator(1))
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(of_drawn, log_prob[codes(drawn.x)])
    expected = n * log_prob.exp().numpy()
    counts = np.bincount(codes(drawn.x).numpy(), minlength=len(expected))
    often = expected >= 5
    expected, counts = (np.append(v[often], v[~often].sum()) for v in (expected, counts))
    statistic = ((counts - expected) ** 2 / np.maximum(expected, 1e-9)).sum()
    assert chi2.sf(statistic, len(expected) - 1) > 1e-4


@pytest.mark.parametrize("heat_bath", [True, False])
def test_permuted_values_are_exactly_as_likely(heat_bath):
    system = Potts(shape=(2, 3), q=4)
    model = build(system, heat_bath=heat_bath, permutation_symmetric=True)
    every = states(2, 3, q=4)
    with torch.no_grad():
        log_prob = model.log_prob(Batch(every))
        for names in itertools.permutations(range(4)):
            permuted = torch.tensor(names, dtype=torch.float64)[every.long()]
            torch.testing.assert_close(model.log_prob(Batch(permuted)), log_prob)
        other = build(system, heat_bath=heat_bath).log_prob(Batch(every))
    assert (other - other[codes(3 - every, 4)]).abs().max() > 0.1
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("shape", "lattice"), [((3, 3), "square"), ((2, 4), "square"), ((3, 3), "triangular")]
)
def test_the_last_sites_have_the_conditional_distribution_of_the_action(shape, lattice):
    system = Potts(shape=shape, lattice=lattice, temperature=0.9)
    model = build(system, heat_bath=True)
    every = states(*shape)
    same = every.flatten(1).clone()
    same[:, model.last] = 2.0  # All states with the same first sites are compared with one of them.
    same = same.reshape_as(every)
    with torch.no_grad():
        log_q, base_q = (model.log_prob(Batch(x)) for x in (every, same))
    log_p, base_p = -system.action(every), -system.action(same)
    torch.testing.assert_close(log_q - base_q, log_p - base_p, rtol=1e-9, atol=1e-9)


def test_no_two_of_the_last_sites_are_neighbours():
    assert value_sublattice(Potts(shape=(4, 6)), (4, 6), 3) == [
        i for i in range(24) if (i // 6 + i % 6) % 2 == 0
    ]
    odd = value_sublattice(Potts(shape=(5, 5)), (5, 5), 3)
    assert len(odd) >= 8
    x = torch.zeros(1, 25)
    x[0, odd] = 1
    x = x.reshape(1, 5, 5)
    assert not any((x * x.roll(1, axis)).any() for axis in (1, 2))


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("kind", NETWORKS)
def test_values_drawn_one_by_one_are_those_of_a_full_pass_a_site(kind, conditional):
    temperature = (0.8, 1.2) if conditional else 1.0
    system = family(Potts, {"shape": (3, 4), "temperature": temperature})
    model, rows = build(system, kind, permutation_symmetric=True), 300
    u = torch.rand(rows, 12, generator=generator(3), dtype=torch.float64)
    condition = None
    if conditional:
        model.conditions.span(*system.bounds)
        condition = 0.8 + 0.4 * torch.rand(rows, 1, generator=generator(4), dtype=torch.float64)
    fast = model.representative(model.from_uniform(u, condition).flatten(1))
    x = torch.zeros(rows, 12, dtype=torch.float64)
    context = model._context(condition, rows)
    with torch.no_grad():
        for site in range(12):
            shown = model._shown(model.numbers(x), context[:, None])
            logits = model.network(shown, context)[:, site] + model.bias[site]
            most = x[:, :site].amax(1) if site else torch.full((rows,), -1.0).double()
            logits[torch.arange(3) > most[:, None] + 1] = -math.inf
            x[:, site] = (logits.softmax(1).cumsum(1) <= u[:, site, None]).sum(1)
    assert torch.equal(fast, x)


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_gradient_is_that_of_the_variational_free_energy(symmetric):
    system, every = Potts(shape=(2, 3)), states(2, 3)
    model = build(system, permutation_symmetric=symmetric)
    method = VariationalFreeEnergy(model, system)
    log_prob = model.log_prob(Batch(every))
    exact = (log_prob.exp() * (log_prob + system.action(every))).sum()
    parameters = [model.bias, model.network.last.weight, model.network.second.weight]
    wanted = torch.autograd.grad(exact, parameters)
    uniform = torch.rand(100_000, 6, generator=generator(5), dtype=torch.float64)
    loss = method._loss(uniform).mean()
    assert loss.item() == pytest.approx(exact.item(), abs=0.02)
    for found, true in zip(torch.autograd.grad(loss, parameters), wanted, strict=True):
        assert (found - true).norm() < 0.05 * true.norm()


def test_the_free_energy_of_a_short_training_is_exact():
    system = Potts(shape=(4, 4), q=3)
    torch.manual_seed(0)
    model = AutoregressivePotts(
        system.schema,
        system=system,
        network=MaskedDenseOptions(hidden=32),
        heat_bath=True,
        permutation_symmetric=True,
    )
    method = VariationalFreeEnergy(model, system, learning_rate=5e-3, anneal=0.9)
    for step in range(200):
        method.step({}, StubContext(256, seed=step, step=step))
    corrected = Corrected(model, system.action)
    proposals = corrected.propose(8192, generator=generator(6))
    exact = system.exact()
    found = log_partition_function(proposals.log_weight)
    assert proposals.log_weight.mean() < exact["ln Z"]
    assert found.error < 0.03
    assert abs(found.value - exact["ln Z"]) < 4 * found.error
    chain = corrected.correct(proposals, generator=generator(7))
    energy = system.observables(chain)["E/N"].mean().item()
    assert energy == pytest.approx(exact["E/N"], abs=0.03)


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_likelihood_of_data_rises_to_that_of_the_model(kind):
    system = Potts(shape=(2, 3), temperature=0.7)
    every = states(2, 3)
    log_p = (-system.action(every)).log_softmax(0)
    rows = torch.multinomial(log_p.exp(), 20_000, replacement=True, generator=generator(1))
    data = Batch(every[rows])
    model = build(system, kind, permutation_symmetric=True)
    model.initialise(data)
    method = MaximumLikelihood(model, learning_rate=0.02)
    for step in range(150):
        batch = data[step % 40 * 500 : step % 40 * 500 + 500]
        method.step({"data": batch}, StubContext(500, seed=step, step=step))
    with torch.no_grad():
        divergence = (log_p.exp() * (log_p - model.log_prob(Batch(every)))).sum()
    assert 0 < divergence < 0.03


def test_biases_begin_with_the_shares_of_the_data():
    system = Potts(shape=(3,), lattice="chain")
    x = torch.tensor([[0.0, 1, 2], [0, 1, 1], [0, 2, 0], [0, 1, 0]])
    model = AutoregressivePotts(system.schema)
    model.initialise(Batch(x))
    shares = model.bias.detach().softmax(1)
    torch.testing.assert_close(
        shares, torch.tensor([[1, 0, 0], [0, 0.75, 0.25], [0.5, 0.25, 0.25]]), atol=3e-3, rtol=0
    )


def test_unfit_systems_are_refused():
    potts = Potts(shape=(4, 4))
    with pytest.raises(RecipeError, match="heat_bath=false"):
        AutoregressivePotts(potts.schema, heat_bath=True)
    scan = family(Potts, {"shape": (4, 4), "temperature": (0.9, 1.1)})
    with pytest.raises(RecipeError, match="at one temperature"):
        AutoregressivePotts(scan.schema, system=scan, heat_bath=True)
    with pytest.raises(RecipeError, match="'spin'"):
        AutoregressivePotts(Ising(shape=(4, 4)).schema)
    with pytest.raises(RecipeError, match="at most 8 values, and there are 9"):
        AutoregressivePotts(Potts(q=9).schema, permutation_symmetric=True)
    with pytest.raises(RecipeError, match="of the domain 'integer'"):
        AutoregressivePotts(Schema((4,), (Variable("n", domain="integer"),)))
    model = build(potts)
    proposals = Corrected(model, potts.action).propose(128, generator=generator(1))
    with pytest.raises(RecipeError, match=r"domain 'integer'; .*independence"):
        Corrected(model, potts.action, "tempering").correct(proposals, generator=generator(1))


def test_an_action_that_prefers_a_value_is_none_of_a_symmetric_network():
    class Preferring(Potts):
        def action(self, x, condition=None):
            return super().action(x, condition) - 0.1 * (x == 0).flatten(1).sum(1)

    system = Preferring(shape=(3, 3))
    model = build(system, permutation_symmetric=True)
    with pytest.raises(RecipeError, match="permutation_symmetric"):
        VariationalFreeEnergy(model, system)
