r"""Autoencoders that know no probability: x -> z -> y, trained by |y - x|^2.

A normal distribution N(m, L L^T) is fitted to the latent vectors of the data, so that they can be
sampled: z = m + L \epsilon. Nothing makes the latent vectors normal, which is why samples look
worse than reconstructions, and what a variational autoencoder is for.

A denoising autoencoder (Vincent et al., ICML 2008) sees x + c \epsilon and is asked for x.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import RecipeError, errors_of
from physgen.io.weights import moments
from physgen.networks.bodies import Decoder, Encoder, NetworkOptions
from physgen.networks.mlp import MLPOptions
from physgen.ranges import NotNegative, Positive, PositiveFloat
from physgen.surrogates.decoding import DecodedNoise
from physgen.surrogates.method import Method, StepContext
from physgen.transforms.base import Transform

MEMORY = 100
"""Steps that the mean and the covariance of the latent vectors look back on."""


class Autoencoder(DecodedNoise):
    """An autoencoder with a normal distribution fitted to its latent vectors (`FromNoise`).

    Args:
        schema: of the samples.
        transform: from physical samples to what is compared by squares.
        latent: dimension of z.
        network: of the encoder; the decoder mirrors it.

    Raises:
        RecipeError: a network that does not fit.

    >>> from physgen.batch import Variable
    >>> schema, network = Schema((4,), (Variable("x"),)), MLPOptions(hidden=(8,))
    >>> model = Autoencoder(schema, latent=2, network=network)
    >>> model.sample(5, seed=1).x.shape
    torch.Size([5, 4])
    """

    latent_mean: Tensor
    latent_covariance: Tensor
    latent_factor: Tensor

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        latent: Positive = 8,
        network: NetworkOptions = MLPOptions(hidden=(128, 128)),
    ) -> None:
        super().__init__(schema, transform)
        shape = self.transform.latent_shape(schema.shape)
        n_condition = self.transform.latent_condition(len(schema.condition))
        with errors_of("surrogate.network"):
            self.encoder = Encoder(shape, latent, n_condition, network)
            self.decoder = Decoder(latent, shape, n_condition, network)
        self.register_buffer("offset", torch.zeros(math.prod(shape)))
        self.register_buffer("latent_mean", torch.zeros(latent))
        self.register_buffer("latent_covariance", torch.eye(latent))
        self.register_buffer("latent_factor", torch.eye(latent))
        self.offset: Tensor

    def initialise(self, data: Batch | None) -> None:
        """Fit the transform; let the decoder start at the mean of the data."""
        super().initialise(data)
        if data is not None:
            generator = torch.Generator(device=data.x.device).manual_seed(0)
            x = self.transform(data, generator)[0].x.flatten(1)
            self.offset.copy_(moments(x, data)[0])

    def encode(self, batch: Batch) -> Tensor:
        """Return (B, latent) of a mapped batch."""
        z: Tensor = self.encoder(batch.x, batch.condition)
        return z

    def decode(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """Return (B, entries) in the transform's space."""
        y: Tensor = self.offset + self.decoder(z, condition)
        return y

    @torch.no_grad()
    def update_latent_stats(self, z: Tensor, rate: float) -> None:
        """Let the normal distribution move towards (B, latent) vectors by a share `rate`."""
        z = z.to(self.latent_mean)
        self.latent_mean.lerp_(z.mean(0), rate)
        rest = z - self.latent_mean
        with torch.autocast(z.device.type, enabled=False):
            self.latent_covariance.lerp_(rest.T @ rest / len(z), rate)
        # A latent entry that never varies must not make the matrix singular.
        ridge = 1e-6 * self.latent_covariance.diagonal().mean() + torch.finfo(z.dtype).tiny
        regular = self.latent_covariance + ridge * torch.eye(z.shape[1]).to(z)
        self.latent_factor.copy_(torch.linalg.cholesky_ex(regular).L)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Noise of z."""
        return (len(self.latent_mean),)

    @property
    def n_latent(self) -> int:
        """All of them."""
        return len(self.latent_mean)

    def decode_noise(self, noise: Tensor, condition: Tensor | None) -> Tensor:
        """Map (B, latent) noise and mapped conditions to (B, entries) in the transform's space."""
        return self.decode(self.latent_mean + noise @ self.latent_factor.T, condition)


class Reconstruction(Method):
    """Minimise the squared distance to what the autoencoder makes of a sample.

    Each process fits the latent normal distribution to its own share of the batches.

    Args:
        surrogate: an `Autoencoder`.
        learning_rate: of AdamW, before the engine's schedule.
        weight_decay: of AdamW.
        corruption: deviation of the noise added to what the encoder sees, in the transform's
            space; above 0 it is a denoising autoencoder.

    Raises:
        RecipeError: the surrogate is another, or the corruption negative.

    >>> from physgen.batch import Variable
    >>> model = Autoencoder(Schema((4,), (Variable("x"),)), latent=2)
    >>> sorted(Reconstruction(model, corruption=0.1).optimisers)
    ['autoencoder']
    """

    def __init__(
        self,
        surrogate: Autoencoder,
        *,
        learning_rate: PositiveFloat = 1e-3,
        weight_decay: NotNegative = 0.0,
        corruption: float = 0.0,
    ) -> None:
        super().__init__(surrogate)
        if not isinstance(surrogate, Autoencoder):
            raise RecipeError(
                f"method.kind: reconstruction trains an autoencoder, not {type(surrogate).__name__}"
            )
        if corruption < 0:
            raise RecipeError(f"method.corruption={corruption:g}: a deviation is not negative")
        self.autoencoder, self.corruption = surrogate, corruption
        self._latents: list[Tensor] = []
        self.optimisers["autoencoder"] = torch.optim.AdamW(
            surrogate.parameters(), lr=learning_rate, weight_decay=weight_decay
        )

    def loss(self, batch: Batch, noise: Tensor) -> Tensor:
        """Return (B,) squared distances, the mean over entries, for a prepared batch."""
        x = batch.x
        z = self.autoencoder.encode(batch.replace(x=x + self.corruption * noise.view_as(x)))
        self._latents.append(z.detach())
        y = self.autoencoder.decode(z, batch.condition)
        return (y - x.flatten(1)).square().mean(-1)

    def step(self, batches: Mapping[str, Batch], ctx: StepContext) -> dict[str, Tensor]:
        """Take one step, and let the latent distribution follow."""
        self._latents.clear()
        noise = ctx.randn(self.autoencoder.offset.numel())
        optimiser = self.optimisers["autoencoder"]
        loss = ctx.minimise(self.loss, optimiser, batches["data"], noise)
        self.autoencoder.update_latent_stats(
            torch.cat(self._latents), max(1 / (1 + ctx.step), 1 / MEMORY)
        )
        return {"loss": loss}
