r"""Calorimeter showers as one Gaussian vector, for families that know nothing of showers.

The numbers are those of `ShowerTransform`, one a layer and one a split. There a split that gives
all to one side is told apart; here it is an atom, drawn within its interval of z as an empty layer
is, and a split with nothing to divide is pure noise. So any density on R^n_voxels is one of
showers: standard normal noise becomes showers whose splits are independent and each distributed as
in the data at its energy, energies of layers come out as they were drawn, and no voxel lies below
the threshold. What is left to be learnt are correlations.
"""

from __future__ import annotations

import torch
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import DomainError
from physgen.systems.base import System
from physgen.systems.calorimeter import geometry_of
from physgen.transforms.showers import ShowerTransform


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

    def __init__(
        self, schema: Schema, *, system: System, n_knots: int = 24, n_bins: int = 128
    ) -> None:
        geometry = geometry_of(system, "transform gaussian-showers")
        super().__init__(schema, geometry, n_knots=n_knots, n_bins=n_bins)

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """One number a layer and one a split."""
        return (self.n_layers + self.n_splits,)

    def latent_condition(self, n_condition: int) -> int:
        """The incident energy."""
        return 1

    def forward(
        self, batch: Batch, generator: torch.Generator | None = None
    ) -> tuple[Batch, Tensor | None]:
        """Map to Gaussian numbers, adding the noise of atoms and of what is not there."""
        nodes = self.tree.gather(batch.x)
        numbers = self._layer_numbers(batch, nodes[:, : self.n_layers], generator)
        y, s = self._fractions(nodes)
        numbers.append(self.splits.with_atoms(y, s, self.tree.group, generator))
        x = torch.cat(numbers, 1).to(batch.x.dtype)
        condition = self.map_condition(self._incident(batch)).to(batch.x.dtype)
        return batch.replace(x=x, condition=condition), None

    def bound(self, batch: Batch, generator: torch.Generator | None = None) -> tuple[Batch, Tensor]:
        """Map as `forward` does; return also what bounds the density in x (`ShowerTransform`)."""
        mapped, _ = self(batch, generator)
        nodes = self.tree.gather(batch.x)
        y, s = self._fractions(nodes)
        both, scale = self._split_scale(nodes)
        z = mapped.x[:, self.n_layers :]
        volume = self.splits.log_volume(y, s, z, self.tree.group) + torch.where(both, scale, 0.0)
        return mapped, self._layer_volume(batch, nodes, mapped.x) + volume.sum(1)

    def inverse(self, batch: Batch) -> Batch:
        """Map back to voxels in MeV; the condition of the result are incident energies, (B, 1)."""
        if batch.condition is None:
            raise DomainError("Gaussian numbers of showers without the energies they stand for")
        incident = (batch.condition * self.scale[:1] + self.centre[:1]).exp()
        energies = self.to_layers(batch.x[:, : self.n_layers], incident)
        z = batch.x[:, self.n_layers :]

        def divide(whole: Tensor, stage: slice) -> tuple[Tensor, Tensor]:
            group = self.tree.group[stage]
            s = self.splits.without_atoms(self._floor(whole).log(), z[:, stage], group)
            return self.part(whole, s)

        return batch.replace(x=self.tree.scatter(energies, divide), condition=incident)
