"""Samplers of the links of U(1) in two dimensions: densities, symmetries, exact values."""

import math

import pytest
import torch
from scipy.stats import vonmises
from stub import StubContext

from physgen.batch import Batch, Schema, Variable
from physgen.errors import RecipeError
from physgen.sampling.reweighting import (
    effective_sample_size,
    log_partition_function,
    reweighted_mean,
)
from physgen.surrogates.base import FromNoise, HasDensity
from physgen.surrogates.correction import Corrected
from physgen.surrogates.flows.lattice import closure
from physgen.surrogates.flows.lattice.closure import ClosureDefect
from physgen.surrogates.flows.lattice.links import links, plaquettes
from physgen.surrogates.flows.lattice.von_mises import VonMises
from physgen.surrogates.flows.reverse_kl import HasJumps, ReverseKL
from physgen.systems.gauge import Gauge
from physgen.systems.gauge_exact import torus
from physgen.transforms.affine import Standardise


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def defect(shape, beta):
    return ClosureDefect(Gauge(shape=shape).schema, beta=beta).double()


def noise(surrogate, n, seed=2):
    shape = n, *surrogate.noise_shape
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


@pytest.mark.parametrize("beta", [0.3, 2.0, 30.0])
def test_quantiles_are_those_of_von_mises(beta):
    u = torch.rand(1000, generator=generator(), dtype=torch.float64)
    angles = VonMises(u.new_tensor(beta), u.new_zeros(1)).quantile(u)
    assert abs(vonmises.cdf(angles.numpy(), beta) - u.numpy()).max() < 1e-12


def test_quantiles_of_tilted_densities_and_their_slopes():
    beta = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    tilts = torch.tensor([0.0, 0.7, -0.4], dtype=torch.float64, requires_grad=True)
    u = torch.rand(30, generator=generator(), dtype=torch.float64)
    which = torch.arange(30) % 3
    angles = VonMises(beta, tilts).quantile(u, which).detach()
    points = torch.linspace(-math.pi, math.pi, 20_001).double()
    for k in range(3):
        density = (beta * points.cos() + tilts[k] * points).exp().detach()
        whole = torch.trapezoid(density, points)
        below = points[None] <= angles[which == k][:, None]
        part = torch.cumulative_trapezoid(density, points)[below.sum(1) - 2]
        assert ((part / whole) - u[which == k]).abs().max() < 1e-3
        assert VonMises(beta, tilts).log_norm[k].item() == pytest.approx(whole.log().item())
    assert torch.autograd.gradcheck(lambda b, t: VonMises(b, t).quantile(u, which), (beta, tilts))


@pytest.mark.parametrize("shape", [(2, 2), (3, 5), (4, 2)])
def test_links_have_the_plaquettes_and_the_lines_they_are_made_of(shape):
    theta = 2 * torch.rand(3, *shape, generator=generator(), dtype=torch.float64) - 1
    theta[:, 0, 0] -= theta.sum((1, 2))
    winding, gauge = torch.randn(3, 2).double(), torch.randn(3, *shape).double()
    x = links(theta, winding, gauge)
    torch.testing.assert_close(
        torch.polar(torch.ones_like(theta), plaquettes(x) - theta).real, torch.ones_like(theta)
    )
    assert x.shape == (3, 2, *shape)
    assert x.abs().max() <= math.pi
    for mu, line in ((0, x[:, 0, :, 0].sum(1)), (1, x[:, 1, 0, :].sum(1))):
        torch.testing.assert_close((line - winding[:, mu]).cos(), torch.ones(3).double())
    other = links(theta, winding, 0 * gauge)
    (moved,) = Gauge(shape=shape).moves()["gauge transformation"](other)
    assert not torch.allclose(moved.cos(), other.cos())


def test_links_have_haar_measure():
    """Maps of angles with integer coefficients and determinant one keep it."""
    shape = (2, 3)

    def of_numbers(numbers):
        theta = numbers[:5]
        theta = torch.cat([theta, -theta.sum(0, keepdim=True)]).reshape(1, *shape)
        gauge = torch.cat([numbers[7:], numbers.new_zeros(1)]).reshape(1, *shape)
        return links(theta, numbers[None, 5:7], gauge).flatten()

    jacobian = torch.autograd.functional.jacobian(of_numbers, torch.zeros(12).double())
    assert torch.equal(jacobian, jacobian.round())
    assert torch.linalg.det(jacobian).abs().item() == pytest.approx(1)


def test_the_density_integrates_to_one():
    """On 2 x 2, three plaquettes are free; the rest of the links is uniform."""
    sampler, n = defect((2, 2), 1.3), 48
    axis = 2 * math.pi * (torch.arange(n).double() + 0.5) / n - math.pi
    theta = torch.cartesian_prod(axis, axis, axis)
    theta = torch.cat([theta, -theta.sum(1, keepdim=True)], 1).reshape(-1, 2, 2)
    zero = torch.zeros(len(theta), 2).double()
    with torch.no_grad():
        x = links(theta, zero, torch.zeros_like(theta))
        density = torch.cat([sampler.log_prob(Batch(part)).exp() for part in x.split(8192)])
    assert density.mean().item() == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize(
    ("beta", "ess"),
    [
        (2.0, 0.998),
        pytest.param(4.0, 0.988, marks=pytest.mark.slow),
        pytest.param(6.0, 0.967, marks=pytest.mark.slow),
    ],
)
def test_the_closure_defect_sampler_reaches_its_efficiency_and_the_exact_values(beta, ess):
    system = Gauge(shape=(8, 8), beta=beta)
    batch = Corrected(defect((8, 8), beta), system.action, "none").sample(
        16384, generator=generator()
    )
    found = effective_sample_size(batch.log_weight)
    assert abs(found.value - ess) < 0.001 + 3 * found.error
    exact, values = system.exact(), system.observables(batch)
    log_z = log_partition_function(batch.log_weight)
    assert abs(log_z.value - exact["ln Z"]) < 4 * log_z.error < 0.01
    for name in ("plaquette", "Q^2", "Q"):
        mean = reweighted_mean(values[name], batch.log_weight)
        assert abs(mean.value - exact[name]) < 4 * mean.error, name


def test_the_integral_over_the_defect_is_done_to_rounding(monkeypatch):
    x = Gauge(shape=(2, 2)).arbitrary(100, generator())
    sampler = defect((2, 2), 20.0)
    before = sampler.log_prob(Batch(x))
    monkeypatch.setattr(closure, "NODES", 200)
    torch.testing.assert_close(sampler.log_prob(Batch(x)), before, rtol=0, atol=1e-10)


def test_the_density_has_the_symmetries_of_the_action():
    system = Gauge(shape=(3, 4))
    sampler, x = defect((3, 4), 1.5), system.arbitrary(5, generator())
    before = sampler.log_prob(Batch(x))
    for move in system.moves().values():
        for moved in move(x):
            torch.testing.assert_close(sampler.log_prob(Batch(moved)), before, rtol=0, atol=1e-10)


def test_training_finds_the_coupling_of_the_action():
    """Its samples jump with beta: the gradient through them, without the jumps, would be wrong."""
    system = Gauge(shape=(4, 4), beta=2.0)
    sampler = ClosureDefect(system.schema, beta=1.2)
    assert isinstance(sampler, HasJumps)
    method, context = ReverseKL(sampler, system, learning_rate=0.03), StubContext(seed=1)
    losses = [method.step({}, context)["loss"] for _ in range(60)]
    exact = torus(1, 2.0, 16)["ln Z"]
    assert losses[-1] < losses[0]
    assert abs(sampler.log_beta.exp().item() - 2.0) < 0.15
    assert abs(-sum(losses[-10:]) / 10 - exact) < 0.1


def test_contracts():
    sampler = ClosureDefect(Gauge(shape=(4, 4)).schema)
    for protocol in (HasDensity, FromNoise):
        assert isinstance(sampler, protocol)


@pytest.mark.parametrize(
    ("schema", "transform", "message"),
    [
        (Gauge(shape=(4, 4, 4)).schema, None, "two dimensions"),
        (Gauge(group="SU(2)", shape=(4, 4)).schema, None, "two dimensions"),
        (Schema((2, 4, 4), (Variable("phi"),)), None, "two dimensions"),
        (Gauge(shape=(4, 4)).schema, Standardise(Gauge(shape=(4, 4)).schema), "'transform' empty"),
    ],
)
def test_what_cannot_be_built(schema, transform, message):
    with pytest.raises(RecipeError, match=message):
        ClosureDefect(schema, transform)
