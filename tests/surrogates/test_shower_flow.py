import itertools
import math

import pytest
import torch

from physgen.batch import Batch
from physgen.errors import DomainError, RecipeError
from physgen.surrogates.base import FromNoise, HasBound, HasDensity
from physgen.surrogates.copula import ShowerCopula
from physgen.surrogates.flows.likelihood import HasLatentDensity, MaximumLikelihood
from physgen.surrogates.flows.shower import ShowerFlow
from physgen.systems.calorimeter import Calorimeter
from physgen.systems.geometry import Geometry, Layer, write_geometry
from physgen.systems.shower_observables import layer_energies
from physgen.transforms.base import Chain
from physgen.transforms.showers import ALL_LEFT


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    path = tmp_path_factory.mktemp("geometry") / "small.xml"
    layers = (
        Layer(0, (0.0, 10.0, 40.0), 1),
        Layer(1, (0.0, 10.0, 30.0, 90.0), 4),
        Layer(2, (0.0, 20.0, 80.0), 4),
        Layer(7, (0.0, 50.0, 200.0), 1),
    )
    write_geometry(path, Geometry(layers))
    return Calorimeter(
        binning=path,
        depths=(0.0, 2.0, 7.0, 20.0, 40.0),
        energies_mev=(1000.0, 4000.0),
        cell_mm=20.0,
        max_spots=300,
    )


@pytest.fixture(scope="module")
def data(system):
    return system.simulate(4000, 1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def train(flow, data, steps=150):
    flow.initialise(data)
    method = MaximumLikelihood(flow, learning_rate=5e-3)
    noise, losses = generator(), []
    for step in range(steps):
        rows = torch.randint(len(data), (256,), generator=noise)
        loss = method.loss(method.prepare(data[rows], noise)).mean()
        optimiser = method.optimisers["flow"]
        for group in optimiser.param_groups:
            group["lr"] = 5e-3 * (1 - step / steps)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


@pytest.fixture(scope="module")
def trained(system, data):
    torch.manual_seed(0)
    flow = ShowerFlow(system.schema, system=system, hidden=96, n_layers=4, layer_hidden=(32,))
    losses = train(flow, data)
    return flow, losses


@pytest.fixture(scope="module")
def copula(system, data):
    copula = ShowerCopula(system.schema, system=system)
    copula.initialise(data)
    return copula


def test_it_keeps_the_contracts(trained):
    flow, _ = trained
    assert isinstance(flow, HasLatentDensity)
    assert isinstance(flow, FromNoise)
    assert isinstance(flow, HasBound)
    assert not isinstance(flow, HasDensity)


def test_training_lowers_the_loss(trained):
    _, losses = trained
    assert sum(losses[-20:]) / 20 < losses[0] - 1


def test_a_new_flow_is_the_copula(system, data, copula):
    flow = ShowerFlow(system.schema, system=system, hidden=32)
    flow.initialise(data)
    noise = torch.randn(200, *flow.noise_shape, generator=generator())
    noise[:, :4] = noise[:, :1]  # A new flow of layer energies permutes them.
    incident = data.condition[:200]
    with torch.no_grad():
        assert torch.allclose(
            flow.from_noise(noise, incident), copula.from_noise(noise, incident), rtol=1e-3
        )


def test_what_a_split_adds_to_the_density_integrates_to_one(trained, data):
    flow, _ = trained
    t, n = flow.showers, 4000
    x = data.x[:1].expand(n, -1)
    latent, _ = t(Batch(x=x, condition=data.condition[:1].expand(n, -1)), generator())
    _, energy, _ = latent.x[:, 4:].reshape(n, 3, t.n_splits).unbind(1)
    last = int((energy[0] >= 0).nonzero().max())
    grid = torch.linspace(-8, 8, n - 2)
    values = torch.cat([torch.tensor([-ALL_LEFT, ALL_LEFT]), grid])
    varied = latent.x.clone()
    varied[:, 4 + last] = values
    varied[:, :4] = varied[0, :4]
    with torch.no_grad():
        log_q = flow.latent_log_prob(latent.replace(x=varied)).double()
    p = (log_q - log_q.max()).exp()
    step = float(grid[1] - grid[0])
    total = p[0] + p[1] + step * p[2:].sum()
    # Without the split, the rest of the sum remains.
    with torch.no_grad():
        others = flow.latent_log_prob(latent.replace(x=_without(varied, last, t.n_splits)))
    expected = others[0].double()
    assert (log_q.max() + total.log()).item() == pytest.approx(expected.item(), abs=0.02)


def _without(x, split, n_splits):
    """The same showers where the split has nothing to divide: its term is absent."""
    x = x.clone()
    x[:, 4 + n_splits + split] = -1.0
    return x


def test_the_bound_is_a_density_of_showers(tmp_path):
    # Layers of one and two voxels, each with energy or without: integrated over all there is.
    path = tmp_path / "tiny.xml"
    write_geometry(path, Geometry((Layer(0, (0.0, 99.0), 1), Layer(1, (0.0, 9.0, 99.0), 1))))
    tiny = Calorimeter(
        binning=path,
        depths=(0.0, 9.0, 30.0),
        energies_mev=(1000.0, 4000.0),
        resolution=0.11,
        max_spots=50,
    )
    data = tiny.simulate(4000, 1)
    torch.manual_seed(0)
    flow = ShowerFlow(tiny.schema, system=tiny, hidden=16, n_layers=2, layer_hidden=(8,), n_bins=32)
    train(flow, data, steps=10)
    noise, n, incident = generator(1), 50_000, 2000.0
    v0 = float(flow.showers.threshold)

    def cut(whole, two):
        # In two, with ln(L/R) uniform, and the logarithm of 1 / density; or all to the right.
        span = (whole / v0 - 1).clamp(min=1 + 1e-6).log()
        left = whole * torch.sigmoid((2 * torch.rand(n, generator=noise) - 1) * span)
        right = whole - left
        log_weight = (2 * span * left * right / whole).log()
        possible = (left >= v0) & (right >= v0)
        if not two:
            return torch.zeros(n), whole, torch.zeros(n)
        return left, right, torch.where(possible, log_weight, -torch.inf)

    integral = torch.zeros((), dtype=torch.float64)
    for first, second, third in itertools.product((False, True), repeat=3):
        both, none = second and third, not (second or third)
        if none and not first:
            continue
        total = incident * (0.3 + 1.4 * torch.rand(n, generator=noise))
        log_weight = torch.full((n,), math.log(1.4 * incident))
        one, rest, more = cut(total, two=first and not none)
        if none:
            one, rest = rest, one
        a, b, last = cut(rest, two=both)
        if second and not third:
            a, b = b, a
        log_weight = log_weight + more + last
        kept = log_weight > -torch.inf
        batch = Batch(x=torch.stack([one, a, b], 1), condition=torch.full((n, 1), incident))[kept]
        with torch.no_grad():
            log_p = flow.elbo(batch, generator=noise)
        integral += (log_p + log_weight[kept]).double().exp().sum() / n
    assert integral.item() == pytest.approx(1, abs=0.1)


def test_the_same_noise_makes_the_same_showers_in_double_precision_too(trained):
    flow, _ = trained
    noise = torch.randn(64, *flow.noise_shape, generator=generator(), dtype=torch.float64)
    flow = flow.double()
    try:
        incident = torch.full((64, 1), 3000.0, dtype=torch.float64)
        with torch.no_grad():
            x = flow.from_noise(noise, incident)
            again = flow.from_noise(noise, incident)
        assert torch.equal(x, again)
        assert x.dtype == torch.float64
    finally:
        flow.float()


def test_showers_made_singly_are_those_made_together(trained, data, monkeypatch):
    flow, _ = trained
    noise = 1.3 * torch.randn(40, *flow.noise_shape, generator=generator(3), dtype=torch.float64)
    incident = data.condition[:40].double()
    incident[:5] = flow.showers.threshold * torch.tensor([0.5, 1.5, 2.5, 4.0, 8.0])[:, None]
    flow = flow.double()
    try:
        with torch.no_grad():
            singly = flow.from_noise(noise, incident)
            alone = flow.from_noise(noise[7:8], incident[7:8])
            monkeypatch.setattr("physgen.surrogates.flows.shower.FEW", 0)
            together = flow.from_noise(noise, incident)
    finally:
        flow.float()
    assert torch.allclose(singly, together, rtol=1e-9, atol=1e-9)
    assert torch.allclose(singly[7:8], alone, rtol=1e-9)


def test_layer_energies_and_the_threshold_hold_in_samples(trained, data, system):
    flow, _ = trained
    batch = flow.sample(2000, data.condition[:2000], generator=generator())
    threshold = flow.showers.threshold
    assert ((batch.x == 0) | (batch.x >= threshold * (1 - 1e-5))).all()
    noise = torch.randn(500, *flow.noise_shape, generator=generator(1))
    incident = data.condition[:500]
    with torch.no_grad():
        latent, _ = flow.layers.inverse(noise[:, :4], flow.showers.map_condition(incident))
        wanted = flow.showers.to_layers(latent, incident)
        made = layer_energies(flow.from_noise(noise, incident), system.geometry)
    assert torch.allclose(made, wanted, rtol=1e-5, atol=1e-3)


def test_samples_look_like_the_truth_more_than_the_copula_does(trained, copula, data, system):
    flow, _ = trained
    truth = system.simulate(4000, 2)
    batches = {
        "flow": flow.sample(4000, truth.condition, generator=generator()),
        "copula": copula.sample(4000, truth.condition, generator=generator()),
    }
    layers = {name: layer_energies(batch.x, system.geometry) for name, batch in batches.items()}
    layers["truth"] = layer_energies(truth.x, system.geometry)
    zeros = {name: (value == 0).float().mean(0) for name, value in layers.items()}
    assert torch.allclose(zeros["flow"], zeros["truth"], atol=0.05)
    assert torch.allclose(zeros["copula"], zeros["truth"], atol=0.05)

    def correlation(x):
        # Opposite sectors of the inner rings: the impact point moves energy between them.
        return torch.corrcoef(x[:, [2, 8, 14, 18]].log1p().T)

    expected = correlation(truth.x)
    error = {name: (correlation(b.x) - expected).abs().mean() for name, b in batches.items()}
    assert error["flow"] < 0.6 * error["copula"]


def test_the_copula_has_the_right_marginals(copula, system):
    truth = system.simulate(4000, 3)
    batch = copula.sample(4000, truth.condition, generator=generator())
    assert torch.allclose((batch.x > 0).float().mean(0), (truth.x > 0).float().mean(0), atol=0.04)
    error = (batch.x.var(0) / len(batch) + truth.x.var(0) / len(truth)).sqrt()
    pulls = (batch.x.mean(0) - truth.x.mean(0)) / error
    assert pulls.square().mean() < 2
    again = copula.sample(4000, truth.condition, generator=generator())
    assert torch.equal(batch.x, again.x)


def test_a_rebuilt_surrogate_with_the_same_state_samples_the_same(trained, system):
    flow, _ = trained
    other = ShowerFlow(system.schema, system=system, hidden=96, n_layers=4, layer_hidden=(32,))
    other.load_state_dict(flow.state_dict())
    a, b = (f.sample(50, generator=generator(7)) for f in (flow, other))
    assert torch.equal(a.x, b.x)
    assert torch.equal(a.condition, b.condition)


@pytest.mark.parametrize("kind", [ShowerFlow, ShowerCopula])
def test_conditions_outside_the_trained_domain_are_refused(kind, system, data):
    surrogate = kind(system.schema, system=system)
    with pytest.raises(DomainError, match="no conditions to draw from"):
        surrogate.sample(3, generator=generator())
    surrogate.initialise(data)
    with pytest.raises(DomainError, match="outside the trained domain"):
        surrogate.sample(1, torch.full((1, 1), 1e6), generator=generator())
    assert len(surrogate.sample(3, generator=generator())) == 3
    with pytest.raises(RecipeError, match="bring their own"):
        kind(system.schema, Chain([surrogate.transform]), system=system)


def test_showers_need_incident_energies(trained):
    flow, _ = trained
    with pytest.raises(DomainError, match="incident energies"):
        flow.latent_log_prob(Batch(x=torch.zeros(1, 4 + 60)))
