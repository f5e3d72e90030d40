r"""Generator and critic whose resolution grows (Karras, Aila, Laine & Lehtinen, arXiv 1710.10196).

Levels are numbered from the coarsest, 0, to that of the image. At level s + a, 0 <= a <= 1, the
generator shows (1 - a) times its image of level s, doubled, and a times that of level s + 1. The
critic looks at an image of level s + 1 through the layers of that level with the weight a, and at
the average over 2 x 2 sites through those of level s with 1 - a.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from physgen.networks.conv import halved_shape, normalisation
from physgen.networks.mlp import ACTIVATIONS, Activation
from physgen.networks.style import doubled
from physgen.ranges import Channels, Options

PARTS = 2**20
"""A level is stored in units of this fraction, as an integer: weights are averaged, levels not."""


class GrowingOptions(Options):
    """Convolutions that are added level by level, for images of two axes.

    Attributes:
        channels: of the levels; the first is of the image's size, each other half as large.
        activation: between layers.
    """

    kind: Literal["growing"] = "growing"
    channels: Channels = (32, 64)
    activation: Activation = "leaky-relu"


class Level(nn.Module):
    """How far a generator has grown: which images of its levels it shows, with which weights.

    Args:
        n_levels: how many there are. It begins fully grown.

    >>> level = Level(3)
    >>> level.set(1.25)
    >>> level.weights().tolist(), level.computed
    ([0.0, 0.75, 0.25], 3)
    """

    parts: Tensor

    def __init__(self, n_levels: int) -> None:
        super().__init__()
        self.n_levels = self.computed = n_levels
        self.register_buffer("parts", torch.tensor((n_levels - 1) * PARTS))

    def set(self, level: float) -> None:
        """Go to a level from 0 to n_levels - 1; those above, of weight 0, are not computed."""
        self.parts.fill_(round(level * PARTS))
        self.computed = min(self.n_levels, math.floor(level) + 1 + (level % 1 > 0))

    def weights(self) -> Tensor:
        """Return (n_levels,), the weight of the image of each level."""
        numbers = torch.arange(self.n_levels, device=self.parts.device)
        # Without a branch on values, which exported models cannot have.
        return (1 - (self.parts / PARTS - numbers).abs()).clamp_min(0)

    def shown(self, images: list[Tensor]) -> Tensor:
        """Return the sum of images (B, 1, H_l, W_l) of the computed levels, at their weights."""
        weights = self.weights()
        image = weights[0] * images[0]
        for weight, finer in zip(weights[1:], images[1:], strict=False):
            image = doubled(image) + weight * finer
        for _ in range(self.n_levels - len(images)):
            image = doubled(image)
        return image


def coarsened(x: Tensor, n_levels: int, level: float) -> Tensor:
    """Return images (B, H, W) as a generator of a level could show them, of the same shape.

    >>> x = torch.tensor([[[0.0, 1.0], [2.0, 5.0]]])
    >>> coarsened(x, 2, 0.0).flatten().tolist(), coarsened(x, 2, 0.5).flatten().tolist()
    ([2.0, 2.0, 2.0, 2.0], [1.0, 1.5, 2.0, 3.5])
    """
    low, share = math.floor(level), level % 1
    coarse = _averaged(x, n_levels - 1 - low)
    return coarse if not share else torch.lerp(coarse, _averaged(x, n_levels - 2 - low), share)


def growth(progress: float, n_levels: int, share: float) -> float:
    """Return the level at a share of the training, which reaches the last one at `share`.

    Each level but the last is trained for as long as the next one takes to come in.

    >>> [growth(p, 3, 0.8) for p in (0.0, 0.19, 0.3, 0.5, 0.7, 0.8, 1.0)]
    [0.0, 0.0, 0.5, 1.0, 1.5, 2.0, 2.0]
    """
    if progress >= share:
        return n_levels - 1.0
    phase = 2 * (n_levels - 1) * progress / share
    return phase // 2 + max(0.0, round(phase % 2 - 1, 12))


class GrowingDecoder(nn.Module):
    """From (z (B, n_in), condition (B, C) or `None`) to (B, H W).

    Args:
        n_in: size of z.
        shape: (H, W).
        n_condition: C.
        options: of the levels.

    Raises:
        RecipeError: it is no image, or cannot be halved so often.

    >>> decoder = GrowingDecoder(4, (8, 8), 0, GrowingOptions(channels=(4, 8)))
    >>> decoder.level.set(0.0)
    >>> image = decoder(torch.randn(5, 4)).reshape(5, 8, 8)
    >>> bool((image[:, ::2, ::2] == image[:, 1::2, 1::2]).all())  # of 4x4 sites
    True
    """

    def __init__(
        self, n_in: int, shape: tuple[int, ...], n_condition: int, options: GrowingOptions
    ) -> None:
        super().__init__()
        channels = options.channels[::-1]
        self.seed = (channels[0], *halved_shape(shape, len(channels) - 1, options.channels, 3))
        self.first = nn.Linear(n_in + n_condition, math.prod(self.seed))
        pairs = [(channels[0], channels[0]), *pairwise(channels)]
        self.blocks = nn.ModuleList(_block(*pair, options.activation) for pair in pairs)
        self.shown = nn.ModuleList(nn.Conv2d(c, 1, 1) for c in channels)
        self.level = Level(len(channels))

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B, H W)."""
        h = self.first(z if condition is None else torch.cat([z, condition], 1))
        h = h.unflatten(1, self.seed)
        images: list[Tensor] = []
        for number in range(self.level.computed):
            h = self.blocks[number](doubled(h) if number else h)
            images.append(self.shown[number](h))
        return self.level.shown(images).flatten(1)


class GrowingEncoder(nn.Module):
    """From (x (B, H, W), condition (B, C) or `None`) to (B, n_out).

    Args:
        shape: (H, W).
        n_out: size of the output.
        n_condition: C; the condition shifts the channels of every level.
        options: of the levels.

    Attributes:
        level: how far it has grown, set by who trains it.

    Raises:
        RecipeError: it is no image, or cannot be halved so often.

    >>> encoder = GrowingEncoder((8, 8), 3, 0, GrowingOptions(channels=(4, 8)))
    >>> encoder(torch.zeros(5, 8, 8)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self, shape: tuple[int, ...], n_out: int, n_condition: int, options: GrowingOptions
    ) -> None:
        super().__init__()
        channels, active = options.channels, ACTIVATIONS[options.activation]
        smallest = halved_shape(shape, len(channels) - 1, channels, 3)
        self.n_levels, self.level = len(channels), len(channels) - 1.0
        pairs = [*pairwise(channels), (channels[-1], channels[-1])]
        self.seen = nn.ModuleList(nn.Sequential(nn.Conv2d(1, c, 1), active()) for c in channels)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 3, padding=1), active())
            for before, after in pairs
        )
        self.shifts = nn.ModuleList(
            nn.Linear(n_condition, after, bias=False) for _, after in pairs if n_condition
        )
        self.last = nn.Linear(channels[-1] * math.prod(smallest), n_out)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B, n_out)."""
        share = self.level % 1
        # Numbered from the image inwards, as the channels are.
        top = self.n_levels - 1 - math.ceil(self.level)
        x = functional.avg_pool2d(x[:, None], 2**top)
        h = self.seen[top](x)
        for number in range(top, self.n_levels):
            h = self.blocks[number](h)
            if condition is not None and len(self.shifts):
                h = h + self.shifts[number](condition)[:, :, None, None]
            if number < self.n_levels - 1:
                h = functional.avg_pool2d(h, 2)
            if number == top and share:
                coarse = self.seen[top + 1](functional.avg_pool2d(x, 2))
                h = torch.lerp(coarse, h, share)
        out: Tensor = self.last(h.flatten(1))
        return out


def _averaged(x: Tensor, times: int) -> Tensor:
    """Return (B, H, W): every square of 2^times x 2^times sites is its mean."""
    if not times:
        return x
    coarse = functional.avg_pool2d(x[:, None], 2**times)
    return functional.interpolate(coarse, scale_factor=float(2**times), mode="nearest")[:, 0]


def _block(before: int, after: int, activation: Activation) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (before, after):
        layers += [nn.Conv2d(width, after, 3, padding=1), normalisation(after)]
        layers.append(ACTIVATIONS[activation]())
    return nn.Sequential(*layers)
