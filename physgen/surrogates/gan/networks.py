"""The two networks of the game: a generator as a surrogate, and the critic it is judged by."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from physgen.batch import Batch, Schema
from physgen.errors import RecipeError, errors_of
from physgen.networks.bodies import Decoder, Encoder, NetworkOptions
from physgen.networks.conv import ConvOptions
from physgen.networks.epic import EPiCEncoder, EPiCOptions
from physgen.networks.mlp import MLPOptions
from physgen.ranges import Positive
from physgen.surrogates.decoding import DecodedNoise
from physgen.transforms.base import Transform

CriticOptions = Annotated[MLPOptions | ConvOptions | EPiCOptions, Field(discriminator="kind")]
"""What critics can be made of."""


class Generator(DecodedNoise):
    """A network that maps standard normal noise, and a condition, to samples (`FromNoise`).

    Args:
        schema: of the samples.
        transform: from physical samples to the space that generator and critic work in.
        latent: dimension of the noise.
        network: whose layers are said from the sample inwards, as those of the critic.
        bounded: end in tanh, for transforms into [-1, 1].
        residual: let the network say what to add to the noise, at first nothing: for transforms to
            nearly normal numbers, of which there are as many as entries of the noise. The game then
            begins with independent entries.

    Raises:
        RecipeError: a network that does not fit, or residual noise of another size.

    >>> from physgen.batch import Variable
    >>> model = Generator(Schema((2,), (Variable("x"),)), latent=4)
    >>> model.sample(5, seed=1).x.shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        latent: Positive = 64,
        network: NetworkOptions = MLPOptions(activation="leaky-relu"),
        bounded: bool = False,
        residual: bool = False,
    ) -> None:
        super().__init__(schema, transform)
        self.latent, self.bounded, self.residual = latent, bounded, residual
        self.latent_shape = self.transform.latent_shape(schema.shape)
        self.n_condition = self.transform.latent_condition(len(schema.condition))
        with errors_of("surrogate.network"):
            self.body = self._body(network)
        if not residual:
            return
        entries = math.prod(self.latent_shape)
        if latent != entries or bounded:
            raise RecipeError(
                f"surrogate.residual adds noise to samples: latent={latent} must be {entries}, as "
                "the entries of a sample in the transform's space, and bounded be false"
            )
        with torch.no_grad():
            for parameter in list(self.body.parameters())[-2:]:  # Of its last layer.
                parameter.zero_()

    def _body(self, network: NetworkOptions) -> nn.Module:
        """Return the network of noise (B, latent) and mapped conditions."""
        return Decoder(self.latent, self.latent_shape, self.n_condition, network)

    def packed(self, mapped: Batch, generator: torch.Generator | None = None) -> Batch:
        """Return a batch of the transform's space as the critic takes it."""
        return mapped

    def surprise(self, condition: Tensor | None) -> Tensor | float:
        """Return (B,) -log p of what is learned of a packed condition besides the game."""
        return 0.0

    def comparable(self, x: Tensor) -> Tensor:
        """Return samples (B, *latent_shape) such that their distances mean something."""
        return x

    def decode_noise(self, noise: Tensor, condition: Tensor | None) -> Tensor:
        """Map (B, latent) noise and (B, C) mapped conditions to (B, *latent_shape)."""
        x: Tensor = self.body(noise, condition).reshape(-1, *self.latent_shape)
        if self.residual:
            return x + noise.reshape(x.shape)
        return x.tanh() if self.bounded else x

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the noise behind one sample."""
        return (self.latent,)

    @property
    def n_latent(self) -> int:
        """All of them."""
        return self.latent


class Critic(nn.Module):
    """Scores samples of the transform's space: (B, *shape), (B, C) or `None` -> (B,).

    Args:
        shape: of one sample.
        n_condition: C.
        options: of the network.
        spectral_norm: divide each weight by its largest singular value, so that the critic is
            1-Lipschitz up to its activations (Miyato et al., arXiv 1802.05957).

    Raises:
        RecipeError: a network that does not fit.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        n_condition: int,
        options: CriticOptions,
        *,
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        self.body: nn.Module
        if isinstance(options, EPiCOptions):
            self.body = EPiCEncoder(shape[1], 1, n_condition, options)
        else:
            self.body = Encoder(shape, 1, n_condition, options)
        if spectral_norm:
            _normalise(self.body)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B,) scores."""
        scores: Tensor = self.body(x, condition)[:, 0]
        return scores


def _normalise(network: nn.Module) -> None:
    for layer in list(network.modules()):
        if isinstance(layer, nn.Linear | nn.Conv2d):
            spectral_norm(layer)
