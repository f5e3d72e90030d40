r"""A style-based generator of images (Karras et al., arXiv 1812.04948; StyleGAN2: 1912.04958).

A mapping network turns a latent vector z and the condition into a style w = f(z / rms(z), c). A
learned constant image is doubled level by level; each convolution is modulated by the style and
demodulated (1912.04958, equations 1 and 3): with s = A w a scale of each input channel,

    W'_{oik} = s_i W_{oik} / sqrt(sum_{i, k} (s_i W_{oik})^2 + epsilon),

which is computed as a scale of the channels before and of those after the convolution. Noise of a
learned strength is added to every site. The image is the sum of what each level shows, doubled.

Layers are numbered from the coarsest; styles (B, layers, W) may differ from layer to layer, which
is style mixing. The truncation psi draws styles towards their mean, w <- m + psi (w - m).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from physgen.networks.conv import halved_shape
from physgen.networks.mlp import MLP
from physgen.ranges import Channels, Options, Positive

SLOPE = 0.2
"""Of the leaky activation."""

MEMORY = 0.995
"""Decay of the moving average of the styles."""


class StyleOptions(Options):
    """A style-based generator, for images of two axes.

    Attributes:
        channels: of the levels; the first is of the image's size, each other half as large.
        width: of a style.
        depth: layers of the mapping network.
    """

    kind: Literal["style"] = "style"
    channels: Channels = (32, 64)
    width: Positive = 64
    depth: Positive = 3


class StyleDecoder(nn.Module):
    """From (noise (B, n_in + n_sites), condition (B, C) or `None`) to (B, H W).

    Args:
        n_in: size of the latent vector, the first entries of the noise; the others are of sites.
        shape: (H, W).
        n_condition: C.
        options: of the levels.

    Attributes:
        n_sites: entries of noise of the sites of all layers.
        n_layers: convolutions that take a style.
        psi: truncation, 1 for none.

    Raises:
        RecipeError: it is no image, or cannot be halved so often.

    >>> decoder = StyleDecoder(4, (8, 8), 0, StyleOptions(channels=(4, 8), width=8))
    >>> decoder.n_layers, decoder.n_sites
    (3, 144)
    >>> decoder(torch.randn(5, 4 + 144)).shape
    torch.Size([5, 64])
    """

    mean: Tensor

    def __init__(
        self, n_in: int, shape: tuple[int, ...], n_condition: int, options: StyleOptions
    ) -> None:
        super().__init__()
        channels, width = options.channels[::-1], options.width
        row, column = halved_shape(shape, len(channels) - 1, options.channels, 3)
        self.n_in, self.psi = n_in, 1.0
        widths = (width,) * (options.depth - 1)
        self.mapping = MLP(n_in + n_condition, width, hidden=widths, activation="leaky-relu")
        self.register_buffer("mean", torch.zeros(width))
        self.constant = nn.Parameter(torch.randn(channels[0], row, column))
        pairs = [(channels[0], channels[0])]
        self._sites = [row * column]
        for level, (before, after) in enumerate(pairwise(channels), 1):
            pairs += [(before, after), (after, after)]
            self._sites += 2 * [row * column * 4**level]
        self.layers = nn.ModuleList(_StyledConvolution(*pair, width) for pair in pairs)
        self.shown = nn.ModuleList(_Modulated(c, 1, width, kernel=1) for c in channels)
        self.n_layers, self.n_sites = len(pairs), sum(self._sites)

    def forward(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B, H W)."""
        z, sites = noise[:, : self.n_in], noise[:, self.n_in :]
        style = self.mean + self.psi * (self.style(z, condition) - self.mean)
        return self.synthesise(style[:, None].expand(-1, self.n_layers, -1), sites)

    def style(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return the styles (B, W) of latent vectors (B, n_in)."""
        z = z * z.square().mean(1, keepdim=True).clamp_min(1e-12).rsqrt()
        style: Tensor = self.mapping(z if condition is None else torch.cat([z, condition], 1))
        return style

    @torch.no_grad()
    def observe(self, noise: Tensor, condition: Tensor | None = None) -> None:
        """Move the mean style towards that of noise, whose first entries are latent vectors."""
        style = self.style(noise[:, : self.n_in], condition)
        self.mean.lerp_(style.mean(0).to(self.mean), 1 - MEMORY)

    def synthesise(self, styles: Tensor, sites: Tensor) -> Tensor:
        """Return the images (B, H W) of styles (B, n_layers, W) and noise (B, n_sites)."""
        h = self.constant.expand(styles.shape[0], -1, -1, -1)
        parts = torch.split(sites, self._sites, 1)
        image: Tensor | None = None
        for level, shown in enumerate(self.shown):
            for i in range(max(0, 2 * level - 1), 2 * level + 1):
                if i and i % 2:
                    h = doubled(h)
                h = self.layers[i](h, styles[:, i], parts[i])
            seen = shown(h, styles[:, 2 * level])
            image = seen if image is None else doubled(image) + seen
        assert image is not None  # There is a level.
        return image.flatten(1)


def doubled(h: Tensor) -> Tensor:
    """Return (B, C, 2 H, 2 W): every site four times."""
    out: Tensor = functional.interpolate(h, scale_factor=2.0, mode="nearest")
    return out


class _Modulated(nn.Module):
    """A convolution whose input channels are scaled by a style, demodulated if asked for."""

    def __init__(
        self, before: int, after: int, width: int, *, kernel: int = 3, demodulate: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(after, before, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(after))
        self.scale = nn.Linear(width, before)
        nn.init.ones_(self.scale.bias)
        self.demodulate, self.padding = demodulate, kernel // 2
        # All weights have deviation 1 and are scaled when used, so that Adam moves all alike.
        self.gain = 1 / math.sqrt(before * kernel**2)

    def forward(self, h: Tensor, style: Tensor) -> Tensor:
        scale, weight = self.scale(style), self.gain * self.weight
        out: Tensor = functional.conv2d(h * scale[:, :, None, None], weight, padding=self.padding)
        if self.demodulate:
            power = scale.square() @ weight.square().sum((2, 3)).T
            out = out * (power + 1e-8).rsqrt()[:, :, None, None]
        return out + self.bias[:, None, None]


class _StyledConvolution(nn.Module):
    """A demodulated convolution, noise of its own strength, and the activation."""

    def __init__(self, before: int, after: int, width: int) -> None:
        super().__init__()
        self.convolution = _Modulated(before, after, width, demodulate=True)
        self.strength = nn.Parameter(torch.zeros(()))

    def forward(self, h: Tensor, style: Tensor, sites: Tensor) -> Tensor:
        h = self.convolution(h, style)
        h = h + self.strength * torch.unflatten(sites, 1, (1, *h.shape[2:]))
        return math.sqrt(2) * functional.leaky_relu(h, SLOPE)
