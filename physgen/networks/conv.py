"""Convolutional bodies for images and lattices: down to a vector, and up from one.

Each entry of `channels` halves the image; 28x28 becomes 14x14, then 7x7. A decoder is the mirror
image of its encoder. With channels 64, 128, kernels of 5x5, "leaky-relu" and dropout 0.3 the
encoder is the discriminator of a DCGAN, and the decoder its generator (Radford, Metz & Chintala,
arXiv 1511.06434): a vector, 256 channels at 7x7, 128 at 7x7, 64 at 14x14, one at 28x28.

On a periodic lattice all paddings wrap round.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from physgen.errors import RecipeError
from physgen.networks.mlp import ACTIVATIONS, Activation
from physgen.ranges import Channels, Options, Positive, Probability, Widths


class ConvOptions(Options):
    """Convolutions, for images and lattices of two axes.

    Attributes:
        channels: of the layers, from the image inwards; each halves it.
        kernel: length of the square kernels, odd.
        hidden: widths of dense layers between the smallest image and the vector.
        activation: between layers.
        dropout: probability that a number is dropped after a convolution of an encoder, while
            training.
        periodic: whether the image is a torus.
    """

    kind: Literal["conv"] = "conv"
    channels: Channels = (32, 64)
    kernel: Positive = 3
    hidden: Widths = ()
    activation: Activation = "silu"
    dropout: Probability = 0.0
    periodic: bool = False


class ConvEncoder(nn.Module):
    """From (x (B, H, W), condition (B, C) or `None`) to (B, n_out).

    Args:
        shape: (H, W).
        n_out: size of the output.
        n_condition: C; the condition shifts the channels of every layer.
        options: of the convolutions.

    Raises:
        RecipeError: the shape cannot be halved so often, or the kernel is even.

    >>> encoder = ConvEncoder((8, 8), 3, options=ConvOptions(channels=(4, 8), periodic=True))
    >>> encoder(torch.zeros(5, 8, 8)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        n_out: int,
        n_condition: int = 0,
        options: ConvOptions = ConvOptions(),
    ) -> None:
        super().__init__()
        channels, kernel, periodic = options.channels, options.kernel, options.periodic
        height, width = halved_shape(shape, len(channels), channels, kernel)
        self.convolutions = nn.ModuleList(
            convolution(before, after, kernel, periodic, stride=2)
            for before, after in pairwise((1, *channels))
        )
        self.shifts = nn.ModuleList(
            nn.Linear(n_condition, width, bias=False) for width in channels if n_condition
        )
        self.activation = ACTIVATIONS[options.activation]()
        self.dropout = nn.Dropout(options.dropout)
        self.last = nn.Linear(channels[-1] * height * width, n_out)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B, n_out)."""
        h = x[:, None]
        for i, layer in enumerate(self.convolutions):
            h = layer(h)
            if condition is not None and len(self.shifts):
                h = h + self.shifts[i](condition)[:, :, None, None]
            h = self.dropout(self.activation(h))
        out: Tensor = self.last(h.flatten(1))
        return out


class ConvDecoder(nn.Module):
    """From (z (B, n_in), condition (B, C) or `None`) to (B, H, W).

    Args:
        n_in: size of the input.
        shape: (H, W).
        n_condition: C.
        options: of the convolutions, the activation after each layer behind a normalisation over
            groups of channels. The vector is mapped to twice as many channels as the smallest image
            has; nothing is dropped.

    Raises:
        RecipeError: the shape cannot be halved so often, or the kernel is even.
    """

    def __init__(
        self,
        n_in: int,
        shape: tuple[int, ...],
        n_condition: int = 0,
        options: ConvOptions = ConvOptions(),
    ) -> None:
        super().__init__()
        channels, kernel, periodic = options.channels[::-1], options.kernel, options.periodic
        activation = options.activation
        self.seed = (2 * channels[0], *halved_shape(shape, len(channels), channels, kernel))
        self.first = nn.Linear(n_in + n_condition, math.prod(self.seed))
        self.layers = nn.Sequential(
            *_active(2 * channels[0], activation),
            convolution(2 * channels[0], channels[0], kernel, periodic),
            *_active(channels[0], activation),
        )
        for before, after in pairwise(channels):
            self.layers.append(_Doubling(before, after, kernel, periodic))
            self.layers.extend(_active(after, activation))
        self.layers.append(_Doubling(channels[-1], 1, kernel, periodic))

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B, H, W)."""
        if condition is not None:
            z = torch.cat([z, condition], 1)
        out: Tensor = self.layers(self.first(z).unflatten(1, self.seed))
        return out[:, 0]


class _Doubling(nn.ConvTranspose2d):
    """A transposed convolution that doubles height and width, on a torus if asked for."""

    def __init__(self, before: int, after: int, kernel: int, periodic: bool) -> None:
        padding = (kernel - 1) // 2
        # What the kernel reaches over the rim, of the small image.
        rim = (padding + 1) // 2 if periodic else 0
        super().__init__(
            before,
            after,
            kernel,
            stride=2,
            padding=padding + 2 * rim,
            output_padding=2 + 2 * padding - kernel,
        )
        self.rim = rim

    def forward(self, h: Tensor, output_size: list[int] | None = None) -> Tensor:
        if self.rim:
            h = functional.pad(h, [self.rim] * 4, mode="circular")
        return super().forward(h)


def convolution(
    before: int, after: int, kernel: int, periodic: bool, *, stride: int = 1
) -> nn.Conv2d:
    """Return a convolution that keeps the size of an image, or halves it with stride 2.

    Raises:
        RecipeError: a kernel of even length, which has no middle.
    """
    if kernel % 2 == 0:
        raise RecipeError(f"kernels of length {kernel} have no middle: take {kernel + 1}")
    mode: Literal["circular", "zeros"] = "circular" if periodic else "zeros"
    padding = (kernel - 1) // 2
    return nn.Conv2d(before, after, kernel, stride=stride, padding=padding, padding_mode=mode)


def normalisation(n_channels: int) -> nn.GroupNorm:
    """Return a normalisation over groups of channels: no batch statistics to keep or to leak."""
    return nn.GroupNorm(math.gcd(8, n_channels), n_channels)


def halved_shape(
    shape: tuple[int, ...], times: int, channels: tuple[int, ...], kernel: int
) -> tuple[int, int]:
    """Return (H, W) halved `times` times, to hold kernels of length `kernel`.

    Raises:
        RecipeError: it is no image, cannot be halved so often, or what remains is less than half a
            kernel, which could wrap round it twice.
    """
    if len(shape) != 2:
        raise RecipeError(
            f"convolutions need samples of rows and columns, not of shape {tuple(shape)}; "
            "take dense layers (kind: mlp, or residual for diffusion)"
        )
    image = f"images of {shape[0]}x{shape[1]}"
    possible = min((length & -length).bit_length() - 1 for length in shape)
    if times > possible:
        left = len(channels) - times + possible
        remedy = f"give `channels` {left} entries at most" if left else "take dense layers"
        raise RecipeError(
            f"{image} cannot be halved {times} times (channels: {list(channels)}), only "
            f"{possible}: {remedy}"
        )
    height, width = shape[0] >> times, shape[1] >> times
    if min(height, width) < kernel // 2:
        raise RecipeError(
            f"{image}, halved {times} times (channels: {list(channels)}), are {height}x{width}, "
            f"too small for a kernel of {kernel}: take fewer channels or a smaller kernel"
        )
    return height, width


def _active(n_channels: int, activation: Activation) -> tuple[nn.Module, nn.Module]:
    return normalisation(n_channels), ACTIVATIONS[activation]()
