"""The baseline every shower surrogate must beat: all marginals right, no correlations.

The response, and the splits that divide a shower's energy among its voxels, have the distributions
that `ShowerTransform` measured at their energy, and are otherwise independent of each other. There
is nothing to train.
"""

from __future__ import annotations

import torch
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import DomainError, RecipeError
from physgen.surrogates.base import Surrogate, refuse_negative_weights
from physgen.systems.base import System
from physgen.systems.calorimeter import geometry_of
from physgen.transforms.base import Chain, Transform
from physgen.transforms.showers import ALL_LEFT, ALL_RIGHT, ShowerTransform, log_odds

AT_ONCE = 4_000_000
"""Nodes of showers that are drawn together, which bounds the memory."""


class ShowerSurrogate(Surrogate):
    """What surrogates of showers share: the transform, the range of energies, sampling by blocks.

    Args:
        schema: of the showers.
        transform: must be absent; the surrogate brings its own.
        own: the transform it brings.

    Raises:
        RecipeError: the recipe asks for a transform.
    """

    not_exported = (
        "the shapes of what it computes depend on the energies that a shower divides; export one "
        "distilled to a diffusion model (recipe calo-flow-distilled), or to pyfunc"
    )

    def __init__(self, schema: Schema, transform: Transform | None, own: ShowerTransform) -> None:
        empty = transform is None or (isinstance(transform, Chain) and not transform.transforms)
        if not empty:
            raise RecipeError("transform: shower surrogates bring their own; remove it")
        super().__init__(schema, own)
        self.showers = own
        self.at_once = max(1, AT_ONCE // (1 + 2 * own.n_splits))

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the standard normal noise behind one shower."""
        raise NotImplementedError

    def from_noise(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map (B, *noise_shape) noise and (B, 1) incident energies to (B, n_voxels) in MeV."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Where the tables are: there may be no parameters."""
        return self.showers.threshold.device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the tables."""
        return self.showers.threshold.dtype


class ShowerCopula(ShowerSurrogate):
    """Independent voxels with the right marginals, fitted by `initialise`.

    Args:
        schema: of the showers.
        transform: must be absent; the surrogate brings its own.
        system: the calorimeter, for its geometry.
        n_knots, n_bins: of the transform's tables.

    Raises:
        RecipeError: the recipe asks for a transform, or the system is no calorimeter.

    >>> from physgen.systems.calorimeter import Calorimeter
    >>> system = Calorimeter()
    >>> copula = ShowerCopula(system.schema, system=system)
    >>> copula.initialise(system.simulate(200, seed=1))
    >>> copula.sample(2, torch.tensor([[2000.0], [50000.0]]), seed=1).x.shape
    torch.Size([2, 368])
    """

    not_exported = ""

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        system: System,
        n_knots: int = 32,
        n_bins: int = 128,
    ) -> None:
        geometry = geometry_of(system, "surrogate shower-copula")
        own = ShowerTransform(schema, geometry, n_knots=n_knots, n_bins=n_bins)
        super().__init__(schema, transform, own)

    def initialise(self, data: Batch | None) -> None:
        """Fit the transform: there is nothing else."""
        if data is not None:
            refuse_negative_weights(data, "surrogate shower-copula")
        super().initialise(data)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """One number for the response, two a split."""
        return (1 + 2 * self.showers.n_splits,)

    def from_noise(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map (B, *noise_shape) noise and (B, 1) incident energies to (B, n_voxels) in MeV."""
        if condition is None:
            raise DomainError("showers need incident energies: pass them as the condition (B, 1)")
        t, n = self.showers, self.showers.n_splits
        first, noise, z = torch.split(noise, [1, n, n], 1)
        u, x = torch.special.ndtr(noise), log_odds(z)

        def divide(whole: Tensor, stage: slice) -> tuple[Tensor, Tensor]:
            right, left, both = t.outcomes(whole / t.threshold, t.tree.group[stage])
            outcomes = right.log(), left.log(), both.log()
            return t.divide(whole, choose(u[:, stage], x[:, stage], outcomes), stage)

        return t.tree.scatter(t.draw(first, condition), divide)


def choose(u: Tensor, x: Tensor, outcomes: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Return the numbers of splits: `ALL_RIGHT`, `ALL_LEFT` or x.

    Args:
        u: uniform in [0, 1), decides.
        x: the number of a split with two sides.
        outcomes: ln p of all right, of all left and of both, up to a constant.
    """
    right, _, both = torch.stack(outcomes).softmax(0)
    x = torch.where(u < right, ALL_RIGHT, x)
    return torch.where(u >= right + both, ALL_LEFT, x)
