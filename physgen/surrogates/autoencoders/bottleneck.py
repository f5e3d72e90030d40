r"""Bounded-information-bottleneck autoencoders (Buhmann et al., arXiv 2005.05334; BIB-AE).

An autoencoder x -> z -> y whose reconstructions are judged by a critic besides a distance, and
whose z, N(\mu, \sigma^2) by a network of x, is held to a standard normal distribution three times
over: by a divergence, by a second critic, and by a maximum mean discrepancy. The decoder sees
normal numbers \epsilon beside z, as many as x has entries, for what z does not say: it begins with
y = \epsilon, which in the space of a transform to normal numbers are samples without correlations,
and learns what to add. Encoder and decoder minimise

    L = -w_x c_x(y) - w_z c_z(z) + w_d |y - x|
        + \beta KL(N(\mu, \sigma^2) || N(0, 1)) + w_m MMD^2(z, N(0, 1)),

where c_x tells x from y, and c_z normal numbers from z; both are Wasserstein critics with a
gradient penalty (`physgen.surrogates.gan.losses`). The paper's critic of differences tells y - x
from 0; the best one of slope 1 is the distance from 0, and needs no network. A last network, the
post-processor P(y) = y + f(y), moves what the decoder makes of normal numbers alone by as little as
gives every entry the distribution that it has in the data: it minimises

    1/B \sum_b |P(y)_{(b)} - x_{(b)}|^2 + w_p |P(y) - y|^2,

entries sorted in a batch of B, which is the square of the Wasserstein distance of each entry, where
the paper has a kernel between sorted cells. All this happens in the transform's space, under a
condition everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import RecipeError
from physgen.networks.bodies import Encoder, joined
from physgen.networks.mlp import MLP, MLPOptions
from physgen.ranges import NotNegative, Options, Positive, PositiveFloat
from physgen.surrogates.autoencoders.levels import kl_to_standard_normal, normal
from physgen.surrogates.decoding import DecodedNoise
from physgen.surrogates.gan.losses import LOSSES, slope_penalty
from physgen.surrogates.gan.networks import Critic
from physgen.surrogates.method import Method, StepContext
from physgen.transforms.base import Transform

GRADIENT_PENALTY = 10.0
"""lambda of both critics."""


class BottleneckAutoencoder(DecodedNoise):
    """Encoder, decoder and post-processor (`FromNoise`).

    Args:
        schema: of the samples.
        transform: from physical samples to what critics compare.
        latent: dimension of z.
        network: of the encoder; the decoder mirrors it, and the post-processor has its widths.

    >>> from physgen.batch import Variable
    >>> model = BottleneckAutoencoder(Schema((4,), (Variable("x"),)), latent=2)
    >>> model.sample(5, seed=1).x.shape
    torch.Size([5, 4])
    """

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        latent: Positive = 24,
        network: MLPOptions = MLPOptions(hidden=(256, 256)),
    ) -> None:
        super().__init__(schema, transform)
        shape = self.transform.latent_shape(schema.shape)
        self.entries = math.prod(shape)
        self.n_condition = self.transform.latent_condition(len(schema.condition))
        self.latent = latent
        self.encoder = Encoder(shape, 2 * latent, self.n_condition, network)
        self.decoder, self.post_processor = (
            MLP(
                n_in + self.entries + self.n_condition,
                self.entries,
                hidden=network.hidden,
                activation=network.activation,
                zero_output=True,
            )
            for n_in in (latent, 0)
        )

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return mean and log deviation, each (B, latent), of z for a mapped batch."""
        return normal(self.encoder(batch.x, batch.condition))

    def decode(self, numbers: Tensor, condition: Tensor | None) -> Tensor:
        """Return (B, entries) of z and the normal numbers after it, not yet post-processed."""
        decoded: Tensor = numbers[:, self.latent :] + self.decoder(joined(numbers, condition))
        return decoded

    def corrected(self, y: Tensor, condition: Tensor | None) -> Tensor:
        """Return P(y), (B, entries)."""
        moved: Tensor = y + self.post_processor(joined(y, condition))
        return moved

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """z, and the normal numbers after it."""
        return (self.latent + self.entries,)

    @property
    def n_latent(self) -> int:
        """Those of z."""
        return self.latent

    def decode_noise(self, noise: Tensor, condition: Tensor | None) -> Tensor:
        """Map (B, latent + entries) and mapped conditions to (B, entries)."""
        return self.corrected(self.decode(noise, condition), condition)


class LossWeights(Options):
    """How much each term counts.

    Attributes:
        samples, latent: w_x and w_z, of the scores of the critics.
        distance: w_d.
        divergence: beta.
        discrepancy: w_m.
        proximity: w_p.
    """

    samples: NotNegative = 1.0
    latent: NotNegative = 1.0
    distance: NotNegative = 0.1
    divergence: NotNegative = 0.05
    discrepancy: NotNegative = 10.0
    proximity: NotNegative = 0.1


class InformationBottleneck(Method):
    """Train a bottleneck autoencoder against its two critics, and its post-processor.

    The journal holds the means of the terms of L by the names of their weights, those of the
    critics being minus the scores of what the autoencoder makes.

    Args:
        surrogate: a `BottleneckAutoencoder`.
        n_critic: steps of the critics to one of the others.
        critic: network of both critics.
        weights: of the terms.
        learning_rate: of Adam, for all networks.

    Raises:
        RecipeError: the surrogate is another.

    >>> from physgen.batch import Variable
    >>> model = BottleneckAutoencoder(Schema((4,), (Variable("x"),)), latent=2)
    >>> sorted(InformationBottleneck(model).optimisers)
    ['autoencoder', 'critics', 'post-processor']
    """

    def __init__(
        self,
        surrogate: BottleneckAutoencoder,
        *,
        n_critic: Positive = 3,
        critic: MLPOptions = MLPOptions(hidden=(256, 256), activation="leaky-relu"),
        weights: LossWeights = LossWeights(),
        learning_rate: PositiveFloat = 5e-4,
    ) -> None:
        super().__init__(surrogate)
        if not isinstance(surrogate, BottleneckAutoencoder):
            raise RecipeError(
                "method.kind: information-bottleneck trains a bottleneck-autoencoder, not "
                f"{type(surrogate).__name__}"
            )
        self.model, self.n_critic = surrogate, n_critic
        self.weights = weights
        n_condition = surrogate.n_condition
        self.of_samples = Critic((surrogate.entries,), n_condition, critic)
        self.of_latents = Critic((surrogate.latent,), n_condition, critic)
        self.modules |= {"sample critic": self.of_samples, "latent critic": self.of_latents}
        for name, networks in (
            ("critics", [self.of_samples, self.of_latents]),
            ("autoencoder", [surrogate.encoder, surrogate.decoder]),
            ("post-processor", [surrogate.post_processor]),
        ):
            self.optimisers[name] = torch.optim.Adam(
                [p for network in networks for p in network.parameters()],
                lr=learning_rate,
                betas=(0.0, 0.99),  # The opponents move, so that no momentum is most stable.
            )
        self._terms: list[Tensor] = []

    def critic_loss(self, batch: Batch, noise: Tensor, prior: Tensor, mix: Tensor) -> Tensor:
        """Return (B,), the losses of both critics with their penalties.

        Args:
            batch: prepared data.
            noise: (B, latent + entries), normal, of z and after it.
            prior: (B, latent), normal, what z should be like.
            mix: (B, 2), uniform, for the penalties.
        """
        with torch.no_grad():
            y, z, _ = self._reconstructed(batch, noise)
        x, play = batch.x.flatten(1), LOSSES["wasserstein"]
        loss = torch.zeros_like(mix[:, 0])
        for critic, real, fake, u in (
            (self.of_samples, x, y, mix[:, :1]),
            (self.of_latents, prior, z, mix[:, 1:]),
        ):
            scores = critic(real, batch.condition), critic(fake, batch.condition)
            penalty = slope_penalty(critic, real, fake, u, batch.condition)
            loss = loss + play.real(scores[0]) + play.fake(scores[1]) + GRADIENT_PENALTY * penalty
        return loss

    def loss(self, batch: Batch, noise: Tensor, prior: Tensor) -> Tensor:
        """Return (B,), the terms of L of a prepared batch; arguments as of `critic_loss`."""
        y, z, divergence = self._reconstructed(batch, noise)
        terms = {
            "samples": -self.of_samples(y, batch.condition),
            "latent": -self.of_latents(z, batch.condition),
            "distance": (y - batch.x.flatten(1)).square().sum(1).sqrt(),
            "divergence": divergence,
            "discrepancy": discrepancy(z, prior),
        }
        self._terms.append(torch.stack([term.detach().mean() for term in terms.values()]))
        parts = [getattr(self.weights, name) * term for name, term in terms.items()]
        return torch.stack(parts).sum(0)

    def post_processor_loss(self, batch: Batch, noise: Tensor) -> Tensor:
        """Return (B,), what the post-processor minimises; `noise` is (B, latent + entries)."""
        with torch.no_grad():
            y = self.model.decode(noise, batch.condition)
        moved = self.model.corrected(y, batch.condition)
        apart = moved.sort(0).values - batch.x.flatten(1).sort(0).values
        return (apart.square() + self.weights.proximity * (moved - y).square()).mean(1)

    def step(self, batches: Mapping[str, Batch], ctx: StepContext) -> dict[str, Tensor]:
        """Move the critics `n_critic` times, then the autoencoder and the post-processor."""
        batch, numbers = batches["data"], (self.model.noise_shape[0], self.model.latent)
        for turn in range(self.n_critic):
            if turn:
                batch = ctx.next()
            noise, prior, mix = ctx.randn(numbers[0]), ctx.randn(numbers[1]), ctx.rand(2)
            critics = self.optimisers["critics"]
            ctx.minimise(self.critic_loss, critics, batch, noise, prior, mix)
        self._terms.clear()
        noise, prior = ctx.randn(numbers[0]), ctx.randn(numbers[1])
        loss = ctx.minimise(self.loss, self.optimisers["autoencoder"], batch, noise, prior)
        noise = ctx.randn(numbers[0])
        moved = ctx.minimise(
            self.post_processor_loss, self.optimisers["post-processor"], batch, noise
        )
        names = ("samples", "latent", "distance", "divergence", "discrepancy")
        means = torch.stack(self._terms).mean(0).unbind()
        terms = dict(zip(names, means, strict=True))
        return {"loss": loss, "post_processor_loss": moved, **terms}

    def _reconstructed(self, batch: Batch, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return y (B, entries), z (B, latent) and (B,) divergences."""
        mean, log_deviation = self.model.encode(batch)
        z = mean + log_deviation.exp() * noise[:, : self.model.latent]
        y = self.model.decode(torch.cat([z, noise[:, self.model.latent :]], 1), batch.condition)
        return y, z, kl_to_standard_normal(mean, log_deviation).sum(1)


def discrepancy(z: Tensor, prior: Tensor) -> Tensor:
    """Return (B,), whose mean is the square of the discrepancy of (B, D) z from (B, D) prior.

    The kernel is C / (C + |a - b|^2) at C = 2 D (Tolstikhin et al., arXiv 1711.01558, section 4);
    pairs of a vector with itself are left out, so that 0 is expected of the same distribution.
    """
    scale = 2.0 * z.shape[1]

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        squares = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T
        return scale / (scale + squares.clamp_min(0))

    n = len(z)
    own, others = kernel(z, z), kernel(prior, prior)
    within = (own.sum(1) - own.diagonal() + others.sum(1) - others.diagonal()) / max(1, n - 1)
    return within - 2 * kernel(z, prior).mean(1)
