r"""What models of sets of points have in common, however they come by the points.

    q(x_1, ..., x_n, n | c) = p(n | c) q(x_1, ..., x_n | n, c),

p(n | c) is a categorical distribution, and all orders of the points are equally probable; where
all data were in an order (jets by pT), samples are put into it afterwards. Between the number and
the points may be drawn how many of them belong to each group, such as a layer, see
`physgen.surrogates.number`, and their weighted moments, see `physgen.surrogates.moments`.

Inside, a sample has N places of F columns, of which the first n are points and the others zero:
those of the first group, then those of the second. It has no column of groups. Its moments and
n_1, n_1 + n_2, ..., n are the last columns of its condition.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from physgen.batch import Batch, Schema
from physgen.errors import DomainError, RecipeError, suggest
from physgen.networks.epic import groups_of, present
from physgen.ranges import Options, Positive, Widths
from physgen.surrogates.base import Surrogate
from physgen.surrogates.moments import Moments, n_moments
from physgen.surrogates.number import GroupCounts, NumberOfItems


class FirstOptions(Options):
    """What is drawn before the points of a set.

    Attributes:
        hidden: widths of the network of p(n | c).
        weighted_by: column of weights, pT or energy, whose moments are drawn too, and imposed on
            the points; see `physgen.surrogates.moments`.
        grouped_by: integer column, such as the layer, which is drawn of all points before their
            others; with `weighted_by`, the weight of each group is drawn too.
        n_groups: how many values that column has.
        per_points: from all sets of a batch is learned what is drawn first, and from one in so many
            what costs most, the points (of point-diffusion).
    """

    hidden: Widths = (64,)
    weighted_by: str | None = None
    grouped_by: str | None = None
    n_groups: Positive = 1
    per_points: Positive = 1


class PointSet(Surrogate):
    """A surrogate of masked samples whose points are equivalent.

    Attributes:
        number: p(n | c), of mapped conditions; `None` if there are groups.
        counts: p(n, n_1, ..., n_G | c) of groups; `None` if there are none.
        n_first: how many numbers are drawn before the points: those of them, and their moments.
        moments: of the points; `None` if they are not drawn apart.
        values: (G,), those of the column of groups, the rarest first.
        order: (), the column, counted from 1, in which the points of all data descend; its negative
            where they ascend, and 0 where there is none.
    """

    knows_masks = True

    not_exported = (
        "samples are sets of as many points as are drawn, whose mask the model has no output for; "
        "export to pyfunc"
    )

    n_first: int
    number: NumberOfItems | None
    counts: GroupCounts | None
    moments: Moments | None
    values: Tensor
    order: Tensor

    def draw_first(self, options: FirstOptions) -> None:
        """Make what draws the number of points, and moments; the last step of a constructor."""
        n_condition = self.transform.latent_condition(len(self.schema.condition))
        n_places, self.n_groups = self.schema.shape[0], options.n_groups
        self.column = _column(self.schema, options)
        self.number = self.counts = self.moments = None
        if self.column is None:
            self.number = NumberOfItems(n_places, n_condition, hidden=options.hidden)
        else:
            self.counts = GroupCounts(self.n_groups, n_places, n_condition, hidden=options.hidden)
        if options.weighted_by is not None:
            self.moments = Moments(
                self.schema, options.weighted_by, n_condition, options.grouped_by, self.n_groups
            )
        self.register_buffer("values", torch.arange(self.n_groups))
        self.register_buffer("order", torch.zeros((), dtype=torch.long))

    def initialise(self, data: Batch | None) -> None:
        """Fit what is set from data, and see in which order points are."""
        super().initialise(data)
        if data is not None:
            self.order.fill_(order_of(data))
            mask = data.mask
            if self.counts is not None and mask is not None:
                self._find_groups(data.x[..., self.column or 0], mask)
                group = self._group(data.x)
                self.counts.fit(self._bounds(mask, group))
            if self.moments is not None and mask is not None:
                self.moments.fit(data.x, mask, data.weight, self._group(data.x))

    def _find_groups(self, column: Tensor, mask: Tensor) -> None:
        values, number = torch.unique(column[mask].long(), return_counts=True)
        if len(values) != self.n_groups:
            name = self.schema.variables[self.column or 0].name
            raise DomainError(
                f"surrogate.first.n_groups is {self.n_groups}, and {name} has {len(values)} values "
                f"in the training data; set surrogate.first.n_groups={len(values)}"
            )
        # The last group has what the others leave, which is least wrong where it is largest.
        self.values.copy_(values[number.argsort(stable=True)])

    def _group(self, x: Tensor) -> Tensor | None:
        """Return (B, N) the numbers of the groups of physical points (B, N, F)."""
        if self.column is None:
            return None
        return (x[..., self.column, None].round().long() == self.values).long().argmax(2)

    def _bounds(self, mask: Tensor, group: Tensor | None) -> Tensor:
        """Return (B, G) cumulative numbers of the points of groups."""
        if group is None:
            return mask.sum(1, keepdim=True)
        which = functional.one_hot(group, self.n_groups) * mask[..., None]
        return which.sum(1).cumsum(1)

    def packed(self, mapped: Batch, generator: torch.Generator | None = None) -> Batch:
        """Put the points first, and what is drawn before them behind the condition, unmasked.

        Args:
            mapped: in the transform's space.
            generator: of the noise that moments are where they are undecided.
        """
        x, mask = _first(mapped)
        given = [] if mapped.condition is None else [mapped.condition]
        points, group = None, None
        if self.column is not None or self.moments is not None:
            points = self._physical(x, mapped.condition)
            group = self._group(points)
        if self.moments is not None and points is not None:
            moments = self.moments.of(points, mask, group)
            given.append(self.moments.mapped(moments, generator).to(x))
        if self.column is not None and group is not None:
            turn = torch.where(mask, group, self.n_groups).argsort(dim=1, stable=True)
            x = _without(x, self.column).gather(1, turn[..., None].expand(-1, -1, x.shape[2] - 1))
        given.append(self._bounds(mask, group).to(x))
        return mapped.replace(x=x, condition=torch.cat(given, 1), mask=None)

    def surprise(self, condition: Tensor | None) -> Tensor:
        """Return (B,) -log p of what is drawn first, in a packed condition (B, C + n_first)."""
        assert condition is not None
        given, bounds = condition[:, : -self.n_first], condition[:, -self.n_groups :]
        surprise = condition.new_zeros(len(condition))
        if self.counts is not None:
            surprise = -self.counts.log_p(bounds, given)
        if self.number is not None:
            log_p = self.number.log_p(given, len(condition))
            surprise = -log_p.gather(1, bounds.long())[:, 0]
        if self.moments is None:
            return surprise
        moments = condition[:, -self.n_first : -self.n_groups]
        return surprise - self.moments.log_q(moments, given, bounds)

    def numbered(self, noise: Tensor, condition: Tensor | None) -> Tensor:
        """Return (B, C + n_first): physical conditions, and what follows from noise (B, n_first).

        These are mapped moments, and the cumulative numbers of points of groups.
        """
        given = noise.new_empty(noise.shape[0], 0)
        if condition is not None:
            given = self.transform.map_condition(condition).to(noise)
        bounds = noise[:, :1]
        if self.counts is not None:
            bounds = self.counts.draw(noise[:, : self.n_groups], given)
        if self.number is not None:
            u = torch.special.ndtr(noise[:, 0])
            bounds = self.number.quantile(u, given)[:, None].to(noise)
        parts = [noise.new_empty(noise.shape[0], 0) if condition is None else condition]
        if self.moments is not None:
            parts.append(self.moments.draw(noise[:, self.n_groups :], given, bounds).to(parts[0]))
        return torch.cat([*parts, bounds.to(parts[0])], 1)

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
        there, group = present(condition[:, -1], x.shape[1]), None
        if self.column is not None:
            x = torch.cat(
                [x[..., : self.column], x.new_zeros(x.shape[:2])[..., None], x[..., self.column :]],
                2,
            )
            group = groups_of(condition[:, -self.n_groups :], x.shape[1])
        points = self._physical(x, self.map_numbered(condition)[:, : -self.n_first])
        if self.column is not None and group is not None:
            points[..., self.column] = self.values[group].to(points)
        if self.moments is not None:
            first = condition[:, -self.n_first : -self.n_groups]
            points = self.moments.impose(points, there, first, group)
        column = points.index_select(2, (self.order.abs() - 1).clamp_min(0)[None])[..., 0]
        key = torch.where(there, -self.order.sign() * column, torch.inf)
        turn = key.argsort(dim=1, stable=True)[..., None].expand_as(points)
        return torch.where(there[..., None], points, 0.0).gather(1, turn)

    def _physical(self, x: Tensor, mapped: Tensor | None) -> Tensor:
        """Map points (B, N, F) of the transform's space at mapped conditions to physical units."""
        if mapped is not None:
            mapped = mapped.repeat_interleave(x.shape[1], 0) if mapped.shape[1] else None
        rows = Batch(x.flatten(0, 1), mapped)
        return self.transform.inverse(rows).x.reshape(x.shape[0], *self.schema.shape)


def n_first(schema: Schema, options: FirstOptions) -> int:
    """Return how many numbers are drawn before the points, `PointSet.n_first`."""
    if options.weighted_by is None:
        return options.n_groups
    return options.n_groups + n_moments(schema, options.grouped_by, options.n_groups)


def _column(schema: Schema, options: FirstOptions) -> int | None:
    """Return which column says to which group a point belongs; raise `RecipeError` if none can."""
    key, name = "surrogate.first.grouped_by", options.grouped_by
    if name is None:
        if options.n_groups > 1:
            raise RecipeError(f"surrogate.first.n_groups: say in {key} which column has groups")
        return None
    integers = [v.name for v in schema.variables if v.domain == "integer"]
    if name not in integers:
        raise RecipeError(f"{key}: no integer column is called {name!r}{suggest(name, integers)}")
    if options.n_groups < 2:
        raise RecipeError(f"surrogate.first.n_groups: say how many values {name} has, at least 2")
    return [v.name for v in schema.variables].index(name)


def _without(x: Tensor, column: int) -> Tensor:
    return torch.cat([x[..., :column], x[..., column + 1 :]], 2)


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
