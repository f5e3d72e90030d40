"""Energy-based models against Gaussians, whose normaliser is known, and a grid in one dimension."""

import math

import pytest
import torch
from randomised import generator, randomised
from stub import StubContext

from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError, RecipeError
from physgen.networks.conv import ConvOptions
from physgen.networks.mlp import MLPOptions
from physgen.surrogates.base import HasEstimatedLikelihood, Surrogate
from physgen.surrogates.boltzmann.energy import EnergyModel, LangevinDivergence


def schema(*shape, domain="real"):
    return Schema(shape, (Variable("x", domain=domain),))


MODELS = {
    "mlp": lambda: EnergyModel(
        schema(4), network=MLPOptions(hidden=(8,)), n_chains=64, burn_in=5, thin=2
    ),
    "convolutions": lambda: EnergyModel(
        schema(4, 4),
        network=ConvOptions(hidden=(), channels=(3, 4)),
        n_chains=64,
        burn_in=5,
        thin=2,
    ),
}


def gaussian(slope, n_chains=4000):
    """E = |u|^2 / 2 + slope.u + 1.5: a normal distribution around -slope."""
    model = EnergyModel(
        schema(len(slope)), network=MLPOptions(hidden=()), n_chains=n_chains, burn_in=60, thin=10
    )
    layer = model.network.dense.layers[0]
    with torch.no_grad():
        layer.weight.copy_(slope[None])
        layer.bias.fill_(1.5)
        model.step_size.fill_(0.5)
    return model.double()


SLOPE = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)


def test_langevin_chains_reach_the_distribution_of_the_energy():
    model = gaussian(SLOPE)
    batch = model.sample(4000, generator=generator(2))
    x = batch.x
    assert batch.chain.unique().numel() == 4000
    assert ((x.mean(0) + SLOPE).abs() < 4.5 / math.sqrt(4000)).all()
    assert (x.T.cov() - torch.eye(3).double()).abs().max() < 0.1


def test_annealing_finds_the_normaliser_and_the_likelihood_of_physical_samples():
    """x = m + s u: ln q(x) = ln N(u; -slope, 1) - sum ln s."""
    model = gaussian(SLOPE)
    model.centre.copy_(torch.tensor([3.0, 0.0, -1.0]))
    model.width.copy_(torch.tensor([0.1, 2.0, 1.0]))
    found = model.log_partition_function(generator=generator(3), n_chains=500, n_steps=40)
    exact = 1.5 * math.log(2 * math.pi) + float(SLOPE.square().sum()) / 2 - 1.5
    for estimate in (found.forward, found.reverse):
        assert abs(estimate.value - exact) < 4.5 * estimate.error
        assert estimate.error < 0.1
    assert isinstance(model, HasEstimatedLikelihood)
    x = model.sample(6, generator=generator(4)).x
    log_prob, error = model.log_likelihood(Batch(x), generator=generator(5))
    normal = torch.distributions.Normal(model.centre - SLOPE * model.width, model.width)
    assert 0 < error < 0.1
    assert (log_prob - normal.log_prob(x).sum(1)).abs().max() < 4 * error


def test_the_gradient_is_that_of_the_likelihood_when_the_chains_are_exact():
    """ln Z of the Gaussian is |slope|^2 / 2 - bias, so that dL/dslope = <u>_data + slope."""
    model, n = gaussian(SLOPE), 100_000
    method = LangevinDivergence(model, l2=0.0)
    data = torch.rand(n, 3, generator=generator(1), dtype=torch.float64)
    chains = torch.randn(n, 3, generator=generator(2), dtype=torch.float64) - SLOPE
    layer = model.network.dense.layers[0]
    gradient = torch.autograd.grad(method.loss(Batch(data), chains).mean(), [layer.weight])[0]
    exact = data.mean(0) + SLOPE
    torch.testing.assert_close(gradient[0], exact, atol=5 / math.sqrt(n), rtol=0)


def test_training_finds_two_modes():
    """Kullback-Leibler divergence by a sum over a grid."""
    n = 4000
    sign = torch.where(torch.rand(n, generator=generator(1)) < 0.3, -1.0, 1.0)
    data = (1.2 * sign + 0.5 * torch.randn(n, generator=generator(2)))[:, None]
    model = EnergyModel(schema(1), network=MLPOptions(hidden=(32, 32)), n_chains=512)
    model.initialise(Batch(data))
    method = LangevinDivergence(model, k=5, learning_rate=0.01)

    @torch.no_grad()
    def divergence():
        x = torch.linspace(-6, 6, 1201)[:, None]
        log_q = torch.log_softmax(-model.energy(model.units(x)), 0) - math.log(0.01)
        modes = torch.distributions.Normal(torch.tensor([-1.2, 1.2]), 0.5)
        log_p = torch.logsumexp(modes.log_prob(x) + torch.tensor([0.3, 0.7]).log(), 1)
        return float((log_p.exp() * (log_p - log_q)).sum() * 0.01)

    before = divergence()
    for step in range(200):
        method.optimisers["energy"].param_groups[0]["lr"] = 0.01 * (1 - step / 200)
        rows = slice(step % 10 * 400, step % 10 * 400 + 256)
        batch = method.prepare(Batch(data[rows]), generator())
        metrics = method.step({"data": batch}, StubContext(seed=step))
    assert torch.isfinite(metrics["loss"])
    assert 0.3 < metrics["acceptance"] < 0.9
    assert before > 0.2
    assert divergence() < 0.05
    x = model.sample(512, generator=generator(3)).x
    assert float((x > 0).float().mean()) == pytest.approx(0.7, abs=0.1)


@pytest.mark.parametrize("name", MODELS)
def test_seeds_decide_samples_which_survive_saving(name):
    model = randomised(MODELS[name]())
    again = MODELS[name]()
    again.load_state_dict(model.state_dict())
    one, two = (m.sample(100, generator=generator(4)) for m in (model, again))
    assert torch.equal(one.x, two.x)
    assert not torch.equal(one.x, model.sample(100, generator=generator(5)).x)
    assert one.x.shape == (100, *model.schema.shape)
    assert one.chain.tolist() == [*one.chain[:64].tolist(), *one.chain[:36].tolist()]
    assert not model.chains.is_floating_point()  # the engine averages floating buffers


@pytest.mark.parametrize("name", MODELS)
def test_training_goes_on_exactly_where_it_stopped(name):
    """Buffer, step size and optimiser are in the method's state; every parameter is trained."""
    data = torch.randn(40, *MODELS[name]().schema.shape, generator=generator(1))

    def fresh():
        model = MODELS[name]()
        for i, parameter in enumerate(model.parameters()):
            parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=generator(i)))
        model.initialise(Batch(data))
        return model, LangevinDivergence(model, k=3, restart=0.1)

    def advance(method, steps):
        for step in steps:
            batch = method.prepare(Batch(data), generator())
            method.step({"data": batch}, StubContext(seed=step))

    model, method = fresh()
    advance(method, range(4))
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
    first, half = fresh()
    advance(half, range(2))
    second, rest = fresh()
    second.load_state_dict(first.state_dict())
    rest.load_state_dict(half.state_dict())
    advance(rest, range(2, 4))
    for key, value in model.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key


@pytest.mark.parametrize("name", MODELS)
def test_the_energy_is_exported_with_a_dynamic_batch(name):
    model = MODELS[name]()
    randomised(model, 0.3)

    class Energy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model.energy(self.model.units(x))

    x = torch.randn(9, *model.schema.shape, generator=generator())
    batch = ({0: torch.export.Dim("batch", min=1)},)
    exported = torch.export.export(Energy(), (x[:4],), dynamic_shapes=batch).module()
    torch.testing.assert_close(exported(x), model.energy(model.units(x)))


def test_the_chains_of_a_batch_move_and_are_kept():
    model = MODELS["mlp"]()
    method = LangevinDivergence(model, k=3)
    before = method.tensors["chains"].clone()
    method.step({"data": Batch(torch.randn(10, 4, generator=generator()))}, StubContext(seed=1))
    moved = (method.tensors["chains"] != before).flatten(1).any(1)
    assert moved.shape == (64,)
    assert 0 < moved.sum() <= 10
    torch.testing.assert_close(model.chains, method.tensors["chains"])


@pytest.mark.parametrize("restart", [0.0, 0.999999])
def test_chains_start_again_where_they_are_told_to(restart):
    model = MODELS["mlp"]()
    method = LangevinDivergence(model, k=1, restart=restart)
    method.tensors["chains"].copy_(model.pack(torch.full((64, 4), 1000.0)))
    method.tensors["step_size"].fill_(1e-6)
    method.step({"data": Batch(torch.randn(64, 4, generator=generator()))}, StubContext(seed=1))
    farthest = model.unpack(method.tensors["chains"]).abs().max()
    assert farthest < 10 if restart else farthest > 900


def test_a_steep_energy_moves_no_chain_further_than_its_limit():
    for limit, reach in ((5.0, 5.0), (1e9, 1e4)):
        torch.manual_seed(0)
        model = EnergyModel(
            schema(4), network=MLPOptions(hidden=()), gradient_limit=limit, n_chains=64
        )
        with torch.no_grad():
            model.network.dense.layers[0].weight.fill_(5e3)
            model.step_size.fill_(1.0)
        start = torch.zeros(64, 4)
        u, _ = model.langevin(start, 1, generator(3))
        step = (u - start).norm(dim=1).max()
        # Noise of 4 entries, sqrt(2) wide, is on top.
        assert 0.2 * reach < step < reach + 10


def test_what_does_not_fit_is_refused():
    with pytest.raises(RecipeError, match="take rbm"):
        EnergyModel(schema(3, domain="binary"))
    with pytest.raises(DomainError, match="1 of 3 entries of the samples never vary"):
        EnergyModel(schema(3)).initialise(Batch(torch.eye(3)[:2]))
    with pytest.raises(RecipeError, match="knows no conditions"):
        EnergyModel(Schema((3,), (Variable("x"),), (Variable("label"),)))
    with pytest.raises(RecipeError, match="trains the surrogate energy"):
        LangevinDivergence(Surrogate(schema(4)))
    method = LangevinDivergence(EnergyModel(schema(2), n_chains=4))
    with pytest.raises(RecipeError, match="n_chains=4 is too few"):
        method.step({"data": Batch(torch.zeros(5, 2))}, StubContext(seed=0))


def test_chains_that_diverged_are_named():
    model = MODELS["mlp"]()
    model.chains.copy_(model.pack(torch.full((64, 4), math.nan)))
    with pytest.raises(DomainError, match="diverged"):
        model.sample(5, generator=generator())
