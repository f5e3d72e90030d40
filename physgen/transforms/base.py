"""Invertible preprocessing: from physical units to what a network likes, and back.

A transform is a module, so that its fitted numbers are buffers which are saved with the surrogate
and move with it. The shapes of its buffers follow from its constructor's arguments alone.

Times of 1.7e9 s that differ by seconds, and codes of ten digits, are alike in single precision. So
what shifts, scales and compares does it in double precision, whatever the type of the network's
numbers; a `Chain` turns to that type afterwards, and back to one that holds the physical values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from physgen.batch import CONSTRAINED, Batch, Schema, Variable
from physgen.errors import DomainError
from physgen.transforms.domains import to_domain
from physgen.transforms.items import Items

INEXACT = (
    "the transform adds noise, holds discrete parts, or leaves density beyond the range of a "
    "variable; begin with transform bounded where variables have bounds (gaussianise with atoms=0 "
    "for tables)"
)
"""Why a chain is not exact, and what to do."""


class Transform(nn.Module):
    """A map of batches.

    `forward` returns the mapped batch and log|det d forward / dx|, (B,), or `None` in its place
    where the map is not a bijection of x (dequantisation, discrete parts): a surrogate on such a
    transform has a bound on the density in physical space but no exact density.
    """

    exact: bool = True
    """Whether `forward` returns a log-determinant."""

    leaks: bool = False
    """Whether density in the mapped space may stand for values beyond a variable's range."""

    mixes: bool = False
    """Whether entries of a mapped sample depend on other entries of the sample."""

    wide: bool = False
    """Whether it works in double precision; its buffers of that type keep it."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Transform:
        """Move, as any module, but leave double-precision buffers what they are."""
        wide_buffers = {
            name: buffer
            for name, buffer in self._buffers.items()
            if self.wide and buffer is not None and buffer.dtype == torch.float64
        }
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in wide_buffers.items():
            moved = self._buffers[name]
            self._buffers[name] = buffer if moved is None else buffer.to(moved.device)
        return self

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

    def covers(self, variable: Variable) -> bool:
        """Whether the range of a variable is mapped onto all real numbers."""
        return math.isinf(variable.range[0]) and math.isinf(variable.range[1])

    def describe(self) -> dict[str, str]:
        """Return what the fit took each variable for, by name, as far as it makes a difference."""
        return {}


class Chain(Transform):
    """Transforms one after the other; the empty chain is the identity.

    What it maps to has the floating-point type that the chain was last moved to; what it maps back
    to has that of `schema` if it is the wider one, and lies within the ranges of its variables.

    Args:
        transforms: in the order of `forward`.
        schema: of the samples; `None` asks nothing of them. If it is masked, the transforms are
            those of its items (`Schema.items`).

    >>> from physgen.transforms.affine import Standardise
    >>> from physgen.transforms.bounded import Bounded
    >>> schema = Schema((1,), (Variable("E", "GeV", low=0.0),))
    >>> chain = Chain([Bounded(schema), Standardise(schema)], schema)
    >>> chain.exact, chain.leaks
    (True, False)
    """

    like: Tensor

    def __init__(self, transforms: Sequence[Transform] = (), schema: Schema | None = None) -> None:
        super().__init__()
        self.transforms = nn.ModuleList(transforms)
        self.exact = all(transform.exact for transform in transforms)
        self.mixes = any(transform.mixes for transform in transforms)
        if schema is not None:
            parts = [self, *transforms]
            # No map of separate numbers has the volume of a group or a sphere.
            self.leaks = not all(
                v.domain not in CONSTRAINED and any(p.covers(v) for p in parts)
                for v in schema.variables
            )
        self._widens = any(transform.wide for transform in transforms)
        self._schema = schema
        self.register_buffer("like", torch.empty(0), persistent=False)

    def fit(self, batch: Batch) -> None:
        """Fit each transform on what the ones before it make of the batch.

        Raises:
            DomainError: samples are masked, and there is no item in any of them.
        """
        if batch.mask is not None:
            items = Items.of(batch)
            if not items.mask.any():
                raise DomainError(
                    f"all {len(batch)} samples are empty: their masks show no item to learn from; "
                    "look at the columns of the data, and at what was selected"
                )
            batch = items.table(batch)
        generator = torch.Generator(device=batch.x.device).manual_seed(0)
        batch = self._widened(batch)
        for transform in self._parts():
            transform.fit(batch)
            batch, _ = transform(batch, generator)

    def forward(
        self, batch: Batch, generator: torch.Generator | None = None
    ) -> tuple[Batch, Tensor | None]:
        """Map forwards, summing the log-determinants; of masked samples those of their items."""
        if batch.mask is not None:
            items = Items.of(batch)
            mapped, log_det = self(items.table(batch), generator)
            return self._sets(items, batch, mapped), None if log_det is None else items.total(
                log_det
            )
        batch = self._widened(batch)
        total: Tensor | None = self.like.new_zeros(len(batch))
        for transform in self._parts():
            batch, log_det = transform(batch, generator)
            total = None if total is None or log_det is None else total + log_det
        return self._narrowed(batch), None if total is None else total.to(self.like)

    def bound(self, batch: Batch, generator: torch.Generator | None = None) -> tuple[Batch, Tensor]:
        """Map forwards, summing what each transform adds to the bound."""
        if batch.mask is not None:
            items = Items.of(batch)
            mapped, volume = self.bound(items.table(batch), generator)
            return self._sets(items, batch, mapped), items.total(volume)
        batch = self._widened(batch)
        total = self.like.new_zeros(len(batch))
        for transform in self._parts():
            batch, volume = transform.bound(batch, generator)
            total = total + volume
        return self._narrowed(batch), total.to(self.like)

    def inverse(self, batch: Batch) -> Batch:
        """Map back, last transform first; of masked samples without their conditions."""
        if batch.mask is not None:
            items = Items.of(batch)
            x = items.padded(self.inverse(items.table(batch)).x)
            return batch.replace(x=x, condition=None)
        batch = self._widened(batch)
        for transform in reversed(self._parts()):
            batch = transform.inverse(batch)
        if self._schema is not None and (self.leaks or not self.exact):
            batch = batch.replace(x=to_domain(batch.x, self._schema.items))
        if not self._widens:
            return batch
        dtype = self.like.dtype
        if self._schema is not None:
            dtype = torch.promote_types(dtype, self._schema.dtype)
        return self._narrowed(batch.replace(x=batch.x.to(dtype)), x=False)

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape after the last transform."""
        if self._schema is not None and self._schema.masked:
            n_items, *rest = shape
            return n_items, *self._latent_shape(tuple(rest))
        return self._latent_shape(shape)

    def _latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
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
        if self._widens:
            condition = condition.double()
        for transform in self._parts():
            condition = transform.map_condition(condition)
        return condition.to(self.like)

    def describe(self) -> dict[str, str]:
        """Return what all transforms say."""
        return {name: text for part in self._parts() for name, text in part.describe().items()}

    def _sets(self, items: Items, batch: Batch, mapped: Batch) -> Batch:
        """Return masked samples with their items as they were mapped."""
        condition = None if batch.condition is None else self.map_condition(batch.condition)
        return batch.replace(x=items.padded(mapped.x), condition=condition)

    def _widened(self, batch: Batch) -> Batch:
        if not self._widens:
            return batch
        return batch.replace(
            x=batch.x.double(),
            condition=None if batch.condition is None else batch.condition.double(),
        )

    def _narrowed(self, batch: Batch, x: bool = True) -> Batch:
        """Turn floating-point numbers to the type of `like`."""
        narrowed = batch.to(dtype=self.like.dtype)
        return narrowed if x else narrowed.replace(x=batch.x)

    def _parts(self) -> list[Transform]:
        return [part for part in self.transforms if isinstance(part, Transform)]
