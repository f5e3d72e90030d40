"""Flows as surrogates: densities, bounds, conditions, and what maximum likelihood learns."""

import pytest
import torch
from randomised import generator, randomised
from safetensors.torch import load_file, save_file
from stub import StubContext

from physgen.batch import Batch, Schema, Variable
from physgen.errors import RecipeError
from physgen.surrogates.base import FromNoise, bound_of, density_of
from physgen.surrogates.correction import Corrected
from physgen.surrogates.flows.autoregressive import (
    AutoregressiveOptions,
)
from physgen.surrogates.flows.continuous import (
    ContinuousBijection,
    ContinuousOptions,
)
from physgen.surrogates.flows.flow import Flow
from physgen.surrogates.flows.likelihood import MaximumLikelihood
from physgen.surrogates.flows.stack import CouplingOptions
from physgen.transforms.affine import Standardise
from physgen.transforms.base import Chain
from physgen.transforms.images import Dequantise, Logit
from physgen.transforms.quantile import Gaussianise

SCHEMA = Schema(
    (3,),
    (Variable("a", "GeV", low=0.0), Variable("b"), Variable("n", domain="integer")),
    (Variable("energy", "GeV"),),
)
REAL = Schema((3,), (Variable("a", "GeV"), Variable("b"), Variable("d")), SCHEMA.condition)


def data(n=2000):
    noise = generator(4)
    energy = 1 + 9 * torch.rand(n, 1, generator=noise)
    a = energy[:, 0] * torch.empty(n).exponential_(generator=noise)
    b = torch.randn(n, generator=noise) + energy[:, 0]
    count = torch.poisson(energy[:, 0] / 3, generator=noise)
    return Batch(torch.stack([a, b, count], -1), energy)


def smooth():
    batch = data()
    return batch.replace(x=torch.cat([batch.x[:, :2], batch.x[:, :1] + batch.x[:, 1:2]], -1))


SURROGATES = {
    "bare": lambda: (Flow(REAL, bijection=CouplingOptions(n_layers=4, hidden=(8,))), smooth()),
    "standardised": lambda: (
        Flow(
            REAL,
            Chain([Standardise(REAL, log=("a", "energy"))]),
            bijection=CouplingOptions(n_layers=4, layer="affine"),
        ),
        smooth(),
    ),
    "gaussianised": lambda: (
        Flow(
            REAL,
            Chain([Gaussianise(REAL, atoms=0), Standardise(REAL)]),
            bijection=CouplingOptions(n_layers=4),
        ),
        smooth(),
    ),
    "autoregressive": lambda: (
        Flow(
            REAL,
            Standardise(REAL),
            bijection=AutoregressiveOptions(n_layers=2, hidden=16, layer="spline"),
        ),
        smooth(),
    ),
    "inverse autoregressive": lambda: (
        Flow(
            REAL,
            Standardise(REAL),
            bijection=AutoregressiveOptions(n_layers=2, hidden=16, fast="sampling"),
        ),
        smooth(),
    ),
    "continuous": lambda: (
        Flow(REAL, Standardise(REAL), bijection=ContinuousOptions(hidden=16)),
        smooth(),
    ),
    "dequantised": lambda: (
        Flow(
            SCHEMA,
            Chain([Gaussianise(SCHEMA), Standardise(SCHEMA)]),
            bijection=CouplingOptions(n_layers=4),
        ),
        data(),
    ),
    "dequantised autoregressive": lambda: (
        Flow(
            SCHEMA,
            Chain([Gaussianise(SCHEMA), Standardise(SCHEMA)]),
            bijection=AutoregressiveOptions(),
        ),
        data(),
    ),
    "dequantised continuous": lambda: (
        Flow(
            SCHEMA, Chain([Gaussianise(SCHEMA), Standardise(SCHEMA)]), bijection=ContinuousOptions()
        ),
        data(),
    ),
}


@pytest.fixture(params=SURROGATES)
def surrogate(request):
    model, batch = SURROGATES[request.param]()
    randomised(model, 0.2)
    model.initialise(batch)
    return model, batch, SURROGATES[request.param]


def test_protocols_say_what_a_flow_knows(surrogate):
    model, _, _ = surrogate
    assert isinstance(model, FromNoise)
    assert (density_of(model) is None) == (model.schema is SCHEMA)
    assert (bound_of(model) is None) == (model.schema is REAL)


def test_seeds_decide_the_samples_and_conditions_come_from_the_prior(surrogate):
    model, batch, _ = surrogate
    first = model.sample(50, generator=generator(7))
    again = model.sample(50, generator=generator(7))
    other = model.sample(50, generator=generator(8))
    assert torch.equal(first.x, again.x)
    assert not torch.equal(first.x, other.x)
    # Real conditions are new ones, at most half a distance away from those of the data.
    seen = batch.condition.sort(0).values
    place = torch.searchsorted(seen[:, 0], first.condition[:, 0].contiguous())
    around = seen[:, 0][torch.stack([place - 1, place]).clamp(0, len(seen) - 1)]
    assert ((around - first.condition[:, 0]).abs().amin(0) <= seen.diff(dim=0).max()).all()
    pushed = model.from_noise(torch.zeros(1, *model.noise_shape), batch.condition[:1])
    assert pushed.shape == (1, 3)


def test_saved_and_loaded_weights_give_the_same_samples(surrogate, tmp_path):
    model, _, build = surrogate
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    fresh, _ = build()
    fresh.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    a, b = (m.sample(20, generator=generator(1)).x for m in (model, fresh))
    assert torch.equal(a, b)


def test_the_condition_changes_the_samples(surrogate):
    model, batch, _ = surrogate
    noise = torch.randn(20, *model.noise_shape, generator=generator())
    low, high = batch.condition.amin(0).expand(20, 1), batch.condition.amax(0).expand(20, 1)
    assert not torch.equal(model.from_noise(noise, low), model.from_noise(noise, high))


def test_a_bound_is_drawn_by_its_generator_and_densities_are_those_of_the_samples(surrogate):
    model, batch, _ = surrogate
    if density_of(model) is None:
        first, again, other = (model.elbo(batch[:50], generator=generator(i)) for i in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
    else:
        samples, log_q = model.double().sample_with_log_prob(
            200, batch.condition[:200].double(), generator=generator()
        )
        agrees = (
            {"rtol": 1e-4, "atol": 1e-4} if isinstance(model.bijection, ContinuousBijection) else {}
        )
        torch.testing.assert_close(model.log_prob(samples), log_q, **agrees)


DENSITIES = {
    "coupling": lambda s, t: Flow(s, t, bijection=CouplingOptions(n_layers=3, hidden=(8,))),
    "autoregressive": lambda s, t: Flow(
        s, t, bijection=AutoregressiveOptions(hidden=8, layer="spline")
    ),
    "inverse autoregressive": lambda s, t: Flow(
        s, t, bijection=AutoregressiveOptions(hidden=8, fast="sampling")
    ),
    "continuous": lambda s, t: Flow(
        s, t, bijection=ContinuousOptions(hidden=8, integration_steps=30)
    ),
}


@pytest.mark.parametrize("name", DENSITIES)
def test_a_density_integrates_to_one(name):
    schema = Schema((1,), (Variable("a", low=0.0),), (Variable("energy"),))
    model = randomised(DENSITIES[name](schema, Standardise(schema, log=("a",)))).double()
    batch = Batch(smooth().x[:, :1], smooth().condition).to(dtype=torch.float64)
    model.initialise(batch)
    grid = torch.linspace(-16, 20, 4001, dtype=torch.float64).exp()[:, None]
    with torch.no_grad():
        density = model.log_prob(Batch(grid, torch.full_like(grid, 5.0))).exp()
    assert torch.trapezoid(density, grid[:, 0]).item() == pytest.approx(1.0, abs=1e-4)


def test_bound_lies_below_the_exact_log_probability():
    """One integer column: P(n) is the latent mass of its interval, by quadrature."""
    schema = Schema((1,), (Variable("n", domain="integer"),))
    x = torch.poisson(torch.full((3000, 1), 2.0), generator=generator()).double()
    model = randomised(
        Flow(schema, Gaussianise(schema), bijection=CouplingOptions(n_layers=2, hidden=(8,)))
    )
    model = model.double()
    model.initialise(Batch(x))
    value = torch.full((4000, 1), 2.0, dtype=torch.float64)
    with torch.no_grad():
        bound = model.elbo(Batch(value), generator=generator()).mean()
        z = torch.linspace(-8, 8, 200_001, dtype=torch.float64)[:, None]
        density = model.latent_log_prob(Batch(z)).exp()
        inside = model.transform.inverse(Batch(z)).x[:, 0] == 2
        exact = (density * inside).sum().mul(z[1, 0] - z[0, 0]).log()
    assert exact - 0.5 < bound < exact


def test_bits_of_images_are_those_of_the_probabilities_of_their_levels():
    """One pixel of 17 levels: P(level) is the latent mass of its interval, by quadrature."""
    schema = Schema((1, 1), (Variable("intensity", low=0.0, high=1.0),))
    transform = Chain([Dequantise(schema, levels=17), Logit(schema)])
    model = Flow(schema, transform, bijection=CouplingOptions(n_layers=2, hidden=(8,)))
    model = randomised(model).double()
    levels = (torch.arange(17, dtype=torch.float64) / 16).reshape(17, 1, 1)
    z = torch.linspace(-9, 9, 200_001, dtype=torch.float64)[:, None, None]
    with torch.no_grad():
        density = model.latent_log_prob(Batch(z)).exp()
        place = (model.transform.inverse(Batch(z)).x[:, 0, 0] * 16).round().long()
        mass = torch.zeros(17, dtype=torch.float64).index_add(0, place, density) * 18 / 200_000
        batch = Batch(levels.repeat_interleave(4000, 0))
        bound = model.elbo(batch, generator=generator()).reshape(17, -1).mean(1)
    assert mass.sum().item() == pytest.approx(1.0, abs=1e-5)
    inner = slice(1, -1)  # Beyond the outer levels lies the mass that the logit keeps from 0 and 1.
    assert (bound <= mass.log() + 1e-3).all()
    assert (bound >= mass.log() - 0.2)[inner].all()


def test_a_bound_is_not_taken_for_a_density():
    model = Flow(SCHEMA, Gaussianise(SCHEMA))
    with pytest.raises(RecipeError, match=r"^transform: .* bounded"):
        model.log_prob(data(5))
    with pytest.raises(RecipeError, match=r"^transform: .* bounded"):
        model.sample_with_log_prob(5, data(5).condition, generator=generator())
    with pytest.raises(RecipeError, match="does not know its density"):
        Corrected(model, lambda x, condition: x.sum(1))


def test_maximum_likelihood_learns_a_conditional_mean_with_weights():
    torch.manual_seed(0)
    schema = Schema((2,), (Variable("x"), Variable("y")), (Variable("c"),))
    noise = generator(5)
    c = torch.rand(4096, 1, generator=noise) * 2 - 1
    x = torch.cat([2 * c, -c], -1) + 0.3 * torch.randn(4096, 2, generator=noise)
    # Rows of weight 0 would teach the opposite.
    batch = Batch(
        torch.cat([x, -x]), torch.cat([c, c]), torch.cat([torch.ones(4096), torch.zeros(4096)])
    )
    model = Flow(
        schema,
        Standardise(schema),
        bijection=CouplingOptions(n_layers=4, hidden=(16,), layer="affine"),
    )
    model.initialise(batch)
    method = MaximumLikelihood(model, learning_rate=1e-2)
    prepared = method.prepare(batch, noise)
    for _ in range(120):
        rows = torch.randint(len(batch), (512,), generator=noise)
        loss = method.step({"data": prepared[rows]}, StubContext(seed=9))["loss"]
    assert not loss.requires_grad
    condition = torch.full((2000, 1), 0.8)
    samples = model.sample(2000, condition, generator=generator()).x
    assert (samples.mean(0) - torch.tensor([1.6, -0.8])).abs().max() < 0.15
    assert (samples.std(0) - 0.3).abs().max() < 0.12


def test_maximum_likelihood_refuses_what_has_no_density():
    from physgen.surrogates.autoencoders.vae import VAE

    with pytest.raises(RecipeError, match="VAE has not"):
        MaximumLikelihood(VAE(REAL))
