"""Real scalar fields on a periodic lattice: what does not depend on their action.

Measured on a sample of V sites, M = sum_x phi_x being its magnetisation and m = M / V; derived from
means,

    chi2 = <M^2> / V,    U4 = 1 - <M^4> / (3 <M^2>^2),
    xi2 = sqrt(chi2 / F - 1) / (2 sin(pi / L)),    F = <|sum_x phi_x exp(i k x)|^2> / V,

where k is the smallest momentum along an axis of the largest extent L (averaged over such axes):
the second-moment correlation length (Cooper, Freedman & Preston, Nucl. Phys. B210 (1982) 210).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError
from physgen.systems.base import Derived, Moves
from physgen.systems.lattice_files import EnsembleFiles
from physgen.systems.symmetries import scalar_moves


class RealField(EnsembleFiles):
    """A real number a site, in lattice units.

    Attributes:
        shape: extents of the lattice, one to four of them, each at least 2.
    """

    shape: tuple[int, ...]

    @property
    def n_sites(self) -> int:
        """V."""
        return math.prod(self.shape)

    @property
    def schema(self) -> Schema:
        """One real number a site, in lattice units."""
        return Schema(self.shape, (Variable("phi", dtype="float64"),))

    @property
    def derived(self) -> Mapping[str, Derived]:
        """chi2, U4 and xi2 of the module's head."""
        return magnetic(self.shape)

    @abstractmethod
    def action(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B,), the action of (B, *shape) fields in their own precision."""

    def observables(self, batch: Batch) -> dict[str, Tensor]:
        """Return (B,) each: the action a site, and what any scalar field has."""
        return {"action/V": self.action(batch.x) / self.n_sites, **moments(batch.x)}

    def features(self, batch: Batch, level: Literal["low", "high"]) -> Tensor:
        """Return the (B, V) field, or the (B, F) observables."""
        if level == "low":
            return batch.x.flatten(1)
        return torch.stack(list(self.observables(batch).values()), 1)

    def moves(self) -> Moves:
        """Return the symmetries that the action may have."""
        return scalar_moves()

    def arbitrary(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw (n, *shape) standard normal fields, in float64."""
        return torch.randn((n, *self.shape), generator=generator, dtype=torch.float64)


def check_shape(shape: tuple[int, ...]) -> None:
    """Raise `DomainError` unless `shape` is a lattice of one to four dimensions."""
    if not 1 <= len(shape) <= 4 or min(shape) < 2:
        raise DomainError(
            f"lattice shape {tuple(shape)}: give one to four extents of at least 2, such as [8, 8]"
        )


def moments(x: Tensor) -> dict[str, Tensor]:
    """Return (B,) observables that every real scalar field (B, *shape) has.

    >>> moments(torch.ones(1, 4, 4))["m"]
    tensor([1.])
    """
    shape = x.shape[1:]
    magnetisation = x.flatten(1).sum(1)
    return {
        "phi^2": (x * x).flatten(1).mean(1),
        "m": magnetisation / math.prod(shape),
        "|m|": magnetisation.abs() / math.prod(shape),
        "M^2": magnetisation**2,
        "M^4": magnetisation**4,
        "|phi(k)|^2": lowest_modes(x),
    }


def magnetic(shape: tuple[int, ...]) -> dict[str, Derived]:
    """Return chi2, U4 and xi2 as functions of the means of `moments`."""
    n_sites = math.prod(shape)
    lattice_momentum = 2 * math.sin(math.pi / max(shape))

    def susceptibility(means: NDArray[np.float64]) -> float:
        return float(means[0] / n_sites)

    def binder(means: NDArray[np.float64]) -> float:
        return float(1 - means[1] / (3 * means[0] ** 2))

    def correlation_length(means: NDArray[np.float64]) -> float:
        excess = means[0] / means[1] - 1
        return math.sqrt(excess) / lattice_momentum if excess > 0 else math.nan

    return {
        "chi2": Derived(("M^2",), susceptibility),
        "U4": Derived(("M^2", "M^4"), binder),
        "xi2": Derived(("M^2", "|phi(k)|^2"), correlation_length),
    }


def lowest_modes(x: Tensor) -> Tensor:
    """Return (B,), |phi(k)|^2 of (B, *shape) fields, averaged over axes of the largest extent."""
    longest = [axis for axis, extent in enumerate(x.shape[1:]) if extent == max(x.shape[1:])]
    return torch.stack([_lowest_mode(x, axis) for axis in longest]).mean(0)


def _lowest_mode(x: Tensor, axis: int) -> Tensor:
    """Return (B,), |sum_x phi_x exp(2 pi i x_axis / L)|^2."""
    extent = x.shape[1 + axis]
    others = math.prod(x.shape[1:]) // extent
    profile = x.movedim(1 + axis, 1).reshape(len(x), extent, others).sum(2)
    phase = 2 * math.pi / extent * torch.arange(extent, device=x.device, dtype=x.dtype)
    return (profile @ phase.cos()) ** 2 + (profile @ phase.sin()) ** 2
