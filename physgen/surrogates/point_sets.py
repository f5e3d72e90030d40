r"""What models of sets of points have in common, however they come by the points.

    q(x_1, ..., x_n, n | c) = p(n | c) q(x_1, ..., x_n | n, c),

p(n | c) is a categorical distribution, and all orders of the points are equally probable; where
all data were in an order (jets by pT), samples are put into it afterwards.

Inside, a sample has N places of F columns, of which the first n are points and the others zero, and
n is the last column of its condition.
"""

from __future__ import annotations

import torch
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import RecipeError
from physgen.networks.epic import present
from physgen.surrogates.base import Surrogate
from physgen.surrogates.number import NumberOfItems


class PointSet(Surrogate):
    """A surrogate of masked samples whose points are equivalent.

    Attributes:
        number: p(n | c), of mapped conditions.
        order: (), the column, counted from 1, in which the points of all data descend; its negative
            where they ascend, and 0 where there is none.
    """

    knows_masks = True

    number: NumberOfItems
    order: Tensor

    def count_points(self, hidden: tuple[int, ...]) -> None:
        """Make p(n | c), of a network of these widths; the last step of a constructor."""
        n_condition = self.transform.latent_condition(len(self.schema.condition))
        self.number = NumberOfItems(self.schema.shape[0], n_condition, hidden=hidden)
        self.register_buffer("order", torch.zeros((), dtype=torch.long))

    def initialise(self, data: Batch | None) -> None:
        """Fit what is set from data, and see in which order points are."""
        super().initialise(data)
        if data is not None:
            self.order.fill_(order_of(data))

    def packed(self, mapped: Batch) -> Batch:
        """Put the points first, and their number behind the condition; there is no mask then."""
        x, mask = _first(mapped)
        number = mask.sum(1, keepdim=True).to(x)
        given = number if mapped.condition is None else torch.cat([mapped.condition, number], 1)
        return mapped.replace(x=x, condition=given, mask=None)

    def surprise(self, condition: Tensor | None) -> Tensor:
        """Return (B,) -log p of the numbers of points in a packed condition (B, C + 1)."""
        assert condition is not None
        log_p = self.number.log_p(condition[:, :-1], len(condition))
        return -log_p.gather(1, condition[:, -1:].long())[:, 0]

    def numbered(self, noise: Tensor, condition: Tensor | None) -> Tensor:
        """Return (B, C + 1): physical conditions, and the numbers that follow from noise (B,)."""
        mapped = None if condition is None else self.transform.map_condition(condition)
        number = self.number.quantile(torch.special.ndtr(noise), mapped)[:, None]
        if condition is None:
            return number.to(noise)
        return torch.cat([condition, number.to(condition)], 1)

    def map_numbered(self, condition: Tensor) -> Tensor:
        """Map physical conditions whose last column is the number of points, (B, C + 1)."""
        given, number = condition[:, :-1], condition[:, -1:].to(self.dtype)
        if not given.shape[1]:
            return number
        return torch.cat([self.transform.map_condition(given), number], 1)

    def placed(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map points (B, N, F) to physical units, in their order, zero where there is none.

        Args:
            x: in the transform's space.
            condition: (B, C + 1), physical, with the number of points.
        """
        n_places = x.shape[1]
        mapped = self.map_numbered(condition)[:, :-1]
        given = mapped.repeat_interleave(n_places, 0) if mapped.shape[1] else None
        rows = Batch(x.flatten(0, 1), given)
        points = self.transform.inverse(rows).x.reshape(len(x), *self.schema.shape)
        there = present(condition[:, -1], n_places)
        column = points.index_select(2, (self.order.abs() - 1).clamp_min(0)[None])[..., 0]
        key = torch.where(there, -self.order.sign() * column, torch.inf)
        turn = key.argsort(dim=1, stable=True)[..., None].expand_as(points)
        return torch.where(there[..., None], points, 0.0).gather(1, turn)


def require_mask(schema: Schema, kind: str, other: str) -> None:
    """Raise `RecipeError` if samples are no sets, naming the surrogate `kind` and another one."""
    if not schema.masked:
        raise RecipeError(
            f"surrogate.kind: {kind} models sets of points, and these samples have no mask; take "
            f"{other}, or a system of sets (jets, point-cloud, item-sets)"
        )


def order_of(batch: Batch) -> int:
    """Return the first column, from 1, in which the points of all samples are in order.

    It is negative where they ascend, and 0 if there is none.

    >>> x = torch.tensor([[[1.0, 5.0], [3.0, 2.0], [0.0, 9.0]]])
    >>> order_of(Batch(x, mask=torch.tensor([[True, True, False]])))
    -1
    """
    x, mask = _first(batch)
    both = mask[:, 1:]
    for number, column in enumerate(x.unbind(2), 1):
        step = column.diff(dim=1)[both]
        for sign in (1, -1):
            if len(step) and (sign * step <= 0).all() and (step != 0).any():
                return sign * number
    return 0


def _first(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return samples and masks with the points in the first places, and zeros behind them."""
    mask = batch.mask
    if mask is None:
        raise RecipeError("sets of points are modelled here, and these samples have no mask")
    turn = mask.long().argsort(dim=1, descending=True, stable=True)
    x = torch.where(mask[..., None], batch.x, 0.0)
    return x.gather(1, turn[..., None].expand_as(x)), mask.gather(1, turn)
