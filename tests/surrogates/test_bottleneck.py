"""Terms of a bottleneck autoencoder where they are known, and what its post-processor learns."""

import pytest
import torch
from randomised import generator
from stub import StubContext

from physgen.batch import Batch, Schema, Variable
from physgen.errors import RecipeError
from physgen.networks.mlp import MLPOptions
from physgen.surrogates.autoencoders.bottleneck import (
    BottleneckAutoencoder,
    InformationBottleneck,
    LossWeights,
    discrepancy,
)
from physgen.surrogates.autoencoders.vae import VAE

SCHEMA = Schema((2,), (Variable("x"), Variable("y")))
SMALL = MLPOptions(hidden=(32,))


def normal(n, d, seed):
    return torch.randn((n, d), generator=generator(seed), dtype=torch.float64)


def test_the_discrepancy_is_that_of_its_definition():
    z, prior = normal(7, 3, 1), normal(7, 3, 2)

    def mean(a, b, pairs):
        return sum(6 / (6 + float((a[i] - b[j]).square().sum())) for i, j in pairs) / len(pairs)

    every = [(i, j) for i in range(7) for j in range(7)]
    apart = [(i, j) for i, j in every if i != j]
    expected = mean(z, z, apart) + mean(prior, prior, apart) - 2 * mean(z, prior, every)
    assert float(discrepancy(z, prior).mean()) == pytest.approx(expected, abs=1e-12)


def test_the_discrepancy_of_the_same_distribution_is_zero_on_average():
    same = torch.stack(
        [discrepancy(normal(64, 4, s), normal(64, 4, 1000 + s)).mean() for s in range(300)]
    )
    assert abs(same.mean()) < 4 * same.std() / 300**0.5
    shifted = discrepancy(normal(64, 4, 1) + 1, normal(64, 4, 2)).mean()
    assert shifted > 10 * same.std()


def test_the_post_processor_gives_entries_the_distribution_of_the_data():
    """What is decoded is N(0, 1/4) and N(1, 4); the data are N(0, 1) and N(-1, 1)."""
    model = BottleneckAutoencoder(SCHEMA, latent=1, network=SMALL)
    method = InformationBottleneck(model, weights=LossWeights(proximity=0.0), learning_rate=1e-2)
    width, place = torch.tensor([0.5, 2.0]), torch.tensor([0.0, 1.0])
    model.decode = lambda numbers, condition: numbers[:, 1:] * width + place
    context = StubContext(512)
    torch.manual_seed(1)
    for _ in range(300):
        x = context.randn(2) + torch.tensor([0.0, -1.0])
        optimiser = method.optimisers["post-processor"]
        context.minimise(method.post_processor_loss, optimiser, Batch(x), context.randn(3))
    with torch.no_grad():
        drawn = model.decode_noise(torch.randn(20_000, 3, generator=generator(5)), None)
    torch.testing.assert_close(drawn.mean(0), torch.tensor([0.0, -1.0]), atol=0.1, rtol=0)
    torch.testing.assert_close(drawn.std(0), torch.ones(2), atol=0.1, rtol=0)


def test_critics_tell_reconstructions_and_latents_apart():
    """At weight 0 nothing follows them: both scores rise to a distance that is not zero."""
    model = BottleneckAutoencoder(SCHEMA, latent=1, network=SMALL)
    critic = MLPOptions(hidden=(32,), activation="leaky-relu")
    method = InformationBottleneck(model, critic=critic, learning_rate=5e-3)
    context = StubContext(256)
    losses = []
    for _ in range(150):
        batch = Batch(3 + context.randn(2))
        arguments = context.randn(3), context.randn(1), context.rand(2)
        optimiser = method.optimisers["critics"]
        losses.append(context.minimise(method.critic_loss, optimiser, batch, *arguments))
    # y is normal about 0, and the data are 3 sqrt(2) away.
    assert torch.stack(losses[-20:]).mean() < -3


def test_other_surrogates_are_refused():
    with pytest.raises(RecipeError, match="trains a bottleneck-autoencoder, not VAE"):
        InformationBottleneck(VAE(SCHEMA, latent=2))
