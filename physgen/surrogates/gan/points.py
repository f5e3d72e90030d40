"""Generators of sets of points (EPiC-GAN: Buhmann et al., arXiv 2301.08128).

The noise is that of each point and some that all points of a set see. One pass of the network makes
a set, where flow matching takes several; the number of points is drawn first, see
`physgen.surrogates.point_sets`, and learned beside the game.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from physgen.batch import Batch, Schema
from physgen.errors import RecipeError
from physgen.networks.epic import EPiCDecoder, EPiCOptions, present
from physgen.ranges import Positive
from physgen.surrogates.gan.networks import Generator
from physgen.surrogates.point_sets import FirstOptions, PointSet, n_first, require_mask
from physgen.transforms.base import Transform


class PointGenerator(PointSet, Generator):
    """A generator of sets of points for the method adversarial (`FromNoise`).

    Args:
        schema: of the samples, masked.
        transform: from physical points to the space that generator and critic work in.
        shared_noise: numbers that all points of a set see.
        point_noise: numbers of each point.
        network: of the generator.
        first: what is drawn before the points.

    Raises:
        RecipeError: the samples have no mask, or a network that does not fit.

    >>> from physgen.batch import Variable
    >>> jets = Schema((5, 2), (Variable("pt"), Variable("eta")), masked=True)
    >>> batch = PointGenerator(jets, network=EPiCOptions(hidden=8, depth=1)).sample(3, seed=1)
    >>> batch.x.shape, batch.mask.shape
    (torch.Size([3, 5, 2]), torch.Size([3, 5]))
    """

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        shared_noise: Positive = 16,
        point_noise: Positive = 4,
        network: EPiCOptions = EPiCOptions(),
        first: FirstOptions = FirstOptions(),
    ) -> None:
        require_mask(schema, "point-generator", "generator")
        if first.grouped_by is not None:
            raise RecipeError(
                "surrogate.first.grouped_by: point-generator knows no groups of points; leave it "
                "out, or take surrogate.kind=point-diffusion"
            )
        self.n_first = n_first(schema, first)
        self._noise = shared_noise, point_noise
        # `_body` takes what `Generator` itself makes nothing of.
        options: Any = network
        latent = shared_noise + schema.shape[0] * point_noise
        super().__init__(schema, transform, latent=latent, network=options)
        self.n_condition += self.n_first
        self.draw_first(first)

    def _body(self, network: Any) -> nn.Module:
        return EPiCDecoder(
            self.latent_shape, *self._noise, self.n_condition + self.n_first, network
        )

    def comparable(self, x: Tensor) -> Tensor:
        """Return points (B, N, F) with each column in order: what their order does not change."""
        return x.sort(dim=1).values

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Noise of the network, and one normal number more for each of what is drawn first."""
        return (self.latent + self.n_first,)

    def from_noise(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map (B, *noise_shape) noise and (B, C) physical conditions to (B, N, F), zero-padded."""
        return self._made(*self._first(noise, condition))

    def draw(self, n: int, condition: Tensor | None, generator: torch.Generator) -> Batch:
        """Draw `n` masked samples: their numbers of points first."""
        shape = n, *self.noise_shape
        noise = torch.randn(shape, generator=generator, device=self.device, dtype=self.dtype)
        own, given = self._first(noise, condition)
        mask = present(given[:, -1], self.schema.shape[0])
        return Batch(self._made(own, given), condition, mask=mask)

    def _first(self, noise: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the noise of the network, and conditions with what is drawn first."""
        own, first = noise[:, : self.latent], noise[:, self.latent :]
        return own, self.numbered(first, condition)

    def _made(self, noise: Tensor, condition: Tensor) -> Tensor:
        """Return samples of noise (B, latent), conditions and what was drawn first."""
        return self.placed(self.decode_noise(noise, self.map_numbered(condition)), condition)
