"""Encoders and decoders: what stands between samples and vectors.

A perceptron takes a sample as a vector; convolutions halve an image, and dense layers may follow. A
decoder is the mirror image of its encoder.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from physgen.networks.conv import ConvDecoder, ConvEncoder, ConvOptions
from physgen.networks.mlp import ACTIVATIONS, MLP, MLPOptions

NetworkOptions = Annotated[MLPOptions | ConvOptions, Field(discriminator="kind")]
"""What encoders and decoders can be made of."""


class Encoder(nn.Module):
    """From (x (B, *shape), condition (B, C) or `None`) to (B, n_out).

    Args:
        shape: of x.
        n_out: size of the output.
        n_condition: C.
        options: of the layers.

    Raises:
        RecipeError: convolutions of what is no image, or cannot be halved so often.

    >>> encoder = Encoder((8, 8), 3, 0, ConvOptions(channels=(4, 8)))
    >>> encoder(torch.zeros(5, 8, 8)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self, shape: tuple[int, ...], n_out: int, n_condition: int, options: NetworkOptions
    ) -> None:
        super().__init__()
        hidden, activation = options.hidden, options.activation
        self.image: ConvEncoder | None = None
        if isinstance(options, MLPOptions):
            n_in = math.prod(shape) + n_condition
            self.dense: nn.Module = MLP(n_in, n_out, hidden=hidden, activation=activation)
            return
        n_image, *widths = (*hidden, n_out)
        self.image = ConvEncoder(shape, n_image, n_condition, options)
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
        options: of the layers of the encoder that it mirrors.

    Raises:
        RecipeError: convolutions for what is no image, or cannot be halved so often.
    """

    def __init__(
        self, n_in: int, shape: tuple[int, ...], n_condition: int, options: NetworkOptions
    ) -> None:
        super().__init__()
        activation = options.activation
        self.image: ConvDecoder | None = None
        n_in, widths = n_in + n_condition, options.hidden[::-1]
        if isinstance(options, MLPOptions):
            self.dense: nn.Module = MLP(
                n_in, math.prod(shape), hidden=widths, activation=activation
            )
            return
        self.dense = nn.Identity()
        if widths:
            first = MLP(n_in, widths[-1], hidden=widths[:-1], activation=activation)
            self.dense = nn.Sequential(first, ACTIVATIONS[activation]())
        n_image = widths[-1] if widths else n_in
        self.image = ConvDecoder(n_image, shape, options=options)

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B, number of entries of a sample)."""
        h: Tensor = self.dense(joined(z, condition))
        return h if self.image is None else self.image(h).flatten(1)


def joined(x: Tensor, condition: Tensor | None) -> Tensor:
    """Return (B, D + C): vectors with their conditions behind them."""
    return x if condition is None else torch.cat([x, condition], -1)
