r"""Variational autoencoders (Kingma & Welling, arXiv 1312.6114), with a condition everywhere.

log p(x | c) >= E_{q(z | x, c)}[log p(x | z, c)] - KL(q(z | x, c) || N(0, 1)),

q(z | x, c) = N(\mu, \sigma^2) by a network of x and c, z = \mu + \sigma \epsilon, and

KL = 1/2 \sum_i (\mu_i^2 + \sigma_i^2 - 1 - \log \sigma_i^2).

The likelihood p(x | z, c) lives in the transform's space: a normal distribution with a learned
deviation for each entry, or a Bernoulli distribution for entries of 0 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from physgen.batch import Batch, Schema
from physgen.errors import RecipeError
from physgen.networks.mlp import MLP, Activation
from physgen.surrogates.base import Method, StepContext, Surrogate
from physgen.surrogates.flows.spline import soft_bound
from physgen.transforms.base import Transform

Likelihood = Literal["gaussian", "bernoulli"]

LOG_SCALE_LIMIT = 8.0
"""Bound on |log deviation| of encoder and decoder."""


class VAE(Surrogate):
    """A conditional variational autoencoder (`HasBound`, `FromNoise`).

    Args:
        schema: of the samples.
        transform: from physical samples to what the likelihood describes.
        latent: dimension of z.
        hidden: widths of encoder and decoder.
        likelihood: "gaussian" for real entries, "bernoulli" for entries of 0 and 1 (spins and
            binaries; a spin's -1 is taken for 0, and comes back).
        activation: of the networks.

    Raises:
        RecipeError: a Bernoulli likelihood for variables that are neither binary nor spins.
    """

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        latent: int = 8,
        hidden: tuple[int, ...] = (128, 128),
        likelihood: Likelihood = "gaussian",
        activation: Activation = "silu",
    ) -> None:
        super().__init__(schema, transform)
        domains = {variable.domain for variable in schema.variables}
        if likelihood == "bernoulli" and domains not in ({"spin"}, {"binary"}):
            raise RecipeError(
                "surrogate.likelihood: bernoulli is for variables that are all binary or all "
                f"spins; these are {', '.join(sorted(domains))}: take gaussian"
            )
        self.latent, self.likelihood, self._spins = latent, likelihood, domains == {"spin"}
        self.latent_shape = self.transform.latent_shape(schema.shape)
        self.features = math.prod(self.latent_shape)
        n_condition = self.transform.latent_condition(len(schema.condition))
        self.encoder = MLP(
            self.features + n_condition, 2 * latent, hidden=hidden, activation=activation
        )
        self.decoder = MLP(
            latent + n_condition, self.features, hidden=hidden[::-1], activation=activation
        )
        self.log_scale = nn.Parameter(torch.zeros(self.features))
        if likelihood == "bernoulli":
            self.log_scale.requires_grad_(False)

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return mean and log deviation, each (B, latent), of q(z | x) for a mapped batch."""
        mean, raw = self.encoder(self._joined(self._bits(batch.x), batch.condition)).chunk(2, -1)
        return mean, soft_bound(raw, LOG_SCALE_LIMIT)

    def decode(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B, features): means of a normal, or logits of a Bernoulli likelihood."""
        decoded: Tensor = self.decoder(self._joined(z, condition))
        return decoded

    def latent_elbo(self, batch: Batch, noise: Tensor) -> Tensor:
        """Return (B,), a draw of the bound for a mapped batch; `noise` is (B, latent), normal."""
        mean, log_deviation = self.encode(batch)
        z = mean + log_deviation.exp() * noise
        reconstruction = self.log_likelihood(batch.x, self.decode(z, batch.condition))
        return reconstruction - kl_to_standard_normal(mean, log_deviation)

    def log_likelihood(self, x: Tensor, decoded: Tensor) -> Tensor:
        """Return (B,) log p(x | z) of a mapped x, given what `decode` returned."""
        if self.likelihood == "bernoulli":
            bits = self._bits(x)
            return -functional.binary_cross_entropy_with_logits(
                decoded, bits, reduction="none"
            ).sum(-1)
        log_scale = soft_bound(self.log_scale, LOG_SCALE_LIMIT)
        pull = (x.flatten(1) - decoded) * (-log_scale).exp()
        return -(0.5 * pull.square() + log_scale + 0.5 * math.log(2 * math.pi)).sum(-1)

    def elbo(self, batch: Batch, *, generator: torch.Generator) -> Tensor:
        """Return (B,), an unbiased draw of the bound on log p(x | condition)."""
        mapped, volume = self.transform.bound(batch, generator)
        noise = torch.randn(
            len(batch), self.latent, generator=generator, device=self.device, dtype=self.dtype
        )
        return self.latent_elbo(mapped, noise) + volume

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Noise of z, and of x given z."""
        return (self.latent + self.features,)

    def push(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map (B, latent + features) noise and (B, C) physical conditions to samples."""
        z, rest = noise[:, : self.latent], noise[:, self.latent :]
        mapped = None if condition is None else self.transform.map_condition(condition)
        decoded = self.decode(z, mapped)
        if self.likelihood == "bernoulli":
            # A normal number lies below its own distribution's quantile with that probability.
            x = (torch.special.ndtr(rest) < decoded.sigmoid()).to(noise)
            x = 2 * x - 1 if self._spins else x
        else:
            x = decoded + soft_bound(self.log_scale, LOG_SCALE_LIMIT).exp() * rest
        return self.transform.inverse(Batch(x.reshape(-1, *self.latent_shape), mapped)).x

    def sample(
        self, n: int, condition: Tensor | None = None, *, generator: torch.Generator
    ) -> Batch:
        """Draw `n` samples in physical units."""
        if condition is None:
            condition = self.conditions.draw(n, generator)
        else:
            self.conditions.check(condition)
        noise = torch.randn(
            n, *self.noise_shape, generator=generator, device=self.device, dtype=self.dtype
        )
        with torch.no_grad():
            return Batch(self.push(noise, condition), condition)

    def _bits(self, x: Tensor) -> Tensor:
        """Flatten; spins become 0 and 1 where the likelihood is Bernoulli."""
        x = x.flatten(1)
        return (x + 1) / 2 if self.likelihood == "bernoulli" and self._spins else x

    @staticmethod
    def _joined(x: Tensor, condition: Tensor | None) -> Tensor:
        return x if condition is None else torch.cat([x, condition], -1)


def kl_to_standard_normal(mean: Tensor, log_deviation: Tensor) -> Tensor:
    """Return (B,) KL(N(mean, deviation^2) || N(0, 1)) of (B, D) diagonal normals."""
    return 0.5 * (mean.square() + (2 * log_deviation).exp() - 1).sum(-1) - log_deviation.sum(-1)


class EvidenceLowerBound(Method):
    """Maximise the bound on the log-likelihood; event weights weigh it.

    Args:
        surrogate: a `VAE`.
        learning_rate: of AdamW, before the engine's schedule.
        weight_decay: of AdamW.
    """

    def __init__(
        self, surrogate: VAE, *, learning_rate: float = 1e-3, weight_decay: float = 0.0
    ) -> None:
        super().__init__(surrogate)
        if not isinstance(surrogate, VAE):
            raise RecipeError(
                f"method.kind: evidence-lower-bound trains a vae, not {type(surrogate).__name__}"
            )
        self.autoencoder = surrogate
        self.optimisers["autoencoder"] = torch.optim.AdamW(
            [p for p in surrogate.parameters() if p.requires_grad],
            lr=learning_rate,
            weight_decay=weight_decay,
        )

    def prepare(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Map to the transform's space, adding its noise."""
        with torch.no_grad():
            mapped, _ = self.surrogate.transform(batch, generator)
        prepared: Batch = mapped
        return prepared

    def loss(self, batch: Batch, noise: Tensor) -> Tensor:
        """Return (B,), a draw of minus the bound for a prepared batch."""
        return -self.autoencoder.latent_elbo(batch, noise)

    def step(self, batches: Mapping[str, Batch], ctx: StepContext) -> dict[str, Tensor]:
        """Take one step."""
        noise = ctx.randn(self.autoencoder.latent)
        optimiser = self.optimisers["autoencoder"]
        return {"loss": ctx.minimise(self.loss, optimiser, batches["data"], noise)}
