"""The coupling flow of U(1) links, and its base with a learned topological charge."""

import math

import pytest
import torch
from stub import StubContext

from physgen.batch import Batch
from physgen.errors import RecipeError
from physgen.sampling.manifold import wrapped
from physgen.sampling.reweighting import log_partition_function, reweighted_mean
from physgen.surrogates.correction import Corrected
from physgen.surrogates.flows.lattice import sectors
from physgen.surrogates.flows.lattice.links import links, plaquettes
from physgen.surrogates.flows.lattice.sectors import ChargedPlaquettes
from physgen.surrogates.flows.lattice.u1 import U1CouplingFlow
from physgen.surrogates.flows.lattice.u1_couplings import odd_spline, turned
from physgen.surrogates.flows.reverse_kl import ReverseKL
from physgen.systems.gauge import Gauge
from physgen.systems.gauge_exact import torus
from physgen.systems.schwinger import Schwinger

SHAPES = [(4, 4), (4, 8)]


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def shaken(module, size=0.15):
    """Layers start as the identity, which would satisfy most laws for the wrong reason."""
    noise = generator(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += size * torch.randn(parameter.shape, generator=noise)
    return module.double()


def flow(shape, **options):
    torch.manual_seed(0)
    options = {"n_layers": 8, "channels": 4, "hidden": 8, "candidates": 3, **options}
    return shaken(U1CouplingFlow(Gauge(shape=shape).schema, **options))


def through(model, x):
    """What all layers make of links, with the log-determinants."""
    total = x.new_zeros(len(x))
    for layer, across in model._layers():
        x, log_det = layer(turned(x) if across else x)
        x, total = turned(x) if across else x, total + log_det
    return x, total


def uniform(base, n):
    return torch.rand(n, base.n_uniform, generator=generator(), dtype=torch.float64)


@pytest.mark.parametrize(("volume", "beta"), [(4, 1.3), (16, 0.5), (64, 2.0), (64, 30.0)])
def test_the_charges_of_the_base_have_their_probabilities(volume, beta):
    base = ChargedPlaquettes(volume, beta, candidates=1).double()
    natural, n = base.natural().detach(), 2000
    assert (natural[0] + 2 * natural[1:].sum()).item() == pytest.approx(1, abs=1e-9)
    angles = torch.distributions.VonMises(0.0, beta).sample((5000, volume))
    found = (angles.sum(1) / (2 * math.pi)).round().abs()
    for k in (0, 1):
        share = natural[k].item() * (2 if k else 1)
        error = math.sqrt(share * (1 - share) / len(angles)) + 1e-5
        assert abs((found == k).double().mean().item() - share) < 4.5 * error
    several = shaken(ChargedPlaquettes(volume, beta, candidates=4), 0.05)
    made = (several.factors() * several.natural()).detach()
    assert (made[0] + 2 * made[1:].sum()).item() == pytest.approx(1, abs=1e-9)
    charge = (several.draw(uniform(several, n)).sum(1) / (2 * math.pi)).round()
    for k in (0, 1):
        share = made[k].item() * (2 if k else 1)
        error = math.sqrt(share * (1 - share) / n) + 1e-4
        assert abs((charge.abs() == k).double().mean().item() - share) < 4.5 * error


def test_the_base_integrates_to_one():
    """On 2 x 2, three plaquettes are free; the density has steps, so that the sum is not exact."""
    base, n = shaken(ChargedPlaquettes(4, 1.3)), 24
    axis = 2 * math.pi * (torch.arange(n).double() + 0.5) / n - math.pi
    theta = torch.cartesian_prod(axis, axis, axis)
    theta = torch.cat([theta, wrapped(-theta.sum(1, keepdim=True))], 1)
    with torch.no_grad():
        density = torch.cat([base.log_prob(part).exp() for part in theta.split(14000)])
    assert density.mean().item() == pytest.approx(1, abs=2e-3)


def test_the_base_has_the_density_of_its_samples():
    """Weights towards the pure gauge theory give its exact values, whatever the charges."""
    base = shaken(ChargedPlaquettes(16, 1.8), 0.05)
    with torch.no_grad():
        theta = wrapped(base.draw(uniform(base, 16384)))
        weight = 2.0 * theta.cos().sum(1) - base.log_prob(theta)
    exact, charge = torus(1, 2.0, 16), (theta.sum(1) / (2 * math.pi)).round()
    log_z = log_partition_function(weight)
    assert abs(log_z.value - exact["ln Z"]) < 4 * log_z.error < 0.06
    found = reweighted_mean(charge.square(), weight)
    assert abs(found.value - exact["Q^2"]) < 4 * found.error
    assert abs(charge.square().mean().item() - exact["Q^2"]) > 6 * found.error


def test_integrals_are_done_to_rounding(monkeypatch):
    base = shaken(ChargedPlaquettes(16, 3.0), 0.05)
    theta = wrapped(base.draw(uniform(base, 500))).detach()
    before = base.log_prob(theta)
    monkeypatch.setattr(sectors, "NODES", 60)
    monkeypatch.setattr(sectors, "CROSSINGS", 16)
    torch.testing.assert_close(base.log_prob(theta), before, rtol=0, atol=1e-10)


def test_odd_splines():
    y = wrapped(10 * torch.rand(50, generator=generator(), dtype=torch.float64))
    raw = torch.randn(50, 13, generator=generator(), dtype=torch.float64)
    moved, log_slope = odd_spline(y, raw)
    assert (moved - y).abs().max() > 0.1
    torch.testing.assert_close(odd_spline(-y, raw)[0], -moved)
    back, log_inverse = odd_spline(moved, raw, inverse=True)
    torch.testing.assert_close(back, y)
    torch.testing.assert_close(log_inverse, -log_slope)
    torch.testing.assert_close(odd_spline(y, 0 * raw)[0], y)


@pytest.mark.parametrize("shape", SHAPES)
def test_layers_are_inverted_and_have_the_volume_of_their_map(shape):
    model, x = flow(shape), Gauge(shape=shape).arbitrary(2, generator())
    moved, log_det = through(model, x)
    assert (moved - x).abs().max() > 0.1
    size = x[0].numel()
    jacobian = torch.autograd.functional.jacobian(lambda one: through(model, one)[0], x[:1])
    expected = torch.linalg.slogdet(jacobian.reshape(size, size))[1]
    assert log_det[0].item() == pytest.approx(expected.item(), abs=1e-8)
    base = model.base.log_prob(plaquettes(x).flatten(1))
    torch.testing.assert_close(model.log_prob(Batch(moved)), base - log_det, rtol=0, atol=1e-8)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_density_has_the_symmetries_that_are_claimed(shape):
    system, model = Gauge(shape=shape), flow(shape)
    x = system.arbitrary(4, generator())
    before, moves = model.log_prob(Batch(x)), system.moves()
    assert model.symmetries == ("gauge transformation", "charge conjugation")
    images = [image for name in model.symmetries for image in moves[name](x)]
    images += [torch.roll(x, 4, axis) for axis in (2, 3)]
    for image in images:
        torch.testing.assert_close(model.log_prob(Batch(image)), before, rtol=0, atol=1e-10)
    one = model.log_prob(Batch(torch.roll(x, 1, 2)))
    assert (one - before).abs().max() > 1e-3


def test_windings_are_turned_without_plaquettes():
    model, x = flow((4, 4), n_layers=0), Gauge(shape=(4, 4)).arbitrary(3, generator())
    moved = through(model, x)[0]
    torch.testing.assert_close(plaquettes(moved), plaquettes(x))
    for mu in (0, 1):
        lines = [one[:, mu].sum(mu + 1) for one in (x, moved)]
        turn = wrapped(lines[1] - lines[0])
        assert turn.abs().max() > 1e-3
        torch.testing.assert_close(turn, turn[:, :1].expand_as(turn))


def test_windings_of_the_base_are_uniform():
    model = flow((4, 4), n_layers=0, hidden=0)
    theta = torch.zeros(1, 4, 4).double()
    zero, turn = (links(theta, winding, theta) for winding in torch.eye(2).double()[:, None])
    torch.testing.assert_close(model.log_prob(Batch(zero)), model.log_prob(Batch(turn)))


@pytest.mark.slow
def test_training_lowers_the_charge_and_finds_the_partition_function():
    """Fermions suppress the topological charge; ln Z is that of the weights of the base alone."""
    system = Schwinger(shape=(4, 4), beta=2.0, kappa=0.27)
    torch.manual_seed(0)
    model = U1CouplingFlow(system.schema, n_layers=8, channels=8, hidden=16)
    plain = Corrected(model, system.action, "none").sample(16384, generator=generator())
    method, context = ReverseKL(model, system, learning_rate=5e-3), StubContext(seed=1)
    before = model.base.probabilities()[0].item()
    for _ in range(60):
        method.step({}, context)
    assert model.base.probabilities()[0].item() > before + 0.1
    trained = Corrected(model, system.action, "none").sample(16384, generator=generator(2))
    old, new = (log_partition_function(batch.log_weight) for batch in (plain, trained))
    assert new.error < old.error
    assert abs(new.value - old.value) < 4.5 * math.hypot(new.error, old.error)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((4, 6), {}, r"multiples of 4, not \[4, 6\]; set surrogate\.n_layers=0"),
        ((4, 4), {"bins": 5}, "bins = 5"),
    ],
)
def test_what_cannot_be_built(shape, options, message):
    with pytest.raises(RecipeError, match=message):
        U1CouplingFlow(Gauge(shape=shape).schema, **options)
    U1CouplingFlow(Gauge(shape=shape).schema, n_layers=0)
