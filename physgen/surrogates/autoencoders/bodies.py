"""Encoders and decoders: what stands between samples and latent vectors.

"mlp" takes a sample as a vector. "conv" halves an image once for each entry of `channels`, and
`hidden` are dense layers between the smallest image and the latent vector. A decoder is the mirror
image of its encoder.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from physgen.networks.conv import ConvDecoder, ConvEncoder
from physgen.networks.mlp import ACTIVATIONS, MLP, Activation

Network = Literal["mlp", "conv"]


class Encoder(nn.Module):
    """From (x (B, *shape), condition (B, C) or `None`) to (B, n_out).

    Args:
        shape: of x.
        n_out: size of the output.
        n_condition: C.
        network: "mlp" or "conv".
        hidden: widths of the dense layers.
        channels: of the convolutions.
        activation: between layers.
        periodic: whether the image is a torus.

    Raises:
        RecipeError: an image cannot be halved so often.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        n_out: int,
        n_condition: int = 0,
        *,
        network: Network,
        hidden: tuple[int, ...],
        channels: tuple[int, ...],
        activation: Activation,
        periodic: bool,
    ) -> None:
        super().__init__()
        self.image: ConvEncoder | None = None
        if network == "mlp":
            n_in = math.prod(shape) + n_condition
            self.dense: nn.Module = MLP(n_in, n_out, hidden=hidden, activation=activation)
            return
        n_image, *widths = (*hidden, n_out)
        self.image = ConvEncoder(
            shape,
            n_image,
            n_condition,
            channels=channels,
            activation=activation,
            periodic=periodic,
        )
        self.dense = nn.Identity()
        if widths:
            rest = MLP(n_image, n_out, hidden=hidden[1:], activation=activation)
            self.dense = nn.Sequential(ACTIVATIONS[activation](), rest)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B, n_out)."""
        x = x.to(next(self.parameters()).dtype)  # Spins come as bytes.
        h = joined(x.flatten(1), condition) if self.image is None else self.image(x, condition)
        out: Tensor = self.dense(h)
        return out


class Decoder(nn.Module):
    """From (z (B, n_in), condition (B, C) or `None`) to (B, number of entries of a sample).

    Args:
        n_in: size of z.
        shape: of a sample.
        n_condition: C.
        network, hidden, channels, activation, periodic: those of the encoder that it mirrors.

    Raises:
        RecipeError: an image cannot be halved so often.
    """

    def __init__(
        self,
        n_in: int,
        shape: tuple[int, ...],
        n_condition: int = 0,
        *,
        network: Network,
        hidden: tuple[int, ...],
        channels: tuple[int, ...],
        activation: Activation,
        periodic: bool,
    ) -> None:
        super().__init__()
        self.image: ConvDecoder | None = None
        n_in, widths = n_in + n_condition, hidden[::-1]
        if network == "mlp":
            self.dense: nn.Module = MLP(
                n_in, math.prod(shape), hidden=widths, activation=activation
            )
            return
        self.dense = nn.Identity()
        if widths:
            first = MLP(n_in, widths[-1], hidden=widths[:-1], activation=activation)
            self.dense = nn.Sequential(first, ACTIVATIONS[activation]())
        self.image = ConvDecoder(
            widths[-1] if widths else n_in,
            shape,
            channels=channels[::-1],
            activation=activation,
            periodic=periodic,
        )

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B, number of entries of a sample)."""
        h: Tensor = self.dense(joined(z, condition))
        return h if self.image is None else self.image(h).flatten(1)


def joined(x: Tensor, condition: Tensor | None) -> Tensor:
    """Return (B, D + C): vectors with their conditions behind them."""
    return x if condition is None else torch.cat([x, condition], -1)
