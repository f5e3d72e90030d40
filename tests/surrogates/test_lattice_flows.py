"""Laws of the lattice flows: inverse, log-determinant, score, symmetries, path gradients."""

import math

import pytest
import torch
from stub import StubContext

from physgen.batch import Batch, Schema, Variable
from physgen.errors import RecipeError
from physgen.sampling.reweighting import log_partition_function
from physgen.surrogates.base import FromNoise, HasDensity
from physgen.surrogates.correction import Corrected
from physgen.surrogates.flows.lattice import velocity
from physgen.surrogates.flows.lattice.checkerboard import CheckerboardFlow
from physgen.surrogates.flows.lattice.continuous import ContinuousLatticeFlow
from physgen.surrogates.flows.lattice.fourier import (
    FourierGaussian,
    convolve,
    half,
    orbits,
    spectrum,
)
from physgen.surrogates.flows.reverse_kl import HasScore, ReverseKL
from physgen.systems.scalar import Phi4
from physgen.systems.symmetries import broken, scalar_moves
from physgen.transforms.affine import Standardise

SHAPES = [(6,), (4, 4), (4, 6), (2, 4, 4)]


def schema(shape):
    return Schema(shape, (Variable("phi", dtype="float64"),))


def shaken(flow, seed=3, size=0.05):
    """Move all parameters off their special starting values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)
    return flow.double()


def continuous(shape, **options):
    options = {"integration_steps": 32, "duration": 1.0, **options}
    return shaken(ContinuousLatticeFlow(schema(shape), **options), size=0.02)


def checkerboard(shape, **options):
    torch.manual_seed(0)
    return shaken(CheckerboardFlow(schema(shape), n_layers=4, channels=4, **options))


FLOWS = {
    "continuous": continuous,
    "continuous without sign": lambda shape: continuous(shape, sign_symmetric=False),
    "continuous without exchange": lambda shape: continuous(shape, isotropic=False),
    "checkerboard": checkerboard,
    "checkerboard without sign": lambda shape: checkerboard(shape, sign_symmetric=False),
}
CASES = [(name, shape) for name in FLOWS for shape in SHAPES]


def noise(shape, n=3, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((n, *shape), generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_density_is_that_of_the_map(name, shape):
    """log q(f(z)) = log N(z) - log |det df / dz|, with the Jacobian by autograd."""
    flow, z = FLOWS[name](shape), noise(shape, n=1)
    jacobian = torch.autograd.functional.jacobian(lambda y: flow.from_noise(y)[0], z)
    volume = math.prod(shape)
    expected = -0.5 * z.square().sum() - 0.5 * volume * math.log(2 * math.pi)
    expected = expected - torch.linalg.slogdet(jacobian.reshape(volume, volume))[1]
    x, log_prob = flow.from_noise_with_log_prob(z)
    torch.testing.assert_close(log_prob[0], expected, rtol=0, atol=2e-5)
    torch.testing.assert_close(flow.log_prob(Batch(x=x)), log_prob, rtol=0, atol=2e-5)
    torch.testing.assert_close(x, flow.from_noise(z))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["continuous", "continuous without sign"])
def test_score_is_the_gradient_of_the_density(name, shape):
    flow, z = FLOWS[name](shape), noise(shape)
    x, log_prob, score = flow.from_noise_with_score(z)
    fixed = x.detach().requires_grad_()
    (expected,) = torch.autograd.grad(flow.log_prob(Batch(x=fixed)).sum(), fixed)
    torch.testing.assert_close(score, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(log_prob, flow.from_noise_with_log_prob(z)[1])
    assert x.requires_grad
    assert not score.requires_grad


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_density_has_the_symmetries_that_are_claimed_and_no_others(name, shape):
    flow = FLOWS[name](shape)

    def lost(*names):
        generator = torch.Generator().manual_seed(0)
        fields = 0.3 * torch.randn((4, *shape), generator=generator, dtype=torch.float64)
        return broken(lambda x: flow.log_prob(Batch(x=x)), fields, scalar_moves(), names)

    assert lost(*flow.symmetries) == ()
    if "sign" not in flow.symmetries:
        assert lost("sign") == ("sign",)
    if shape == (4, 4) and name == "continuous without exchange":
        assert lost("axis exchange") == ("axis exchange",)


@pytest.mark.parametrize("shape", SHAPES)
def test_without_velocity_there_is_the_gaussian(shape):
    flow = ContinuousLatticeFlow(schema(shape), base_width=0.7).double()
    x = noise(shape)
    expected = torch.distributions.Normal(0.0, 0.7).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(flow.log_prob(Batch(x=x)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_free_field_is_a_fourier_gaussian(shape):
    system = Phi4(shape=shape, m2=0.8, lam=0.0)
    base = FourierGaussian(shape).double()
    axes = [4 * torch.sin(math.pi * torch.arange(n).double() / n) ** 2 for n in shape]
    khat2 = sum(torch.meshgrid(*axes, indexing="ij"))
    with torch.no_grad():
        base.log_width[base.labels] = -0.5 * (2 * (half(khat2) + system.m2)).log()
        z = noise(shape)
        log_weight = -system.action(base(z)) - base.log_prob_of_noise(z)
    torch.testing.assert_close(log_weight, torch.full_like(log_weight, system.exact()["ln Z"]))
    torch.testing.assert_close(base.whiten(base(z)), z)


@pytest.mark.parametrize("shape", SHAPES)
def test_orbit_values_go_to_momentum_space_and_back_to_convolutions(shape):
    labels, n_orbits = orbits(shape)
    kernel, x = noise((n_orbits,), n=1)[0], noise(shape, n=1)
    factors = (kernel @ spectrum(labels))[half(labels)]
    offsets = torch.cartesian_prod(*map(torch.arange, shape)).reshape(-1, len(shape)).tolist()
    axes = tuple(range(1, 1 + len(shape)))
    naive = sum(kernel[labels[tuple(r)]] * x.roll(r, axes) for r in offsets)
    torch.testing.assert_close(convolve(x, factors), naive)
    weights = kernel.expand(3, 2, n_orbits)
    for kind in (velocity.DenseKernels, velocity.SpectralKernels):
        convolutions = kind(weights[:, None], labels, torch.ones(1, 1).double())
        field = x.flatten(1)
        torch.testing.assert_close(convolutions.expand(1, field)[0, 1], naive.flatten())
        twice = convolutions.contract(2, torch.stack([field, field], 1))
        torch.testing.assert_close(twice[0], 2 * naive.flatten())


def test_numbers_of_orbits():
    assert orbits((8, 8))[1] == 15
    assert orbits((8, 8), isotropic=False)[1] == 25
    assert orbits((4, 6))[1] == 12


@pytest.mark.parametrize("name", ["continuous", "checkerboard"])
def test_path_gradients_have_the_expectation_of_the_whole_gradient(name):
    """They differ by the mean of a score, zero; and vanish where the model is the target."""
    system = Phi4(shape=(4, 4), m2=1.0, lam=0.5)
    flow = FLOWS[name]((4, 4))
    flow.integration_steps = 8
    gradients = []
    for path in (True, False):
        method = ReverseKL(flow, system, path_gradients=path)
        rows = []
        for seed in range(16):
            flow.zero_grad()
            method._loss(noise((4, 4), 64, seed)).mean().backward()
            rows.append(torch.cat([p.grad.flatten() for p in flow.parameters()]))
        gradients.append(torch.stack(rows))
    difference = gradients[0] - gradients[1]
    pulls = difference.mean(0) / (difference.std(0) / math.sqrt(16))
    assert pulls.abs().mean() < 1.2
    assert pulls.abs().max() < 6


def test_path_gradients_vanish_at_the_target_for_every_sample():
    flow = continuous((4, 4))
    flow.integration_steps = 48

    class Self(Phi4):
        def action(self, x, condition=None):
            return -flow.log_prob(Batch(x=x))

    method = ReverseKL(flow, Self(shape=(4, 4)))
    method._path_loss(noise((4, 4), 16)).mean().backward()
    largest = max(p.grad.abs().max() for p in flow.parameters())
    method = ReverseKL(flow, Phi4(shape=(4, 4)))
    flow.zero_grad()
    method._path_loss(noise((4, 4), 16)).mean().backward()
    assert largest < 1e-4 * max(p.grad.abs().max() for p in flow.parameters())


@pytest.mark.parametrize("kind", [ContinuousLatticeFlow, CheckerboardFlow])
def test_training_finds_the_partition_function_of_a_ring(kind):
    """One-dimensional phi^4, whose ln Z the transfer matrix knows."""
    system = Phi4(shape=(6,), m2=-1.0, lam=2.0)
    torch.manual_seed(0)
    flow = kind(system.schema)
    method, context = ReverseKL(flow, system, learning_rate=5e-3), StubContext(seed=1)
    losses = [method.step({}, context)["loss"] for _ in range(60)]
    assert losses[-1] < losses[0]
    generator = torch.Generator().manual_seed(2)
    batch = Corrected(flow, system.action, "none").sample(4096, generator=generator)
    found, exact = log_partition_function(batch.log_weight), system.exact()["ln Z"]
    assert abs(found.value - exact) < 4.5 * found.error + 1e-3
    assert found.error < 0.02
    assert -losses[-1] < exact


def test_contracts():
    for kind in (ContinuousLatticeFlow, CheckerboardFlow):
        flow = kind(schema((4, 4)))
        for protocol in (HasDensity, FromNoise):
            assert isinstance(flow, protocol)
        generator = torch.Generator().manual_seed(0)
        assert flow.sample(5, generator=generator).x.shape == (5, 4, 4)
        other = kind(schema((4, 4)))
        other.load_state_dict(flow.state_dict())
        precise = flow.high_precision()
        assert precise.dtype == torch.float64
        assert flow.dtype == torch.float32
    assert isinstance(ContinuousLatticeFlow(schema((4, 4))), HasScore)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CheckerboardFlow(schema((4, 5))), "even extents"),
        (lambda: CheckerboardFlow(schema((2, 2, 2, 2))), "one to three"),
        (lambda: CheckerboardFlow(schema((4, 4)), kernel_size=4), "odd"),
        (
            lambda: ContinuousLatticeFlow(schema((4,)), Standardise(schema((4,)))),
            "leave 'transform' empty",
        ),
        (lambda: ContinuousLatticeFlow(Schema((4,), (Variable("s", domain="spin"),))), "real"),
    ],
)
def test_what_cannot_be_built(make, message):
    with pytest.raises(RecipeError, match=message):
        make()


def test_reverse_kl_refuses_an_action_without_the_symmetries():
    system = Phi4(shape=(4, 4))

    class Leaning(Phi4):
        def action(self, x, condition=None):
            return system.action(x) + x.flatten(1).sum(1)

    flow = ContinuousLatticeFlow(system.schema)
    with pytest.raises(RecipeError, match=r"not invariant under sign.*sign_symmetric=false"):
        ReverseKL(flow, Leaning(shape=(4, 4)))
    ReverseKL(ContinuousLatticeFlow(system.schema, sign_symmetric=False), Leaning(shape=(4, 4)))
    with pytest.raises(RecipeError, match="needs an action"):
        ReverseKL(flow, object())
