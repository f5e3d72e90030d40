"""The baseline every shower surrogate must beat: all marginals right, no correlations.

Layer shares and voxels have the distributions that `ShowerTransform` measured at their energy, and
are otherwise independent of each other; voxels are rescaled to their layer's energy. There is
nothing to train.
"""

from __future__ import annotations

import torch
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import RecipeError
from physgen.surrogates.base import Surrogate
from physgen.systems.calorimeter import Calorimeter
from physgen.transforms.base import Chain, Transform
from physgen.transforms.showers import OFF, ShowerTransform

_BLOCK = 4096


class ShowerCopula(Surrogate):
    """Independent voxels with the right marginals, fitted by `initialise`.

    Args:
        schema: of the showers.
        transform: must be absent; the surrogate brings its own.
        system: the calorimeter, for its geometry.
        n_knots, n_bins: of the transform's tables.

    Raises:
        RecipeError: the recipe asks for a transform.
    """

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        system: Calorimeter,
        n_knots: int = 24,
        n_bins: int = 128,
    ) -> None:
        if transform is not None and not (
            isinstance(transform, Chain) and not transform.transforms
        ):
            raise RecipeError("transform: shower-copula brings its own; remove it from the recipe")
        own = ShowerTransform(schema, system.geometry, n_knots=n_knots, n_bins=n_bins, jitter=0.0)
        super().__init__(schema, own)
        self.showers = own

    def sample(
        self, n: int, condition: Tensor | None = None, *, generator: torch.Generator
    ) -> Batch:
        """Draw showers; `condition` are their (n, 1) incident energies in MeV."""
        if condition is None:
            drawn = self.conditions.draw(n, generator)
        else:
            self.conditions.check(condition)
            drawn = condition
        if drawn is None:
            raise RecipeError("shower-copula needs showers with incident energies")
        parts = [self._sample(rows, generator) for rows in torch.split(drawn, _BLOCK)]
        x = torch.cat(parts) if parts else drawn.new_empty(0, self.showers.n_voxels)
        return Batch(x, drawn)

    def _sample(self, incident: Tensor, generator: torch.Generator) -> Tensor:
        t, n = self.showers, len(incident)
        noise = torch.randn(
            n,
            t.n_layers + 2 * t.n_voxels,
            generator=generator,
            device=self.device,
            dtype=self.dtype,
        )
        layers, u, values = noise.split_with_sizes([t.n_layers, t.n_voxels, t.n_voxels], 1)
        energies = t.to_layers(layers, incident)
        on = torch.special.ndtr(u) < torch.sigmoid(t.log_odds(t.condition_of(incident, energies)))
        return t.to_voxels(torch.where(on, values, OFF), energies, energies)

    @property
    def device(self) -> torch.device:
        """Where the tables are: there are no parameters."""
        return self.showers.threshold.device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the tables."""
        return self.showers.threshold.dtype
