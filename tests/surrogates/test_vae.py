"""Variational autoencoders: their bounds against exact results, what they are trained by."""

import math

import pytest
import torch
from stub import StubContext

from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError, RecipeError
from physgen.networks.conv import ConvOptions
from physgen.networks.mlp import MLPOptions
from physgen.surrogates.autoencoders.levels import kl_to_standard_normal
from physgen.surrogates.autoencoders.objectives import EvidenceLowerBound
from physgen.surrogates.autoencoders.vae import VAE
from physgen.surrogates.flows.coupling import LOG_SCALE_LIMIT
from physgen.surrogates.flows.flow import Flow
from physgen.transforms.affine import Standardise
from physgen.transforms.base import Chain
from physgen.transforms.images import Dequantise, Rescale

REALS = Schema((3,), tuple(Variable(name) for name in "abc"))
TABLE = Schema((4,), tuple(Variable(name) for name in "abcd"), (Variable("c"),))
SPINS = Schema((3, 3), (Variable("s", domain="spin"),))
GREYS = Schema((3, 3), (Variable("intensity", low=0.0, high=1.0),))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def unbound(v):
    """The inverse of `softclip`, which maps r to r / (1 + |r| / 8)."""
    return v / (1 - abs(v) / 8)


def set_linear(network, weight, bias, deviations=None):
    """Give a network without hidden layers a matrix; constant deviations behind the means."""
    layer, n = network.layers[0], len(bias)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:n].copy_(weight)
        layer.bias[:n].copy_(bias)
        if deviations is not None:
            layer.bias[n:] = torch.tensor([unbound(math.log(d)) for d in deviations])


def linear_gaussian():
    """A linear VAE whose exact posterior is diagonal: the columns of W are orthogonal."""
    model = VAE(REALS, latent=2, network=MLPOptions(hidden=())).double()
    basis, _ = torch.linalg.qr(torch.randn(3, 2, generator=generator(), dtype=torch.float64))
    loading = basis * torch.tensor([1.5, 0.7], dtype=torch.float64)
    centre, noise = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), 0.5
    set_linear(model.decoder.dense, loading, centre)
    model.likelihood.log_scale.data.fill_(unbound(math.log(noise)))
    gain = loading.square().sum(0) / noise**2
    weight = loading.T / noise**2 / (1 + gain)[:, None]
    set_linear(model.encoder.dense, weight, -weight @ centre, (1 + gain).rsqrt().tolist())
    covariance = loading @ loading.T + noise**2 * torch.eye(3)
    return model, torch.distributions.MultivariateNormal(centre, covariance)


def linear_chain():
    """A chain z_3 -> z_2 -> z_1 -> x of single numbers, with its exact posterior upwards."""
    model = VAE(REALS, latent=1, levels=3, network=MLPOptions(hidden=())).double()
    real = torch.float64
    loading, noise = torch.tensor([[1.2], [-0.5], [0.8]], dtype=real), 0.6
    centre, variance = torch.zeros(1, dtype=real), 1.0
    for t in (1, 0):
        # z_{t-1} = a z_t + b + d e; and z_t given z_{t-1} by Bayes' rule.
        a, b, d = (0.9, 0.3, 0.7) if t else (-1.1, 0.5, 0.4)
        gain = variance * a / (a**2 * variance + d**2)
        below = a * centre + b
        set_linear(model.levels.downwards[t], torch.tensor([[a]]), torch.tensor([b]), [d])
        deviation = math.sqrt(variance * (1 - gain * a))
        set_linear(
            model.levels.upwards[t], torch.tensor([[gain]]), centre - gain * below, [deviation]
        )
        centre, variance = below, a**2 * variance + d**2
    set_linear(model.decoder.dense, loading, torch.zeros(3))
    model.likelihood.log_scale.data.fill_(unbound(math.log(noise)))
    covariance = variance * loading @ loading.T + noise**2 * torch.eye(3)
    weight = variance * torch.linalg.solve(covariance, loading).T
    rest = math.sqrt(variance * (1 - (weight @ loading).item()))
    set_linear(model.encoder.dense, weight, centre - weight @ (loading @ centre), [rest])
    return model, torch.distributions.MultivariateNormal(loading @ centre, covariance)


def linear_with_a_prior():
    """The linear VAE in coordinates z = m + s e, of which the prior has to know m and s."""
    plain, law = linear_gaussian()
    model = VAE(REALS, latent=2, prior_couplings=2, network=MLPOptions(hidden=())).double()
    m, s = torch.tensor([[0.4, -1.1], [1.3, 0.8]], dtype=torch.float64)
    # The first coupling maps the second entry and puts it first, the second one the other.
    for layer, i in zip(model.levels.prior.layers, (1, 0), strict=True):
        scale = -math.log(s[i]) / (1 - abs(math.log(s[i])) / LOG_SCALE_LIMIT)
        layer.network.layers[0].bias.data = torch.stack([m.new_tensor(scale), -m[i] / s[i]])
    decoder, encoder = plain.decoder.dense.layers[0], plain.encoder.dense.layers[0]
    set_linear(model.decoder.dense, decoder.weight / s, decoder.bias - decoder.weight @ (m / s))
    deviations = [math.exp(r / (1 + abs(r) / 8)) for r in encoder.bias[2:].tolist()]
    set_linear(
        model.encoder.dense,
        s[:, None] * encoder.weight[:2],
        m + s * encoder.bias[:2],
        [scale * d for scale, d in zip(s.tolist(), deviations, strict=True)],
    )
    model.likelihood.log_scale.data.copy_(plain.likelihood.log_scale)
    return model, law


EXACT = {
    "one level": linear_gaussian,
    "three levels": linear_chain,
    "a prior of couplings": linear_with_a_prior,
}


@pytest.fixture(params=EXACT)
def exact(request):
    return EXACT[request.param]()


def test_bound_is_tight_at_the_exact_posterior(exact):
    model, law = exact
    x = law.sample((400,))
    with torch.no_grad():
        draws = torch.stack([model.elbo(Batch(x), generator=generator(i)) for i in range(20)])
        single = model.importance_bound(Batch(x), draws=1, generator=generator())
    # Draws scatter by about 1, and 8000 of them are averaged.
    assert (draws.mean() - law.log_prob(x).mean()).abs() < 0.04
    # Each weight is p(x) itself: the importance-weighted bound does not scatter at all.
    torch.testing.assert_close(single, law.log_prob(x))


def test_importance_weighted_bound_rises_to_the_likelihood(exact):
    model, law = exact
    x = law.sample((300,))
    with torch.no_grad():
        model.encoder.dense.layers[0].bias[0] += 0.5
        plain = torch.stack([model.elbo(Batch(x), generator=generator(i)) for i in range(50)])
        bounds = [
            model.importance_bound(Batch(x.repeat(3, 1)), draws=k, generator=generator()).mean()
            for k in (1, 5, 50, 500)
        ]
    truth = law.log_prob(x).mean()
    gaps = [(truth - bound).item() for bound in bounds]
    assert (truth - plain.mean()).item() == pytest.approx(gaps[0], rel=0.1)
    assert gaps[0] > 1.5 * gaps[1] > 2.5 * gaps[2] > 0
    assert abs(gaps[3]) < 0.02


def test_loose_bound_misses_by_the_divergence_of_the_posteriors():
    model, law = linear_gaussian()
    x = law.sample((400,))
    with torch.no_grad():
        model.encoder.dense.layers[0].bias[0] += 0.7
        loose = torch.stack([model.elbo(Batch(x), generator=generator(i)) for i in range(200)])
        deviation = model.encode(Batch(x))[1][0, 0].exp().item()
    # KL between normals whose means differ by 0.7 in units of the posterior's deviation.
    gap = (law.log_prob(x) - loose.mean(0)).mean()
    assert gap.item() == pytest.approx(0.5 * (0.7 / deviation) ** 2, rel=0.02)


def test_samples_of_a_linear_model_have_the_exact_moments(exact):
    model, law = exact
    x = model.sample(40_000, generator=generator()).x
    torch.testing.assert_close(x.T.cov(), law.covariance_matrix, atol=0.05, rtol=0.05)
    torch.testing.assert_close(x.mean(0), law.mean, atol=0.05, rtol=0)


def test_kl_against_quadrature():
    mean = torch.tensor([[0.3, -1.2]], dtype=torch.float64)
    log_deviation = torch.tensor([[-0.5, 0.4]], dtype=torch.float64)
    z = torch.linspace(-15, 15, 20_001, dtype=torch.float64)[:, None]
    q = torch.distributions.Normal(mean, log_deviation.exp())
    p = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    integrand = q.log_prob(z).exp() * (q.log_prob(z) - p.log_prob(z))
    expected = torch.trapezoid(integrand, z, dim=0)[None]
    torch.testing.assert_close(kl_to_standard_normal(mean, log_deviation), expected)


@pytest.mark.parametrize("levels", [1, 3])
def test_terms_of_the_bound_against_their_definitions(levels):
    """With a closed form for the last level, and the mean of log p(z) - log q(z | x) without."""
    torch.manual_seed(0)
    model = VAE(
        SPINS, latent=2, levels=levels, network=MLPOptions(hidden=(8,)), likelihood="bernoulli"
    ).double()
    x = torch.randint(0, 2, (1, 3, 3), generator=generator()) * 2.0 - 1
    noise = torch.randn(1, 100_000, 2 * levels, generator=generator(1), dtype=torch.float64)
    with torch.no_grad():
        terms = model.terms(Batch(x.double()), noise)
    weights = terms.log_weight - terms.reconstruction
    matched = terms.consistency - terms.prior_matching.sum(-1)
    assert (weights.mean() - matched.mean()).abs() < 6 * weights.std() / math.sqrt(100_000)
    assert (terms.prior_matching >= 0).all()
    assert bool((terms.consistency == 0).all()) == (levels == 1)


def wide(model):
    """Let q be wider than the posterior, so that its weights have a variance."""
    model.encoder.dense.layers[-1].bias.data[2:] = 0.3
    return model


def test_bernoulli_bounds_lie_below_the_marginal_and_reach_it():
    torch.manual_seed(0)
    model = wide(
        VAE(SPINS, latent=2, network=MLPOptions(hidden=(8,)), likelihood="bernoulli").double()
    )
    x = torch.randint(0, 2, (6, 3, 3), generator=generator()) * 2.0 - 1
    grid = torch.linspace(-6, 6, 201, dtype=torch.float64)
    z = torch.cartesian_prod(grid, grid)
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1) + 2 * math.log(12 / 200)
    with torch.no_grad():
        decoded = model.decoder(z)
        rows = x.double().flatten(1)[:, None]
        marginal = (model.likelihood.log_prob(rows, decoded) + prior).logsumexp(1)
        batch = Batch(x.double())
        bound = torch.stack([model.elbo(batch, generator=generator(i)) for i in range(300)])
        weighted = model.importance_bound(batch, draws=20_000, generator=generator())
    gap = marginal - bound.mean(0)
    assert (gap > 0).all()
    assert (gap < 2).all()
    torch.testing.assert_close(weighted, marginal, atol=0.02, rtol=0)
    samples = model.sample(100, generator=generator()).x
    assert set(samples.unique().tolist()) == {-1.0, 1.0}


def test_probabilities_of_all_samples_sum_to_one():
    torch.manual_seed(0)
    schema = Schema((4,), tuple(Variable(n, domain="binary") for n in "abcd"))
    model = wide(
        VAE(schema, latent=2, network=MLPOptions(hidden=(8,)), likelihood="bernoulli").double()
    )
    states = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 4)
    with torch.no_grad():
        log_p = model.importance_bound(Batch(states), draws=20_000, generator=generator())
    assert log_p.exp().sum().item() == pytest.approx(1, abs=0.01)


def test_a_bernoulli_likelihood_refuses_pixels_that_noise_has_spread():
    with pytest.raises(RecipeError, match="leave `transform` out"):
        VAE(GREYS, Chain([Dequantise(GREYS, levels=17)]), likelihood="bernoulli")


@pytest.mark.parametrize("schema", [SPINS, GREYS], ids=["spins", "greys"])
def test_bernoulli_samples_follow_the_probabilities(schema):
    model = VAE(schema, latent=1, network=MLPOptions(hidden=(4,)), likelihood="bernoulli")
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.zero_()
    share = torch.linspace(0.1, 0.9, 9).reshape(3, 3)
    data = (torch.rand(20_000, 3, 3, generator=generator(1)) < share).float()
    model.initialise(Batch(2 * data - 1 if schema is SPINS else data))
    x = model.sample(20_000, generator=generator()).x
    expected = 2 * share - 1 if schema is SPINS else share
    assert (x.mean(0) - expected).abs().max() < 0.04
    if schema is GREYS:
        assert (x - x[0]).abs().max() < 1e-6, "a grey sample is a probability, not a draw of it"


def test_bernoulli_of_a_grey_is_the_mean_over_its_binary_images():
    torch.manual_seed(0)
    model = VAE(GREYS, latent=2, network=MLPOptions(hidden=(8,)), likelihood="bernoulli").double()
    grey = torch.rand(1, 9, generator=generator(), dtype=torch.float64)
    decoded = torch.randn(1, 9, generator=generator(1), dtype=torch.float64)
    states = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 9)
    chance = torch.where(states > 0, grey, 1 - grey).prod(-1)
    expected = (chance * model.likelihood.log_prob(states, decoded)).sum()
    torch.testing.assert_close(model.likelihood.log_prob(grey, decoded)[0], expected)


def test_gaussian_likelihood_starts_as_independent_normals_of_the_data():
    model = VAE(REALS, latent=2, network=MLPOptions(hidden=()))
    x = 3 + torch.randn(5000, 3, generator=generator()) * torch.tensor([0.1, 1.0, 0.0])
    weight = torch.rand(5000, generator=generator(1))
    x[:2500, 0] += 5
    weight[:2500] = 0
    model.initialise(Batch(x, weight=weight))
    with torch.no_grad():
        model.decoder.dense.layers[0].weight.zero_()
        model.decoder.dense.layers[0].bias.zero_()
    samples = model.sample(20_000, generator=generator()).x
    torch.testing.assert_close(samples.mean(0), torch.tensor([3.0, 3.0, 3.0]), atol=0.05, rtol=0)
    expected = torch.tensor([0.1, 1.0, 1e-3])
    torch.testing.assert_close(samples.std(0), expected, atol=0, rtol=0.05)


def conditional(n=500):
    torch.manual_seed(0)
    noise = generator(2)
    c = torch.rand(n, 1, generator=noise)
    batch = Batch(5 * c + torch.randn(n, 4, generator=noise), c)
    model = VAE(TABLE, Standardise(TABLE), latent=3, network=MLPOptions(hidden=(16,)))
    model.initialise(batch)
    return model, batch


def train(model, batch, steps=100, **options):
    method = EvidenceLowerBound(model, learning_rate=5e-3, **options)
    prepared, context = method.prepare(batch, generator()), StubContext(len(batch))
    return [method.step({"data": prepared}, context) for _ in range(steps)], method, prepared


@pytest.mark.parametrize("draws", [1, 4])
def test_training_raises_the_bound_and_learns_the_condition(draws):
    model, batch = conditional()
    before = model.elbo(batch, generator=generator()).mean()
    train(model, batch, draws=draws)
    assert model.elbo(batch, generator=generator()).mean() > before + 0.5
    for value in (0.1, 0.9):
        samples = model.sample(4000, torch.full((4000, 1), value), generator=generator()).x
        assert (samples.mean() - 5 * value).abs() < 0.35


def test_loss_is_the_sum_of_the_terms_in_the_journal():
    for levels in (1, 2):
        schema = Schema((4,), TABLE.variables)
        model = VAE(schema, latent=3, levels=levels, network=MLPOptions(hidden=(16,)))
        found = train(model, Batch(conditional()[1].x), steps=1, beta=0.3)[0][0]
        kl = found["prior_matching"] - found.get("consistency", 0)
        assert ("consistency" in found) == (levels > 1)
        torch.testing.assert_close(found["loss"], 0.3 * kl - found["reconstruction"])


def test_beta_and_free_bits_trade_information_for_reconstruction():
    found = {}
    for name, options in {"plain": {}, "beta": {"beta": 8.0}, "free": {"free_bits": 1.0}}.items():
        history, *_ = train(conditional()[0], conditional()[1], steps=120, **options)
        found[name] = history[-1]
    assert found["beta"]["prior_matching"] < 0.5 * found["plain"]["prior_matching"]
    # Three latent entries, each of which may keep 1 nat at no cost.
    assert found["free"]["prior_matching"] > found["plain"]["prior_matching"]
    assert found["free"]["prior_matching"] > 2.5
    assert found["free"]["reconstruction"] > found["plain"]["reconstruction"]


def test_importance_weighted_loss_is_the_importance_weighted_bound():
    model, batch = conditional()
    method = EvidenceLowerBound(model, draws=7)
    prepared = method.prepare(batch, generator())
    noise = torch.randn(len(batch), 7, 3, generator=generator(1))
    loss = method.loss(prepared, noise)
    torch.testing.assert_close(loss, -model.terms(prepared, noise).importance_bound)


def test_what_does_not_fit_is_refused():
    with pytest.raises(RecipeError, match=r"bernoulli is for .* a is real in"):
        VAE(TABLE, likelihood="bernoulli")
    with pytest.raises(RecipeError, match="trains a vae, not Flow"):
        EvidenceLowerBound(Flow(TABLE))
    with pytest.raises(RecipeError, match="no separate terms"):
        EvidenceLowerBound(VAE(TABLE), draws=5, beta=2.0)
    with pytest.raises(RecipeError, match="cannot be negative"):
        EvidenceLowerBound(VAE(TABLE), beta=-1.0)
    with pytest.raises(RecipeError, match="at least 1"):
        VAE(TABLE, levels=0)
    with pytest.raises(RecipeError, match=r"8 of a binomial likelihood are 9 levels, .* has 17"):
        VAE(GREYS, Dequantise(GREYS, levels=17), likelihood="binomial", counts=8)
    with pytest.raises(RecipeError, match="prior_couplings=-1: 0 or more"):
        VAE(TABLE, prior_couplings=-1)
    with pytest.raises(RecipeError, match=r"free_bits=0.5 are of single entries"):
        EvidenceLowerBound(VAE(TABLE, prior_couplings=2), free_bits=0.5)
    with pytest.raises(RecipeError, match=r"^surrogate.network: convolutions"):
        VAE(TABLE, network=ConvOptions())
    grey = Batch(torch.rand(50, 3, 3, generator=generator()))
    with pytest.raises(RecipeError, match="the transform spreads or rounds them"):
        VAE(GREYS, Rescale(GREYS), likelihood="bernoulli")
    with pytest.raises(DomainError, match=r"high = 1, and the data hold 1\.5"):
        VAE(GREYS, likelihood="bernoulli").initialise(Batch(grey.x * 0 + 1.5))
