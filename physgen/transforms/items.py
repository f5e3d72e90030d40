"""Masked samples, as tables of their items: how transforms of columns see them, and the way back.

A masked sample (n_items, F) holds up to n_items items; `Batch.mask` (B, n_items) says which are
there. These are a table of (N, F) rows, each with the condition and the weight of its sample; where
no item is, samples are zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from physgen.batch import Batch
from physgen.errors import DomainError


@dataclass(frozen=True)
class Items:
    """The items that are there.

    Attributes:
        mask: (B, n_items).
        sample: (N,), which sample an item belongs to.

    >>> mask = torch.tensor([[True, False], [True, True]])
    >>> items = Items.of(Batch(torch.zeros(2, 2, 3), mask=mask))
    >>> items.sample.tolist()
    [0, 1, 1]
    """

    mask: Tensor
    sample: Tensor

    @classmethod
    def of(cls, batch: Batch) -> Items:
        """Find the items of a batch; `DomainError` if its mask is of another shape."""
        mask = batch.mask
        if mask is None or mask.shape != batch.x.shape[:2] or mask.dtype != torch.bool:
            given = None if mask is None else (tuple(mask.shape), mask.dtype)
            raise DomainError(
                f"samples of shape {tuple(batch.x.shape)} with a mask {given}: expected truth "
                f"values of shape {tuple(batch.x.shape[:2])}, one for each item"
            )
        return cls(mask, mask.nonzero()[:, 0])

    def table(self, batch: Batch) -> Batch:
        """Return the items of a batch as rows (N, F)."""
        condition, weight = batch.condition, batch.weight
        return Batch(
            batch.x[self.mask],
            condition=None if condition is None else condition[self.sample],
            weight=None if weight is None else weight[self.sample],
        )

    def padded(self, values: Tensor) -> Tensor:
        """Return (B, n_items, ...): values (N, ...) in the places of the items, zeros elsewhere."""
        whole = values.new_zeros((*self.mask.shape, *values.shape[1:]))
        return whole.index_put((self.mask,), values)

    def total(self, values: Tensor) -> Tensor:
        """Return (B,), the sum of values (N,) over the items of each sample."""
        return values.new_zeros(len(self.mask)).index_add(0, self.sample, values)
