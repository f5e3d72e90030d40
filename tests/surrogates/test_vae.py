"""The autoencoder: its bound against exact results, its seeds, its training."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from physgen.batch import Batch, Schema, Variable
from physgen.errors import RecipeError
from physgen.surrogates.autoencoders.vae import VAE, EvidenceLowerBound, kl_to_standard_normal
from physgen.surrogates.base import FromNoise, HasBound, HasDensity
from physgen.transforms.affine import Standardise

TABLE = Schema((4,), tuple(Variable(name) for name in "abcd"), (Variable("c"),))
SPINS = Schema((3, 3), (Variable("s", domain="spin"),))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def linear_gaussian():
    """A linear VAE whose exact posterior is diagonal: the columns of W are orthogonal."""
    schema = Schema((3,), tuple(Variable(name) for name in "abc"))
    model = VAE(schema, latent=2, hidden=()).double()
    basis, _ = torch.linalg.qr(torch.randn(3, 2, generator=generator(), dtype=torch.float64))
    loading = basis * torch.tensor([1.5, 0.7], dtype=torch.float64)
    noise = 0.5
    with torch.no_grad():
        decoder, encoder = model.decoder.layers[0], model.encoder.layers[0]
        decoder.weight.copy_(loading)
        decoder.bias.copy_(torch.tensor([1.0, -2.0, 0.5]))

        # `soft_bound` maps r to r / (1 + |r| / 8); invert it for the parameters wanted.
        def unbound(v):
            return v / (1 - abs(v) / 8)

        model.log_scale.fill_(unbound(math.log(noise)))
        gain = loading.square().sum(0) / noise**2
        encoder.weight[:2] = loading.T / noise**2 / (1 + gain)[:, None]
        encoder.bias[:2] = -encoder.weight[:2] @ decoder.bias
        encoder.weight[2:] = 0
        for i, g in enumerate(gain.tolist()):
            encoder.bias[2 + i] = unbound(-0.5 * math.log(1 + g))
    covariance = loading @ loading.T + noise**2 * torch.eye(3)
    exact = torch.distributions.MultivariateNormal(decoder.bias.detach(), covariance)
    return model, exact


def test_bound_is_tight_at_the_exact_posterior_and_below_elsewhere():
    model, exact = linear_gaussian()
    x = exact.sample((400,))
    with torch.no_grad():
        tight = torch.stack([model.elbo(Batch(x), generator=generator(i)) for i in range(20)])
        # Draws scatter by about 1, and 8000 of them are averaged.
        assert (tight.mean() - exact.log_prob(x).mean()).abs() < 0.04
        model.encoder.layers[0].bias[0] += 0.7
        loose = torch.stack([model.elbo(Batch(x), generator=generator(i)) for i in range(200)])
    gap = (exact.log_prob(x) - loose.mean(0)).mean()
    # KL between normals whose means differ by 0.7 in units of the posterior's deviation.
    deviation = model.encode(Batch(x))[1][0, 0].exp().item()
    assert gap.item() == pytest.approx(0.5 * (0.7 / deviation) ** 2, rel=0.02)


def test_samples_of_the_linear_model_have_the_exact_covariance():
    model, exact = linear_gaussian()
    x = model.sample(40_000, generator=generator()).x
    torch.testing.assert_close(x.T.cov(), exact.covariance_matrix, atol=0.05, rtol=0.05)
    torch.testing.assert_close(x.mean(0), exact.mean, atol=0.05, rtol=0)


def test_kl_against_quadrature():
    mean = torch.tensor([[0.3, -1.2]], dtype=torch.float64)
    log_deviation = torch.tensor([[-0.5, 0.4]], dtype=torch.float64)
    z = torch.linspace(-15, 15, 20_001, dtype=torch.float64)[:, None]
    q = torch.distributions.Normal(mean, log_deviation.exp())
    p = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    integrand = q.log_prob(z).exp() * (q.log_prob(z) - p.log_prob(z))
    expected = torch.trapezoid(integrand, z, dim=0).sum()
    torch.testing.assert_close(kl_to_standard_normal(mean, log_deviation)[0], expected)


def test_bernoulli_bound_lies_below_the_marginal_by_importance_sampling():
    torch.manual_seed(0)
    model = VAE(SPINS, latent=2, hidden=(8,), likelihood="bernoulli")
    x = torch.randint(0, 2, (6, 3, 3), generator=generator()) * 2.0 - 1
    with torch.no_grad():
        z = torch.randn(20_000, 2, generator=generator(1))
        logits = model.decode(z)
        likelihood = torch.stack(
            [model.log_likelihood(row.expand(len(z), 3, 3), logits) for row in x]
        )
        marginal = likelihood.logsumexp(1) - math.log(len(z))
        bound = torch.stack([model.elbo(Batch(x), generator=generator(i)) for i in range(300)])
    gap = marginal - bound.mean(0)
    assert (gap > 0).all()
    assert (gap < 2).all()
    samples = model.sample(100, generator=generator()).x
    assert set(samples.unique().tolist()) == {-1.0, 1.0}


def test_bernoulli_samples_follow_the_probabilities():
    torch.manual_seed(0)
    model = VAE(SPINS, latent=1, hidden=(4,), likelihood="bernoulli")
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.zero_()
        model.decoder.layers[-1].bias.copy_(torch.linspace(-2, 2, 9))
    x = model.sample(20_000, generator=generator()).x
    expected = 2 * torch.linspace(-2, 2, 9).sigmoid().reshape(3, 3) - 1
    assert (x.mean(0) - expected).abs().max() < 0.04


def build():
    torch.manual_seed(0)
    return VAE(TABLE, Standardise(TABLE), latent=3, hidden=(16,))


def data(n=1000):
    noise = generator(2)
    c = torch.rand(n, 1, generator=noise)
    return Batch(5 * c + torch.randn(n, 4, generator=noise), c)


def test_protocols_seeds_condition_and_saving(tmp_path):
    model = build()
    model.initialise(data())
    assert isinstance(model, HasBound)
    assert isinstance(model, FromNoise)
    assert not isinstance(model, HasDensity)
    condition = torch.full((20, 1), 0.5)
    first = model.sample(20, condition, generator=generator(1)).x
    assert torch.equal(first, model.sample(20, condition, generator=generator(1)).x)
    assert not torch.equal(first, model.sample(20, condition / 2, generator=generator(1)).x)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    fresh = build()
    fresh.load_state_dict(load_file(tmp_path / "w.safetensors"))
    assert torch.equal(first, fresh.sample(20, condition, generator=generator(1)).x)


def test_every_parameter_gets_a_gradient():
    for model, batch in (
        (build(), data(50)),
        (VAE(SPINS, latent=2, hidden=(8,), likelihood="bernoulli"), Batch(torch.ones(20, 3, 3))),
    ):
        model.initialise(batch)
        model.elbo(batch, generator=generator()).sum().backward()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, name
                assert parameter.grad.abs().max() > 0, name


class Context:
    def __init__(self, batch_size):
        self.batch_size, self.generator = batch_size, generator(3)

    def randn(self, *shape):
        return torch.randn(self.batch_size, *shape, generator=self.generator)

    def minimise(self, loss, optimiser, *arguments):
        mean = loss(*arguments).mean()
        optimiser.zero_grad()
        mean.backward()
        optimiser.step()
        return mean.detach()


def test_training_raises_the_bound_and_learns_the_condition():
    model, batch = build(), data(2000)
    model.initialise(batch)
    method = EvidenceLowerBound(model, learning_rate=5e-3)
    before = model.elbo(batch, generator=generator()).mean()
    prepared = method.prepare(batch, generator())
    context = Context(2000)
    for _ in range(100):
        method.step({"data": prepared}, context)
    assert model.elbo(batch, generator=generator()).mean() > before + 1
    for value in (0.1, 0.9):
        samples = model.sample(4000, torch.full((4000, 1), value), generator=generator()).x
        assert (samples.mean() - 5 * value).abs() < 0.35


def test_wrong_likelihood_and_wrong_surrogate_are_refused():
    with pytest.raises(RecipeError, match="bernoulli is for"):
        VAE(TABLE, likelihood="bernoulli")
    from physgen.surrogates.flows.stack import CouplingFlow

    with pytest.raises(RecipeError, match="trains a vae, not CouplingFlow"):
        EvidenceLowerBound(CouplingFlow(TABLE))
