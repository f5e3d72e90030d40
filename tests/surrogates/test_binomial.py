"""A binomial likelihood of dequantised counts, against the distribution itself."""

import pytest
import torch
from randomised import generator, randomised

from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError
from physgen.surrogates.autoencoders.vae import VAE
from physgen.transforms.base import Chain
from physgen.transforms.images import Dequantise, Rescale

GREYS = Schema((2, 3), (Variable("intensity", low=0.0, high=1.0),))
TRANSFORMS = {
    "unit interval": lambda: Dequantise(GREYS, levels=5),
    "rescaled": lambda: Chain([Dequantise(GREYS, levels=5), Rescale(GREYS)]),
}


@pytest.fixture(params=TRANSFORMS)
def model(request):
    torch.manual_seed(0)
    vae = VAE(GREYS, TRANSFORMS[request.param](), latent=2, likelihood="binomial", counts=4)
    vae.initialise(Batch(counts(1000)))
    return vae.double()


def counts(n):
    share = torch.linspace(0.1, 0.9, 6).reshape(2, 3)
    return torch.binomial(torch.full((n, 2, 3), 4.0), share.expand(n, 2, 3), generator()) / 4


def blind(model):
    """Without latent vectors the model is exact: products of binomials of the data's means."""
    with torch.no_grad():
        for network in (model.encoder, model.decoder):
            for parameter in network.parameters():
                parameter.zero_()
    return model


def test_the_bound_is_the_probability_where_latent_vectors_do_nothing(model):
    x = counts(20)
    bound = blind(model).elbo(Batch(x.double()), generator=generator())
    p = counts(1000).mean(0).double()
    exact = torch.distributions.Binomial(4, p).log_prob((4 * x).double()).sum((1, 2))
    torch.testing.assert_close(bound, exact)


def test_samples_are_levels_with_the_probabilities_asked_for(model):
    x = blind(model).sample(20_000, generator=generator(1)).x
    p = counts(1000).mean(0).double()
    torch.testing.assert_close(4 * x, (4 * x).round())
    torch.testing.assert_close(x.mean(0), p, rtol=0, atol=0.01)
    torch.testing.assert_close(x.var(0), p * (1 - p) / 4, rtol=0.05, atol=0)


def test_the_bound_lies_below_the_marginal_and_more_draws_come_nearer(model):
    randomised(model, 0.4)
    x = Batch(counts(30).double())
    with torch.no_grad():
        bounds = [
            model.importance_bound(x, draws=k, generator=generator()).mean() for k in (1, 30, 3000)
        ]
    assert bounds[0] < bounds[1] - 0.1
    assert bounds[1] < bounds[2] + 0.02


@pytest.mark.parametrize("transform", [Chain(), Rescale(GREYS)])
def test_counts_that_are_not_dequantised_are_refused(transform):
    model = VAE(GREYS, transform, latent=2, likelihood="binomial", counts=4)
    with pytest.raises(DomainError, match=r"put transform dequantise \(levels: 5\) first"):
        model.initialise(Batch(counts(50)))
