r"""Two generators, one on the other: a coarse image, and its refinement (StackGAN, 1612.03242).

The condition is embedded, and the embedding augmented by noise (section 3.2 there),

    e ~ N(mu(c), sigma(c)^2),   with the loss   KL(N(mu(c), sigma(c)^2) || N(0, 1)) / D,

of D entries, which makes it smooth where conditions are few, as the captions or the classes of
images are. (The paper has no 1/D, but its authors' program does; without it the noise drowns the
classes.) Stage I makes an image of half the size from z and e; stage II makes features of that
image, sees e again, and draws the whole one.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from physgen.networks.conv import ConvDecoder, ConvOptions, convolution, halved_shape, normalisation
from physgen.networks.embedding import Modulation
from physgen.networks.growing import Level
from physgen.networks.mlp import ACTIVATIONS
from physgen.networks.style import doubled
from physgen.ranges import Channels, Options, Positive


class StackedOptions(Options):
    """Two stages, for images of two axes.

    Attributes:
        channels: of the layers of stage I, from its image inwards; each halves it.
        refining: channels of stage II.
        embedding: numbers that the condition is embedded in.
        activation: between layers.
    """

    kind: Literal["stacked"] = "stacked"
    channels: Channels = (32,)
    refining: Positive = 32
    embedding: Positive = 16
    activation: Literal["leaky-relu", "silu", "gelu"] = "leaky-relu"


class StackedDecoder(nn.Module):
    """From (noise (B, n_in + n_sites), condition (B, C) or `None`) to (B, H W).

    Args:
        n_in: size of the latent vector, the first entries of the noise; the others augment the
            embedding.
        shape: (H, W).
        n_condition: C.
        options: of both stages.

    Attributes:
        n_sites: entries of noise of the embedding.
        level: 0 shows the image of stage I, doubled, and 1 that of stage II.

    Raises:
        RecipeError: it is no image, or cannot be halved so often.

    >>> decoder = StackedDecoder(4, (8, 8), 10, StackedOptions(channels=(8,), embedding=3))
    >>> decoder(torch.randn(5, 4 + 3), torch.eye(10)[:5]).shape
    torch.Size([5, 64])
    """

    def __init__(
        self, n_in: int, shape: tuple[int, ...], n_condition: int, options: StackedOptions
    ) -> None:
        super().__init__()
        self.n_in = n_in
        coarse = halved_shape(shape, 1, (1, *options.channels), 3)
        self.n_sites = options.embedding if n_condition else 0
        self.embedding = nn.Linear(n_condition, 2 * self.n_sites) if n_condition else None
        width, active = options.refining, ACTIVATIONS[options.activation]
        layers = ConvOptions(channels=options.channels, activation=options.activation)
        self.first = ConvDecoder(n_in + self.n_sites, coarse, options=layers)
        self.features = nn.Sequential(convolution(1, width, 3, False), active())
        self.modulation = Modulation(n_in + self.n_sites, width)
        self.refining = nn.Sequential(
            convolution(width, width, 3, False), normalisation(width), active()
        )
        self.second = nn.Sequential(
            convolution(width, width, 3, False),
            normalisation(width),
            active(),
            convolution(width, 1, 3, False),
        )
        self.level = Level(2)

    def forward(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B, H W)."""
        z, noise = noise[:, : self.n_in], noise[:, self.n_in :]
        if self.embedding is not None and condition is not None:
            mean, log_deviation = self.embedding(condition).chunk(2, 1)
            z = torch.cat([z, mean + log_deviation.exp() * noise], 1)
        coarse = self.first(z)[:, None]
        images = [coarse]
        if self.level.computed > 1:
            h = self.features(coarse)
            h = h + self.refining(self.modulation(h, z))
            images.append(doubled(coarse) + self.second(doubled(h)))
        return self.level.shown(images).flatten(1)

    def surprise(self, condition: Tensor | None) -> Tensor | float:
        """Return (B,) KL divergences of the embeddings from normal numbers, means over entries."""
        if self.embedding is None or condition is None:
            return 0.0
        mean, log_deviation = self.embedding(condition).chunk(2, 1)
        variance = (2 * log_deviation).exp()
        divergence: Tensor = 0.5 * (mean.square() + variance - 1 - 2 * log_deviation).mean(1)
        return divergence
