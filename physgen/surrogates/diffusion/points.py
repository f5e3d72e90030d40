"""Diffusion and flow matching of sets of points: jets of particles, showers of points.

The points, given their number, are those of a diffusion model whose network is equivariant under
permutations (`physgen.networks.epic`; EPiC-FM: Buhmann et al., arXiv 2310.00049). What is minimised
is the sum of -log p(n | c), see `physgen.surrogates.point_sets`, and the error of the denoiser, a
mean over the points of each sample.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from physgen.batch import Batch, Schema
from physgen.errors import errors_of
from physgen.networks.epic import EPiCDenoiser, EPiCOptions, present
from physgen.surrogates.diffusion.denoiser import Prediction
from physgen.surrogates.diffusion.model import Diffusion
from physgen.surrogates.diffusion.schedule import ScheduleName
from physgen.surrogates.diffusion.transport import point_plan
from physgen.surrogates.point_sets import FirstOptions, PointSet, n_first, require_mask
from physgen.transforms.base import Transform

AT_ONCE = 2**13
"""Points drawn together: their vectors fit into the caches of a processor."""


class PointDiffusion(PointSet, Diffusion):
    """A diffusion or flow-matching model of sets of points (`FromNoise`).

    Samples have up to N points; the noise behind one is N F normal numbers and one more, from which
    their number follows.

    Args:
        schema: of the samples, masked.
        transform: from physical points to real numbers of order one.
        schedule, prediction: see `Diffusion`; these are those of flow matching.
        network: that learns it.
        first: what is drawn before the points.

    Raises:
        RecipeError: the samples have no mask.

    >>> from physgen.batch import Variable
    >>> jets = Schema((5, 2), (Variable("pt"), Variable("eta")), masked=True)
    >>> batch = PointDiffusion(jets, network=EPiCOptions(hidden=8, depth=1)).sample(3, seed=1)
    >>> batch.x.shape, batch.mask.shape
    (torch.Size([3, 5, 2]), torch.Size([3, 5]))
    """

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        schedule: ScheduleName = "straight",
        prediction: Prediction = "velocity",
        network: EPiCOptions = EPiCOptions(),
        first: FirstOptions = FirstOptions(),
    ) -> None:
        require_mask(schema, "point-diffusion", "diffusion")
        self.n_first, self.n_groups = n_first(schema, first), first.n_groups
        self.per_points = first.per_points
        # `_body` takes what `Diffusion` itself makes nothing of.
        options: Any = network
        super().__init__(
            schema, transform, schedule=schedule, prediction=prediction, network=options
        )
        self.at_once = max(1, AT_ONCE // self.latent_shape[0])
        self.draw_first(first)

    def _body(self, network: Any, n_condition: int) -> tuple[tuple[int, ...], nn.Module]:
        with errors_of("surrogate.network"):
            body = EPiCDenoiser(
                self.latent_shape[1], n_condition + self.n_first, network, self.n_groups
            )
        return self.latent_shape, body

    def mapped_shape(self) -> tuple[int, ...]:
        """Return the shape of what is denoised: without the column of groups."""
        n_places, n_columns = super().mapped_shape()
        return n_places, n_columns - (self.n_groups > 1)

    def size(self, mapped: Batch) -> Tensor:
        """Return (B,) mean squares, whose mean over a sample is that over all of its points."""
        packed = self.packed(mapped)
        assert packed.condition is not None
        n_entries = self.latent_shape[1] * packed.condition[:, -1].mean()
        return packed.x.flatten(1).square().sum(1) / n_entries

    def flat(self, mapped: Batch, generator: torch.Generator | None = None) -> Batch:
        """Return a packed batch, see `PointSet`, as the denoiser takes it: x is (B, D)."""
        return super().flat(self.packed(mapped, generator), generator)

    def exchanged(self, x: Tensor, noise: Tensor, condition: Tensor | None) -> Tensor:
        """Return the noise of each set in the order in which transport pairs it with the points."""
        assert condition is not None
        points, places = (flat.reshape(-1, *self.latent_shape) for flat in (x, noise))
        plan = point_plan(points, places, condition[:, -1])
        return places.gather(1, plan[..., None].expand_as(places)).flatten(1)

    def loss(self, x: Tensor, noise: Tensor, log_snr: Tensor, condition: Tensor | None) -> Tensor:
        """Return (B,) errors, means over the points of a sample, plus -log p of what is first.

        Of the first in B / `first.per_points` samples alone the points are looked at, and count for
        the others: only the mean means something.
        """
        assert condition is not None
        surprise, some = self.surprise(condition), slice(None, -(-len(x) // self.per_points))
        x, noise, log_snr, condition = x[some], noise[some], log_snr[some], condition[some]
        n_places, number = self.latent_shape[0], condition[:, -1]
        # Noise where there is no point would have to be predicted.
        error = super().loss(x, self._of_points(noise, number), log_snr, condition)
        error = error * (n_places / number.clamp_min(1)) * (len(surprise) / len(x))
        return surprise + functional.pad(error, (0, len(surprise) - len(x)))

    def distance(self, x: Tensor, other: Tensor, condition: Tensor | None) -> Tensor:
        """Return (B,) mean squared differences of points, given their number."""
        assert condition is not None
        n_places, number = self.latent_shape[0], condition[:, -1]
        error = super().distance(self._of_points(x, number), self._of_points(other, number), None)
        return error * (n_places / number.clamp_min(1))

    def _of_points(self, x: Tensor, number: Tensor) -> Tensor:
        """Return entries (B, D) with zeros where there is no point."""
        there = present(number, self.latent_shape[0])[..., None]
        return torch.where(there.expand(-1, *self.latent_shape).flatten(1), x, 0.0)

    def map_condition(self, condition: Tensor | None) -> Tensor | None:
        """Map physical conditions and what was drawn first, (B, C + n_first)."""
        return None if condition is None else self.map_numbered(condition)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """One normal number an entry and each of what is drawn first, as often as is drawn."""
        *steps, features = super().noise_shape
        return *steps, features + self.n_first

    def given(self, noise: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return noise of the points, and conditions with what its end decides."""
        first = noise[:, 0] if noise.ndim == 3 else noise
        first = first[:, -self.n_first :]
        return noise[..., : -self.n_first], self.numbered(first, condition)

    def draw(self, n: int, condition: Tensor | None, generator: torch.Generator) -> Batch:
        """Draw `n` masked samples: their numbers of points first."""
        shape = n, self.n_first
        first = torch.randn(shape, generator=generator, device=self.device, dtype=self.dtype)
        given = self.numbered(first, condition)
        drawn = super().draw(n, given, generator)
        return drawn.replace(condition=condition, mask=present(given[:, -1], drawn.x.shape[1]))

    def physical(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """Map clean samples (B, D) back to physical units, (B, N, F), zero where no point is."""
        assert condition is not None
        return self.placed(x.reshape(-1, *self.latent_shape), condition)
