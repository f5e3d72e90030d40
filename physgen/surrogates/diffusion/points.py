r"""Diffusion and flow matching of sets of points: jets of particles, showers of points.

    q(x_1, ..., x_n, n | c) = p(n | c) q(x_1, ..., x_n | n, c),

p(n | c) a categorical distribution; the points, given their number, a diffusion model whose network
is equivariant under permutations (`physgen.networks.epic`), so that all orders of them are equally
probable (EPiC-FM: Buhmann et al., arXiv 2310.00049). What is minimised is the sum of -log p(n | c)
and the error of the denoiser, a mean over the points of each sample.

A sample is flat here as it is everywhere in diffusion: N places of F columns, of which the first n
are points and the others zero, and n is the last column of its condition.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from physgen.batch import Batch, Schema
from physgen.errors import RecipeError, errors_of
from physgen.networks.epic import EPiCDenoiser, EPiCOptions, present
from physgen.ranges import Widths
from physgen.surrogates.diffusion.denoiser import Denoise, Prediction
from physgen.surrogates.diffusion.guidance import conditioned
from physgen.surrogates.diffusion.model import Diffusion
from physgen.surrogates.diffusion.schedule import ScheduleName
from physgen.surrogates.diffusion.transport import point_plan
from physgen.surrogates.number import NumberOfItems
from physgen.transforms.base import Transform

AT_ONCE = 2**13
"""Points drawn together: their vectors fit into the caches of a processor."""


class PointDiffusion(Diffusion):
    """A diffusion or flow-matching model of sets of points (`FromNoise`).

    Samples have up to N points, in no order; the noise behind one is N F normal numbers and one
    more, from which their number follows.

    Args:
        schema: of the samples, masked.
        transform: from physical points to real numbers of order one.
        schedule, prediction: see `Diffusion`; these are those of flow matching.
        network: that learns it.
        number_hidden: widths of the network of p(n | c).

    Raises:
        RecipeError: the samples have no mask.

    >>> from physgen.batch import Variable
    >>> jets = Schema((5, 2), (Variable("pt"), Variable("eta")), masked=True)
    >>> batch = PointDiffusion(jets, network=EPiCOptions(hidden=8, depth=1)).sample(3, seed=1)
    >>> batch.x.shape, batch.mask.shape
    (torch.Size([3, 5, 2]), torch.Size([3, 5]))
    """

    knows_masks = True

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        schedule: ScheduleName = "straight",
        prediction: Prediction = "velocity",
        network: EPiCOptions = EPiCOptions(),
        number_hidden: Widths = (64,),
    ) -> None:
        if not schema.masked:
            raise RecipeError(
                "surrogate.kind: point-diffusion models sets of points, and these samples have no "
                "mask; take diffusion, or a system of sets (jets, point-cloud, item-sets)"
            )
        # `_body` takes what `Diffusion` itself makes nothing of.
        options: Any = network
        super().__init__(
            schema, transform, schedule=schedule, prediction=prediction, network=options
        )
        self.at_once = max(1, AT_ONCE // self.latent_shape[0])
        n_condition = self.transform.latent_condition(len(schema.condition))
        self.number = NumberOfItems(self.latent_shape[0], n_condition, hidden=number_hidden)

    def _body(self, network: Any, n_condition: int) -> tuple[tuple[int, ...], nn.Module]:
        with errors_of("surrogate.network"):
            body = EPiCDenoiser(self.latent_shape[1], n_condition + 1, network)
        return self.latent_shape, body

    def size(self, mapped: Batch) -> Tensor:
        """Return (B,) mean squares, whose mean over a sample is that over all of its points."""
        n = _mask_of(mapped).sum(1)
        total = torch.where(_mask_of(mapped)[..., None], mapped.x, 0.0).flatten(1).square().sum(1)
        return total / (self.latent_shape[1] * n.to(total).mean())

    def flat(self, mapped: Batch) -> Batch:
        """Put the points first, and their number behind the condition."""
        mask = _mask_of(mapped)
        order = mask.long().argsort(dim=1, descending=True, stable=True)
        x = torch.where(mask[..., None], mapped.x, 0.0)
        x = x.gather(1, order[..., None].expand_as(x)).flatten(1)
        number = mask.sum(1, keepdim=True).to(x)
        given = number if mapped.condition is None else torch.cat([mapped.condition, number], 1)
        return mapped.replace(x=x, condition=given, mask=None)

    def exchanged(self, x: Tensor, noise: Tensor, condition: Tensor | None) -> Tensor:
        """Return the noise of each set in the order in which transport pairs it with the points."""
        assert condition is not None
        points, places = (flat.reshape(-1, *self.latent_shape) for flat in (x, noise))
        plan = point_plan(points, places, condition[:, -1])
        return places.gather(1, plan[..., None].expand_as(places)).flatten(1)

    def loss(self, x: Tensor, noise: Tensor, log_snr: Tensor, condition: Tensor | None) -> Tensor:
        """Return (B,) errors, means over the points of a sample, plus -log p of their number."""
        assert condition is not None
        n_places, given, number = self.latent_shape[0], condition[:, :-1], condition[:, -1]
        there = present(number, n_places)[..., None].expand(-1, *self.latent_shape).flatten(1)
        # Noise where there is no point would have to be predicted.
        error = super().loss(x, torch.where(there, noise, 0.0), log_snr, condition)
        log_p = self.number.log_p(given, len(x)).gather(1, number.long()[:, None])[:, 0]
        return error * (n_places / number.clamp_min(1)) - log_p

    def denoise(self, condition: Tensor | None) -> Denoise:
        """Return the denoiser at physical conditions and the number of points, (B, C + 1)."""
        assert condition is not None
        mapped, number = self._parts(condition)
        return conditioned(self.denoiser, torch.cat([mapped, number[:, None]], 1))

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """One normal number an entry and one for the number of points, as often as is drawn."""
        *steps, features = super().noise_shape
        return *steps, features + 1

    def from_noise(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map (B, *noise_shape) noise and (B, C) physical conditions to (B, N, F), zero-padded."""
        first = noise[:, 0] if noise.ndim == 3 else noise
        return super().from_noise(noise[..., :-1], self._numbered(first[:, -1], condition))

    def draw(self, n: int, condition: Tensor | None, generator: torch.Generator) -> Batch:
        """Draw `n` masked samples: their numbers of points first."""
        of_number = torch.randn(n, generator=generator, device=self.device, dtype=self.dtype)
        given = self._numbered(of_number, condition)
        drawn = super().draw(n, given, generator)
        return drawn.replace(condition=condition, mask=present(given[:, -1], drawn.x.shape[1]))

    def physical(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """Map clean samples (B, D) back to physical units, (B, N, F), zero where no point is."""
        assert condition is not None
        mapped, number = self._parts(condition)
        n_places = self.latent_shape[0]
        given = mapped.repeat_interleave(n_places, 0) if self.schema.condition else None
        rows = Batch(x.reshape(-1, self.latent_shape[1]), given)
        points = self.transform.inverse(rows).x.reshape(-1, *self.schema.shape)
        return torch.where(present(number, n_places)[..., None], points, 0.0)

    def _numbered(self, noise: Tensor, condition: Tensor | None) -> Tensor:
        """Return (B, C + 1): physical conditions, and the numbers that follow from noise (B,)."""
        mapped = None if condition is None else self.transform.map_condition(condition)
        number = self.number.quantile(torch.special.ndtr(noise), mapped)[:, None]
        return (
            number.to(noise)
            if condition is None
            else torch.cat([condition, number.to(condition)], 1)
        )

    def _parts(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Return mapped conditions (B, C) and numbers of points (B,) of physical ones."""
        given, number = condition[:, :-1], condition[:, -1].to(self.dtype)
        return (self.transform.map_condition(given) if given.shape[1] else given), number


def _mask_of(batch: Batch) -> Tensor:
    if batch.mask is None:
        raise RecipeError("point-diffusion models masked samples, and these have no mask")
    return batch.mask
