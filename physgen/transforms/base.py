"""Invertible preprocessing: from physical units to what a network likes, and back.

A transform is a module, so that its fitted numbers are buffers which are saved with the surrogate
and move with it. The shapes of its buffers follow from its constructor's arguments alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from physgen.batch import Batch
from physgen.errors import DomainError


class Transform(nn.Module):
    """A map of batches.

    `forward` returns the mapped batch and log|det d forward / dx|, (B,), or `None` in its place
    where the map is not a bijection of x (dequantisation, discrete parts): a surrogate on such a
    transform has a bound on the density in physical space but no exact density.
    """

    exact: bool = True
    """Whether `forward` returns a log-determinant."""

    def fit(self, batch: Batch) -> None:
        """Learn from a sample of the training split (event weights count)."""

    def forward(
        self, batch: Batch, generator: torch.Generator | None = None
    ) -> tuple[Batch, Tensor | None]:
        """Map to the network's space; `generator` serves the maps that add noise."""
        raise NotImplementedError

    def bound(self, batch: Batch, generator: torch.Generator | None = None) -> tuple[Batch, Tensor]:
        """Map as `forward` does, with what makes the latent density a bound on the physical one.

        Returns the mapped batch and v, (B,), such that E[log q(mapped) + v] <= log p(x). An exact
        transform's v is its log-determinant; where noise r(z | x) was added it holds -log r.
        """
        mapped, log_det = self(batch, generator)
        if log_det is None:
            raise DomainError(f"{type(self).__name__} knows no bound on the density in x")
        return mapped, log_det

    def inverse(self, batch: Batch) -> Batch:
        """Map back to physical units."""
        raise NotImplementedError

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of a mapped sample."""
        return shape

    def latent_condition(self, n_condition: int) -> int:
        """Number of columns of the mapped condition."""
        return n_condition

    def map_condition(self, condition: Tensor) -> Tensor:
        """Map conditions (B, C) as `forward` does: what a surrogate needs before it has samples."""
        return condition


class Chain(Transform):
    """Transforms one after the other; the empty chain is the identity."""

    def __init__(self, transforms: Sequence[Transform] = ()) -> None:
        super().__init__()
        self.transforms = nn.ModuleList(transforms)
        self.exact = all(transform.exact for transform in transforms)

    def fit(self, batch: Batch) -> None:
        """Fit each transform on what the ones before it make of the batch."""
        generator = torch.Generator(device=batch.x.device).manual_seed(0)
        for transform in self._parts():
            transform.fit(batch)
            batch, _ = transform(batch, generator)

    def forward(
        self, batch: Batch, generator: torch.Generator | None = None
    ) -> tuple[Batch, Tensor | None]:
        """Map forwards, summing the log-determinants."""
        total: Tensor | None = batch.x.new_zeros(len(batch))
        for transform in self._parts():
            batch, log_det = transform(batch, generator)
            total = None if total is None or log_det is None else total + log_det
        return batch, total

    def bound(self, batch: Batch, generator: torch.Generator | None = None) -> tuple[Batch, Tensor]:
        """Map forwards, summing what each transform adds to the bound."""
        total = batch.x.new_zeros(len(batch))
        for transform in self._parts():
            batch, volume = transform.bound(batch, generator)
            total = total + volume
        return batch, total

    def inverse(self, batch: Batch) -> Batch:
        """Map back, last transform first."""
        for transform in reversed(self._parts()):
            batch = transform.inverse(batch)
        return batch

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape after the last transform."""
        for transform in self._parts():
            shape = transform.latent_shape(shape)
        return shape

    def latent_condition(self, n_condition: int) -> int:
        """Number of condition columns after the last transform."""
        for transform in self._parts():
            n_condition = transform.latent_condition(n_condition)
        return n_condition

    def map_condition(self, condition: Tensor) -> Tensor:
        """Map conditions through all transforms."""
        for transform in self._parts():
            condition = transform.map_condition(condition)
        return condition

    def _parts(self) -> list[Transform]:
        return [part for part in self.transforms if isinstance(part, Transform)]
