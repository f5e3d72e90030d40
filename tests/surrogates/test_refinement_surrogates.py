"""Events made from events: bridges, CycleGANs, and events as they were."""

import pytest
import torch
from randomised import generator
from stub import StubContext
from torch import nn

from physgen.batch import Batch, Schema, Variable
from physgen.errors import RecipeError
from physgen.networks.mlp import MLPOptions
from physgen.networks.residual import ResidualOptions
from physgen.surrogates.diffusion.matching import FlowMatching
from physgen.surrogates.diffusion.model import Denoising
from physgen.surrogates.flows.flow import Flow
from physgen.surrogates.refinement.bridge import Bridge
from physgen.surrogates.refinement.cycle import CycleConsistency, Residual, Translator
from physgen.surrogates.refinement.origin import Origin
from physgen.surrogates.refinement.unrefined import Unrefined
from physgen.surrogates.sampler_options import SamplerOptions
from physgen.transforms.affine import Standardise
from physgen.transforms.base import Chain

ONE = Schema((1,), (Variable("x"),), (Variable("fast_x"),))
TWO = Schema((2,), (Variable("x"), Variable("E")), (Variable("fast_E"), Variable("fast_x")))
SLOPE, SHIFT, WIDTH = 0.8, 1.5, 0.3
"""Of a Gaussian pair: x = SLOPE y + SHIFT + WIDTH eps."""
LINEAR = MLPOptions(hidden=())


class Exact(nn.Module):
    """E[x | z_t, y] of the Gaussian pair, z_t = (1 - t) x + t (y + s eps)."""

    def __init__(self, denoiser, noise):
        super().__init__()
        self.schedule, self.noise = denoiser.schedule, noise
        self.register_buffer("scale", torch.ones(()))

    def forward(self, z, log_snr, condition=None):
        alpha, sigma = self.schedule.amplitudes(log_snr[:, None])
        mean = SLOPE * condition + SHIFT
        variance = (alpha * WIDTH).square() + (sigma * self.noise).square()
        away = z - alpha * mean - sigma * condition
        return mean + alpha * WIDTH**2 / variance * away


@pytest.mark.parametrize("noise", [0.5, 1.3])
def test_a_bridge_between_gaussians_is_the_optimal_map(noise):
    """From N(y, s^2) to N(m, w^2) in one dimension: x = m + w (z - y) / s."""
    model = Bridge(ONE, noise=noise).double()
    model.denoiser = Exact(model.denoiser, noise).double()
    model.use_sampler(SamplerOptions(kind="heun", steps=200))
    eps = torch.randn(500, 1, generator=generator(1), dtype=torch.float64)
    y = 3 * torch.randn(500, 1, generator=generator(2), dtype=torch.float64)
    with torch.no_grad():
        made = model.from_noise(eps, y)
    # The schedule keeps 10^-3 away from both ends.
    torch.testing.assert_close(made, SLOPE * y + SHIFT + WIDTH * eps, atol=0.01, rtol=0)


@pytest.mark.parametrize("trains", [FlowMatching, Denoising])
def test_a_bridge_learns_a_gaussian_pair(trains):
    y = torch.randn(4096, 1, generator=generator(1))
    x = SLOPE * y + SHIFT + WIDTH * torch.randn(4096, 1, generator=generator(2))
    torch.manual_seed(0)
    model = Bridge(ONE, Standardise(ONE), network=ResidualOptions(hidden=32, depth=1))
    model.initialise(Batch(x, y))
    method = trains(model, learning_rate=5e-3)
    context = StubContext(512)
    for step in range(200):
        rows = torch.randint(4096, (512,), generator=generator(step))
        batch = method.prepare(Batch(x[rows], y[rows]), generator(1000 + step))
        method.step({"data": batch}, context)
    given = torch.tensor([[-1.0], [1.0]]).repeat_interleave(2000, 0)
    made = model.eval().sample(4000, given, seed=1).x.reshape(2, 2000)
    assert made.mean(1).tolist() == pytest.approx([SHIFT - SLOPE, SHIFT + SLOPE], abs=0.06)
    assert made.std(1).tolist() == pytest.approx([WIDTH, WIDTH], rel=0.15)


def test_paths_of_training_begin_where_those_of_sampling_do():
    model = Bridge(TWO, Standardise(TWO), noise=0.25)
    batch = Batch(
        torch.randn(50, 2, generator=generator(1)), 5 + torch.randn(50, 2, generator=generator(2))
    )
    model.initialise(batch)
    prepared = FlowMatching(model).prepare(batch, generator(3))
    mapped = model.transform.map_condition(batch.condition)
    noise = (prepared.x[:, 1] - mapped[:, [1, 0]]) / 0.25
    torch.testing.assert_close(model.begin(noise, mapped), prepared.x[:, 1])
    assert float(noise.std()) == pytest.approx(1, abs=0.25)


def known_maps(forth, back):
    """A CycleGAN whose maps are (slope, shift), of one column."""
    model = Translator(ONE, network=LINEAR)
    method = CycleConsistency(model, cycle=2.0, identity=3.0)
    for residual, (slope, shift) in ((model.forth, forth), (method.back, back)):
        layer = residual.body.layers[0]
        nn.init.constant_(layer.weight, slope - 1)
        nn.init.constant_(layer.bias, shift)
    return model, method


def test_cycles_of_a_map_and_its_inverse_cost_nothing():
    """G(y) = 2 y + 1 and F(x) = (x - 1) / 2; |G(x) - x| = |x + 1|, |F(y) - y| = |y + 1| / 2."""
    y, x = torch.randn(2, 100, 1, generator=generator(1)).unbind()
    terms = {}
    for name, back in (("inverse", (0.5, -0.5)), ("other", (0.5, 0.0))):
        model, method = known_maps((2.0, 1.0), back)
        played = method.loss.generator(method.critics[1](model.forth(y)))
        played = played + method.loss.generator(method.critics[0](method.back(x)))
        terms[name] = (method.map_loss(Batch(y), Batch(x)) - played).detach()
    same = 3 * ((x + 1).abs() + (y + 1).abs() / 2)[:, 0]
    torch.testing.assert_close(terms["inverse"], same, atol=1e-5, rtol=1e-5)
    # F(G(y)) = y + 1/2 and G(F(x)) = x + 1.
    other = 2 * 1.5 + 3 * ((x + 1).abs() + (y / 2).abs())[:, 0]
    torch.testing.assert_close(terms["other"], other, atol=1e-5, rtol=1e-5)


def test_a_translator_learns_a_shift_whose_inverse_is_known():
    """Uniform y to y + 1: the way back is learned with it."""
    torch.manual_seed(0)
    model = Translator(ONE, network=LINEAR)
    critic = MLPOptions(hidden=(32,), activation="leaky-relu")
    method = CycleConsistency(model, identity=0.0, r1=0.1, critic=critic, learning_rate=1e-2)
    context = StubContext(256)
    for step in range(400):
        y = torch.rand(256, 1, generator=generator(step))
        x = 1 + torch.rand(256, 1, generator=generator(10_000 + step))
        metrics = method.step({"source": Batch(y), "target": Batch(x)}, context)
    y = torch.linspace(0, 1, 5)[:, None]
    with torch.no_grad():
        there = model.sample(5, y, seed=1).x
        # The game goes on round its solution.
        torch.testing.assert_close(there, y + 1, atol=0.4, rtol=0)
        torch.testing.assert_close(method.back(there), y, atol=0.1, rtol=0)
    assert float(metrics["cycle"]) < 0.2


def test_columns_that_stay_are_those_of_the_event():
    given = torch.tensor([[7.0, 1.0], [8.0, 2.0]])
    torch.manual_seed(0)
    models = [
        Bridge(TWO, unchanged=("E",), network=ResidualOptions(hidden=8, depth=1)),
        Translator(TWO, unchanged=("E",), network=MLPOptions(hidden=(8,))),
    ]
    for model in models:
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
        made = model.sample(2, given, seed=1).x
        assert made[:, 1].tolist() == [7, 8]
        assert (made[:, 0] != given[:, 1]).all()
    assert Unrefined(TWO).sample(2, given, seed=1).x.tolist() == [[1, 7], [2, 8]]


def test_a_residual_map_begins_as_the_identity_and_leaves_columns():
    residual = Residual(torch.tensor([1.0, 0.0]), MLPOptions(hidden=(4,)))
    y = torch.randn(5, 2, generator=generator(1))
    assert torch.equal(residual(y), y)
    nn.init.ones_(residual.body.layers[-1].bias)
    torch.testing.assert_close(residual(y) - y, torch.tensor([[1.0, 0.0]]).expand(5, 2))


@pytest.mark.parametrize(
    "given",
    [(), (Variable("x"),), (Variable("fast_x", unit="GeV"),), (Variable("fastx"),)],
)
def test_events_without_the_columns_are_refused(given):
    schema = Schema((1,), (Variable("x"),), given)
    for cls in (Bridge, Translator, Unrefined):
        with pytest.raises(RecipeError, match=r"makes events from events.*need the columns x"):
            cls(schema)


def test_names_that_end_alike_are_told_apart():
    given = (Variable("jet_fast_E"), Variable("fast_jet_E"), Variable("fast_E"))
    schema = Schema((2,), (Variable("E"), Variable("jet_E")), given)
    assert Origin.of(schema, "bridge").columns == (2, 1)
    with pytest.raises(RecipeError, match=r"unchanged: there is no column 'e'.*'E'"):
        Origin.of(schema, "bridge", ("e",))


def test_what_does_not_fit_is_refused():
    with pytest.raises(RecipeError, match="cycle-consistency trains the surrogate translator"):
        CycleConsistency(Flow(TWO))

    class Wider(Standardise):
        def latent_shape(self, shape):
            return (shape[0] + 1,)

    for cls in (Bridge, Translator):
        with pytest.raises(RecipeError, match=r"(mixes columns, or|the transform) changes what"):
            cls(TWO, Chain([Wider(TWO)], TWO))
