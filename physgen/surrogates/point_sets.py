r"""What models of sets of points have in common, however they come by the points.

    q(x_1, ..., x_n, n | c) = p(n | c) q(x_1, ..., x_n | n, c),

p(n | c) is a categorical distribution, and all orders of the points are equally probable; where
all data were in an order (jets by pT), samples are put into it afterwards. Between the number and
the points their weighted moments may be drawn, see `physgen.surrogates.moments`.

Inside, a sample has N places of F columns, of which the first n are points and the others zero, and
its moments and n are the last columns of its condition.
"""

from __future__ import annotations

import torch
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import RecipeError
from physgen.networks.epic import present
from physgen.ranges import Options, Widths
from physgen.surrogates.base import Surrogate
from physgen.surrogates.moments import Moments, n_moments
from physgen.surrogates.number import NumberOfItems


class FirstOptions(Options):
    """What is drawn before the points of a set.

    Attributes:
        hidden: widths of the network of p(n | c).
        weighted_by: column of weights, pT or energy, whose moments are drawn too, and imposed on
            the points; see `physgen.surrogates.moments`.
    """

    hidden: Widths = (64,)
    weighted_by: str | None = None


class PointSet(Surrogate):
    """A surrogate of masked samples whose points are equivalent.

    Attributes:
        number: p(n | c), of mapped conditions.
        n_first: how many numbers are drawn before the points: that of them, and their moments.
        moments: of the points; `None` if they are not drawn apart.
        order: (), the column, counted from 1, in which the points of all data descend; its negative
            where they ascend, and 0 where there is none.
    """

    knows_masks = True

    n_first: int
    number: NumberOfItems
    moments: Moments | None
    order: Tensor

    def draw_first(self, options: FirstOptions) -> None:
        """Make what draws the number of points, and moments; the last step of a constructor."""
        n_condition = self.transform.latent_condition(len(self.schema.condition))
        self.number = NumberOfItems(self.schema.shape[0], n_condition, hidden=options.hidden)
        self.moments = None
        if options.weighted_by is not None:
            self.moments = Moments(self.schema, options.weighted_by, n_condition)
        self.register_buffer("order", torch.zeros((), dtype=torch.long))

    def initialise(self, data: Batch | None) -> None:
        """Fit what is set from data, and see in which order points are."""
        super().initialise(data)
        if data is not None:
            self.order.fill_(order_of(data))
            if self.moments is not None and data.mask is not None:
                self.moments.fit(data.x, data.mask, data.weight)

    def packed(self, mapped: Batch) -> Batch:
        """Put the points first, and what is drawn before them behind the condition, unmasked."""
        x, mask = _first(mapped)
        given = [] if mapped.condition is None else [mapped.condition]
        if self.moments is not None:
            points = self._physical(x, mapped.condition)
            given.append(self.moments.mapped(self.moments.of(points, mask)).to(x))
        given.append(mask.sum(1, keepdim=True).to(x))
        return mapped.replace(x=x, condition=torch.cat(given, 1), mask=None)

    def surprise(self, condition: Tensor | None) -> Tensor:
        """Return (B,) -log p of what is drawn first, in a packed condition (B, C + n_first)."""
        assert condition is not None
        given, number = condition[:, : -self.n_first], condition[:, -1:]
        log_p = self.number.log_p(given, len(condition))
        surprise = -log_p.gather(1, number.long())[:, 0]
        if self.moments is None:
            return surprise
        moments = condition[:, -self.n_first : -1]
        return surprise - self.moments.log_q(moments, given, number[:, 0])

    def numbered(self, noise: Tensor, condition: Tensor | None) -> Tensor:
        """Return (B, C + n_first): physical conditions, and what follows from noise (B, n_first).

        These are mapped moments, and the number of points.
        """
        given = noise.new_empty(len(noise), 0)
        if condition is not None:
            given = self.transform.map_condition(condition).to(noise)
        number = self.number.quantile(torch.special.ndtr(noise[:, 0]), given)[:, None].to(noise)
        parts = [noise.new_empty(len(noise), 0) if condition is None else condition]
        if self.moments is not None:
            parts.append(self.moments.draw(noise[:, 1:], given, number[:, 0]).to(parts[0]))
        return torch.cat([*parts, number.to(parts[0])], 1)

    def map_numbered(self, condition: Tensor) -> Tensor:
        """Map physical conditions behind which is what was drawn first, (B, C + n_first)."""
        given, first = condition[:, : -self.n_first], condition[:, -self.n_first :].to(self.dtype)
        if not given.shape[1]:
            return first
        return torch.cat([self.transform.map_condition(given), first], 1)

    def placed(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map points (B, N, F) to physical units, in their order, zero where there is none.

        Args:
            x: in the transform's space.
            condition: (B, C + n_first), physical, and what was drawn first.
        """
        points = self._physical(x, self.map_numbered(condition)[:, : -self.n_first])
        there = present(condition[:, -1], x.shape[1])
        if self.moments is not None:
            points = self.moments.impose(points, there, condition[:, -self.n_first : -1])
        column = points.index_select(2, (self.order.abs() - 1).clamp_min(0)[None])[..., 0]
        key = torch.where(there, -self.order.sign() * column, torch.inf)
        turn = key.argsort(dim=1, stable=True)[..., None].expand_as(points)
        return torch.where(there[..., None], points, 0.0).gather(1, turn)

    def _physical(self, x: Tensor, mapped: Tensor | None) -> Tensor:
        """Map points (B, N, F) of the transform's space at mapped conditions to physical units."""
        if mapped is not None:
            mapped = mapped.repeat_interleave(x.shape[1], 0) if mapped.shape[1] else None
        rows = Batch(x.flatten(0, 1), mapped)
        return self.transform.inverse(rows).x.reshape(len(x), *self.schema.shape)


def n_first(schema: Schema, options: FirstOptions) -> int:
    """Return how many numbers are drawn before the points, `PointSet.n_first`."""
    return 1 if options.weighted_by is None else 1 + n_moments(schema)


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
