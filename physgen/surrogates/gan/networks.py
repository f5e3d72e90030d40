"""The two networks of the game: a generator as a surrogate, and the critic it is judged by."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from physgen.batch import Schema
from physgen.errors import RecipeError
from physgen.networks.conv import ConvDecoder, ConvEncoder
from physgen.networks.mlp import MLP, Activation
from physgen.ranges import Channels, Positive, Widths
from physgen.surrogates.decoding import DecodedNoise
from physgen.transforms.base import Transform

Network = Literal["mlp", "conv"]


class Generator(DecodedNoise):
    """A network that maps standard normal noise, and a condition, to samples (`FromNoise`).

    Args:
        schema: of the samples.
        transform: from physical samples to the space that generator and critic work in.
        latent: dimension of the noise.
        network: "mlp" for samples of any shape, "conv" for images and lattices.
        hidden: widths of an mlp.
        channels: of a convolutional network, each of which doubles the image (see `ConvDecoder`).
        kernel: length of its square kernels.
        activation: of the network.
        bounded: end in tanh, for transforms into [-1, 1].
        periodic: whether the image of a convolutional network is a torus.
    """

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        latent: Positive = 64,
        network: Network = "mlp",
        hidden: Widths = (256, 256),
        channels: Channels = (32, 16),
        kernel: Positive = 3,
        activation: Activation = "leaky-relu",
        bounded: bool = False,
        periodic: bool = False,
    ) -> None:
        super().__init__(schema, transform)
        self.latent, self.network, self.bounded, self.periodic = latent, network, bounded, periodic
        self.latent_shape = self.transform.latent_shape(schema.shape)
        self.n_condition = self.transform.latent_condition(len(schema.condition))
        self.body: nn.Module
        if network == "mlp":
            features = math.prod(self.latent_shape)
            self.body = MLP(
                latent + self.n_condition, features, hidden=hidden, activation=activation
            )
        else:
            self.body = ConvDecoder(
                latent,
                self.latent_shape,
                self.n_condition,
                channels=channels,
                kernel=kernel,
                activation=activation,
                periodic=periodic,
            )

    def decode_noise(self, noise: Tensor, condition: Tensor | None) -> Tensor:
        """Map (B, latent) noise and (B, C) mapped conditions to (B, *latent_shape)."""
        if self.network == "mlp":
            made = self.body(noise if condition is None else torch.cat([noise, condition], 1))
        else:
            made = self.body(noise, condition)
        x: Tensor = made.reshape(-1, *self.latent_shape)
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
        network: "mlp" or "conv".
        hidden: widths of an mlp.
        channels: of a convolutional network, each of which halves the image.
        kernel: length of its square kernels.
        dropout: of a convolutional network, while training.
        periodic: whether the image of a convolutional network is a torus.
        spectral_norm: divide each weight by its largest singular value, so that the critic is
            1-Lipschitz up to its activations (Miyato et al., arXiv 1802.05957).

    Raises:
        RecipeError: dropout is asked of an mlp.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        n_condition: int = 0,
        *,
        network: Network = "mlp",
        hidden: tuple[int, ...] = (256, 256),
        channels: tuple[int, ...] = (64, 128),
        kernel: int = 3,
        dropout: float = 0.0,
        periodic: bool = False,
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.body: nn.Module
        if network == "mlp":
            if dropout:
                raise RecipeError(
                    f"method.dropout={dropout} is for convolutional critics; leave it out, or take "
                    "surrogate.network: conv"
                )
            features = math.prod(shape) + n_condition
            self.body = MLP(features, 1, hidden=hidden, activation="leaky-relu")
        else:
            self.body = ConvEncoder(
                shape,
                1,
                n_condition,
                channels=channels,
                kernel=kernel,
                activation="leaky-relu",
                dropout=dropout,
                periodic=periodic,
            )
        if spectral_norm:
            _normalise(self.body)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B,) scores."""
        if self.network == "mlp":
            x = x.flatten(1)
            score = self.body(x if condition is None else torch.cat([x, condition], 1))
        else:
            score = self.body(x, condition)
        scores: Tensor = score[:, 0]
        return scores


def _normalise(network: nn.Module) -> None:
    for layer in list(network.modules()):
        if isinstance(layer, nn.Linear | nn.Conv2d):
            spectral_norm(layer)
