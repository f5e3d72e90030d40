"""Residual generator and critic of images of classes (Brock, Donahue & Simonyan, arXiv 1809.11096).

In the generator every normalisation is followed by a scale and a shift of the channels that the
latent vector and the condition decide: class-conditional normalisation. The critic adds the product
of its features h and an embedding of the condition to its score, v h + <V c, h> (Miyato & Koyama,
arXiv 1802.05637, equation 3). Both attend over all sites where the image is half as large (Zhang
et al., arXiv 1805.08318).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from physgen.networks.attention import SelfAttention
from physgen.networks.conv import halved_shape, normalisation
from physgen.networks.embedding import Modulation
from physgen.networks.style import doubled
from physgen.ranges import Channels, Options


class ResNetOptions(Options):
    """Residual blocks with self-attention, for images of two axes.

    Attributes:
        channels: of the levels; the first is of the image's size, each other half as large.
        attention: whether sites attend to one another where the image is half as large.
    """

    kind: Literal["resnet"] = "resnet"
    channels: Channels = (32, 64)
    attention: bool = True


class ResNetDecoder(nn.Module):
    """From (z (B, n_in), condition (B, C) or `None`) to (B, H W).

    Args:
        n_in: size of z.
        shape: (H, W).
        n_condition: C.
        options: of the levels.

    Raises:
        RecipeError: it is no image, or cannot be halved so often.

    >>> decoder = ResNetDecoder(4, (8, 8), 10, ResNetOptions(channels=(8, 8)))
    >>> decoder(torch.randn(5, 4), torch.eye(10)[:5]).shape
    torch.Size([5, 64])
    """

    def __init__(
        self, n_in: int, shape: tuple[int, ...], n_condition: int, options: ResNetOptions
    ) -> None:
        super().__init__()
        channels = options.channels[::-1]
        self.seed = (channels[0], *halved_shape(shape, len(channels) - 1, options.channels, 3))
        self.first = nn.Linear(n_in + n_condition, math.prod(self.seed))
        self.blocks = nn.ModuleList(
            _Up(before, after, n_in + n_condition, larger=number > 0)
            for number, (before, after) in enumerate(pairwise((channels[0], *channels)))
        )
        half = max(0, len(channels) - 2)
        self.attention = nn.ModuleDict(
            {str(half): SelfAttention(channels[half])} if options.attention else {}
        )
        self.norm = normalisation(channels[-1])
        self.last = nn.Conv2d(channels[-1], 1, 3, padding=1)

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B, H W)."""
        features = z if condition is None else torch.cat([z, condition], 1)
        h = torch.unflatten(self.first(features), 1, self.seed)
        for number, block in enumerate(self.blocks):
            h = block(h, features)
            if str(number) in self.attention:
                h = self.attention[str(number)](h)
        image: Tensor = self.last(functional.relu(self.norm(h)))
        return image.flatten(1)


class ResNetEncoder(nn.Module):
    """From (x (B, H, W), condition (B, C) or `None`) to (B, 1), a score.

    Args:
        shape: (H, W).
        n_condition: C.
        options: of the levels.

    Raises:
        RecipeError: it is no image, or cannot be halved so often.

    >>> encoder = ResNetEncoder((8, 8), 10, ResNetOptions(channels=(8, 8)))
    >>> encoder(torch.zeros(5, 8, 8), torch.eye(10)[:5]).shape
    torch.Size([5, 1])
    """

    def __init__(self, shape: tuple[int, ...], n_condition: int, options: ResNetOptions) -> None:
        super().__init__()
        channels = options.channels
        halved_shape(shape, len(channels) - 1, channels, 3)
        self.first = nn.Conv2d(1, channels[0], 3, padding=1)
        self.blocks = nn.ModuleList(
            _Down(before, after, smaller=number < len(channels) - 1)
            for number, (before, after) in enumerate(pairwise((*channels, channels[-1])))
        )
        self.attention: nn.Module = nn.Identity()
        if options.attention:
            self.attention = SelfAttention((*channels, channels[-1])[1])
            # Spectral normalisation divides by the largest singular value, which must not be 0.
            nn.init.kaiming_uniform_(self.attention.outer.weight, a=math.sqrt(5))
        self.last = nn.Linear(channels[-1], 1)
        self.embedding = nn.Linear(n_condition, channels[-1], bias=False) if n_condition else None

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B, 1)."""
        h = self.first(x[:, None])
        for number, block in enumerate(self.blocks):
            h = block(h)
            h = h if number else self.attention(h)
        h = functional.leaky_relu(h, 0.2).mean((2, 3))
        score: Tensor = self.last(h)
        if self.embedding is not None and condition is not None:
            score = score + (self.embedding(condition) * h).sum(1, keepdim=True)
        return score


class _Up(nn.Module):
    """Two convolutions beside a shortcut, both normalised by class; doubled if asked for."""

    def __init__(self, before: int, after: int, n_features: int, *, larger: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleList(normalisation(width) for width in (before, after))
        self.modulations = nn.ModuleList(Modulation(n_features, w) for w in (before, after))
        self.convolutions = nn.ModuleList(
            nn.Conv2d(width, after, 3, padding=1) for width in (before, after)
        )
        self.shortcut = nn.Conv2d(before, after, 1) if before != after else nn.Identity()
        self.larger = larger

    def forward(self, h: Tensor, features: Tensor) -> Tensor:
        y = h
        for number, layer in enumerate(self.convolutions):
            y = functional.relu(self.modulations[number](self.norms[number](y), features))
            y = layer(doubled(y) if self.larger and not number else y)
        out: Tensor = y + self.shortcut(doubled(h) if self.larger else h)
        return out


class _Down(nn.Module):
    """Two convolutions beside a shortcut; averaged over 2 x 2 sites if asked for."""

    def __init__(self, before: int, after: int, *, smaller: bool) -> None:
        super().__init__()
        self.inner = nn.Conv2d(before, after, 3, padding=1)
        self.outer = nn.Conv2d(after, after, 3, padding=1)
        self.shortcut = nn.Conv2d(before, after, 1) if before != after else nn.Identity()
        self.smaller = smaller

    def forward(self, h: Tensor) -> Tensor:
        y = self.inner(functional.leaky_relu(h, 0.2))
        y = self.outer(functional.leaky_relu(y, 0.2)) + self.shortcut(h)
        return functional.avg_pool2d(y, 2) if self.smaller else y
