"""A U-net for images and lattices (Ronneberger et al., arXiv 1505.04597), made for diffusion.

Residual blocks on the way down, each level half as large as the one before; self-attention at the
bottom; blocks on the way up that see those of the way down (Ho et al., arXiv 2006.11239). Time and
condition modulate every block. The network starts as 0, every block as a linear map.

On a periodic lattice all paddings wrap round, and shifts of the input by 2^(levels - 1) sites shift
the output.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from physgen.networks.attention import SelfAttention, zeroed
from physgen.networks.conv import convolution, halved_shape, normalisation
from physgen.networks.embedding import Embedding, Modulation
from physgen.ranges import Channels, Options


class UNetOptions(Options):
    """A U-net, for images and lattices of two axes.

    Attributes:
        channels: of the levels; the first is of the image's size.
        periodic: whether the image is a torus.
    """

    kind: Literal["unet"] = "unet"
    channels: Channels = (32, 64)
    periodic: bool = False


class UNet(nn.Module):
    """A U-net of (x (B, H, W), time (B,), condition (B, C) or `None`), giving (B, H, W).

    Args:
        shape: (H, W).
        n_condition: C.
        options: of the levels.
        n_channels: of x, (B, n_channels, H, W) where there are several.

    Raises:
        RecipeError: it is no image, or cannot be halved so often.

    >>> unet = UNet((8, 8), options=UNetOptions(channels=(8, 16), periodic=True))
    >>> unet(torch.zeros(5, 8, 8), torch.rand(5)).shape
    torch.Size([5, 8, 8])
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        n_condition: int = 0,
        options: UNetOptions = UNetOptions(),
        n_channels: int = 1,
    ) -> None:
        super().__init__()
        channels, periodic = options.channels, options.periodic
        halved_shape(shape, len(channels) - 1, channels, 3)
        n_features = 4 * channels[0]
        self.embedding = Embedding(n_features, n_condition)
        self.first = convolution(n_channels, channels[0], 3, periodic)
        self.down = nn.ModuleList(
            _Block(before, after, n_features, periodic)
            for before, after in pairwise((channels[0], *channels))
        )
        self.attention = SelfAttention(channels[-1])
        self.bottom = _Block(channels[-1], channels[-1], n_features, periodic)
        self.up = nn.ModuleList(
            _Block(below + here, here, n_features, periodic)
            for here, below in reversed(list(pairwise(channels)))
        )
        self.norm = normalisation(channels[0])
        self.last = zeroed(convolution(channels[0], 1, 3, periodic))

    def forward(self, x: Tensor, time: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B, H, W)."""
        features = self.embedding(time, condition)
        h = self.first(x if x.ndim == 4 else x[:, None])
        skipped: list[Tensor] = []
        for block in self.down:
            if skipped:
                h = functional.avg_pool2d(h, 2)
            h = block(h, features)
            skipped.append(h)
        skipped.pop()
        h = self.bottom(self.attention(h), features)
        for block in self.up:
            h = functional.interpolate(h, scale_factor=2.0, mode="nearest")
            h = block(torch.cat([h, skipped.pop()], 1), features)
        out: Tensor = self.last(functional.silu(self.norm(h)))
        return out[:, 0]


class _Block(nn.Module):
    """Two convolutions beside a shortcut; (B, before, H, W) -> (B, after, H, W)."""

    def __init__(self, before: int, after: int, n_features: int, periodic: bool) -> None:
        super().__init__()
        self.norm_in, self.norm_out = normalisation(before), normalisation(after)
        self.inner = convolution(before, after, 3, periodic)
        self.modulation = Modulation(n_features, after)
        self.outer = zeroed(convolution(after, after, 3, periodic))
        self.shortcut = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, h: Tensor, features: Tensor) -> Tensor:
        y = self.inner(functional.silu(self.norm_in(h)))
        y = self.modulation(self.norm_out(y), features)
        out: Tensor = self.shortcut(h) + self.outer(functional.silu(y))
        return out
