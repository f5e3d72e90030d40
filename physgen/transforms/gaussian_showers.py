r"""Calorimeter showers as one Gaussian vector, for families that know nothing of showers.

The numbers are those of `ShowerTransform`, one for the response and one a split, made Gaussian.
There a split that gives all to one side is told apart; here it is an atom, drawn within its
interval of z, and a split with nothing to divide is pure noise. So any density on R^n_voxels is one
of showers: standard normal noise becomes showers whose splits are independent and each distributed
as in the data at its energy, and no voxel lies below the threshold. What is left to be learnt are
correlations.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import DomainError
from physgen.systems.base import System
from physgen.systems.calorimeter import geometry_of
from physgen.transforms.showers import ALL_LEFT, ALL_RIGHT, ShowerTransform

FAR = 2.9e-7
"""Least probability, and 1 less it, that is mapped: to z = -5 and 5."""


class GaussianShowers(ShowerTransform):
    """Map showers (B, n_voxels) in MeV to (B, n_voxels) standard normal numbers.

    The mapped condition is the standardised ln E_inc, (B, 1).

    Args:
        schema: of the showers.
        system: the calorimeter, for its geometry.
        n_knots, n_bins: see `ShowerTransform`.

    Raises:
        RecipeError: the system is no calorimeter.
        DomainError: the samples are no showers of its geometry.

    >>> from physgen.systems.calorimeter import Calorimeter
    >>> system = Calorimeter()
    >>> transform = GaussianShowers(system.schema, system=system)
    >>> showers = system.simulate(200, seed=1)
    >>> transform.fit(showers)
    >>> transform(showers)[0].x.shape
    torch.Size([200, 368])
    """

    exact = False

    def __init__(
        self, schema: Schema, *, system: System, n_knots: int = 32, n_bins: int = 128
    ) -> None:
        geometry = geometry_of(system, "transform gaussian-showers")
        super().__init__(schema, geometry, n_knots=n_knots, n_bins=n_bins)

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """One number for the response and one a split."""
        return (1 + self.n_splits,)

    def latent_condition(self, n_condition: int) -> int:
        """The incident energy."""
        return 1

    def forward(
        self, batch: Batch, generator: torch.Generator | None = None
    ) -> tuple[Batch, Tensor | None]:
        """Map to Gaussian numbers, adding the noise of atoms and of what is not there."""
        return self.bound(batch, generator)[0], None

    def bound(self, batch: Batch, generator: torch.Generator | None = None) -> tuple[Batch, Tensor]:
        """Map as `forward` does; return also what bounds the density in MeV of the voxels.

        That is ln|dz/dx| where a number is continuous, and otherwise minus the logarithm of the
        density that its z was drawn with.
        """
        mapped, log_det = self.numbers(batch)
        incident = self._incident(batch)
        x = mapped.x[:, : 1 + self.n_splits].double()
        whole = mapped.x[:, 1 + self.n_splits : 1 + 2 * self.n_splits].exp()
        empty = self.is_empty(incident)[:, None]
        right, left, _ = self.outcomes(whole, self.tree.group)
        nothing = mapped.x[:, 1 + self.n_splits : 1 + 2 * self.n_splits] < 0
        right, left = (torch.where(nothing, 0.5, p) for p in (right, left))
        zero = torch.cat([empty, right], 1).double()
        one = torch.cat([torch.zeros_like(empty), left], 1).double()
        # With nothing to split, anywhere.
        coin = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        anywhere = torch.cat([torch.zeros_like(nothing[:, :1]), nothing], 1)
        to_zero, to_one = x < ALL_RIGHT / 2, x > ALL_LEFT / 2
        inner = 1 - zero - one
        level = zero + inner * torch.sigmoid(x)
        level = torch.where(to_zero, coin * zero, torch.where(to_one, 1 - coin * one, level))
        level = torch.where(anywhere, coin, level).clamp(FAR, 1 - FAR)
        z = torch.special.ndtri(level)
        log_normal = -0.5 * z.square() - 0.5 * math.log(2 * math.pi)
        slope = inner.clamp(min=1e-9).log() + torch.nn.functional.logsigmoid(x)
        slope = slope + torch.nn.functional.logsigmoid(-x) - log_normal
        drawn = torch.where(to_zero, zero, one).log() - log_normal
        volume = torch.where(to_zero | to_one, drawn, torch.where(anywhere, -log_normal, slope))
        condition = self.map_condition(incident).to(batch.x)
        mapped = batch.replace(x=z.to(batch.x), condition=condition)
        return mapped, (log_det + volume.sum(1)).to(batch.x)

    def inverse(self, batch: Batch) -> Batch:
        """Map back to voxels in MeV; the condition of the result are incident energies, (B, 1)."""
        if batch.condition is None:
            raise DomainError("Gaussian numbers of showers without the energies they stand for")
        incident = (batch.condition * self.scale[:1] + self.centre[:1]).exp()
        level = torch.special.ndtr(batch.x.double())
        total = self.draw(batch.x[:, :1], incident)

        def divide(whole: Tensor, stage: slice) -> tuple[Tensor, Tensor]:
            u, group = level[:, 1:][:, stage], self.tree.group[stage]
            w = whole / self.threshold
            right, _, both = (p.double() for p in self.outcomes(w, group))
            inner = (u - right) / both.clamp(min=1e-9)
            s = self.splits.number(self.knot(w), inner, group).to(whole)
            return self.part(whole, s, u < right, u >= right + both)

        return batch.replace(x=self.tree.scatter(total, divide), condition=incident)
