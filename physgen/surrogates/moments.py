r"""Weighted moments of sets of points, which are drawn before the points.

Points that have a weight w_i >= 0, the pT of particles or the energy of points, have as a set

    W = \sum_i w_i,   m_a = \sum_i w_i x_ia / W,   C_ab = \sum_i w_i (x_ia - m_a)(x_ib - m_b) / W,

with a and b the other columns. A model of single points gets these only as well as it gets the sums
of many; a spline flow learns q(W, m, L | n, c) of these few numbers directly, C = L L^T with L
lower triangular, behind an affine map whose parameters follow from n and c; where there is a c, W
goes by its logarithm. The points are drawn given them, and then scaled and sheared to have them.
Only columns of real numbers without bounds are moved: of the others the width C_aa^(1/2) is drawn
alone, and it and the mean are what they become. The mass of a jet is pT (tr C)^(1/2) to second
order in the angles, the response of a shower W over its energy.

Points that belong to groups, the layers of a calorimeter, have the weight of each group drawn,

    f_g = W_g / (W_g + ... + W_G)    for g < G where there are points in it and behind it.

Points on a grid, the cells of a calorimeter, are not sheared: they are put into the nearest cells
(`physgen.surrogates.places`), and their weights are tilted for m and C to be what was drawn
(`physgen.surrogates.tilting`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from physgen.batch import Batch, Schema, Variable
from physgen.errors import RecipeError, suggest
from physgen.networks.mlp import MLP
from physgen.surrogates.flows.stack import CouplingOptions
from physgen.surrogates.places import Places
from physgen.surrogates.tilting import tilted
from physgen.transforms.domains import to_domain
from physgen.transforms.quantile import Gaussianise

FLOW = CouplingOptions(n_layers=6, hidden=(64, 64))
"""Of the few moments; a small part of the time that points take."""

LEAST, TINY = 1e-12, 1e-300
"""What is added to the square of a width: this share of it, and a number that is not zero."""

STRETCH = 4.0
"""Points that would have to be spread by more keep their shape: of few, hardly weighted ones nearly
any would do. Weights of points on a grid are not tilted by more than its square."""

SHARPEST = 20.0
"""Largest ln q: moments that a set of few points does not have are constants."""


class Moments(nn.Module):
    """q(W, f, m, L | n_1, ..., n_G, c) of the points of a schema.

    Args:
        schema: of the sets.
        weight: name of the column of weights.
        n_condition: columns of c, mapped.
        grouped_by: name of the column that says to which group a point belongs, if any.
        n_groups: G.

    Raises:
        RecipeError: there is no such column, or it can be negative, or there is no other one.

    >>> schema = Schema((5, 2), (Variable("x"), Variable("w", domain="non-negative")), masked=True)
    >>> moments = Moments(schema, "w", 0)
    >>> x = torch.tensor([[[0.0, 1.0], [4.0, 3.0]]])
    >>> moments.of(x, torch.ones(1, 2, dtype=torch.bool)).round(decimals=4)  # W, m, L
    tensor([[4.0000, 3.0000, 1.7321]], dtype=torch.float64)
    """

    logarithm: Tensor

    def __init__(
        self,
        schema: Schema,
        weight: str,
        n_condition: int,
        grouped_by: str | None = None,
        n_groups: int = 1,
    ) -> None:
        super().__init__()
        names = [variable.name for variable in schema.variables]
        if weight not in names:
            raise RecipeError(
                f"surrogate.first.weighted_by: no column is called {weight!r}"
                f"{suggest(weight, names)}"
            )
        self.column = names.index(weight)
        if schema.variables[self.column].domain != "non-negative" or len(names) < 2:
            raise RecipeError(
                f"surrogate.first.weighted_by: {weight} must be non-negative, beside another column"
            )
        rest = [i for i in range(len(names)) if names[i] not in (weight, grouped_by)]
        self.moved = [i for i in rest if _moves(schema.variables[i])]
        self.fixed = [i for i in rest if not _moves(schema.variables[i])]
        self.items = schema.items
        self.n_groups = n_groups
        self.places = Places(n_groups, len(self.moved))
        self.n_places, self.size = schema.shape[0], n_moments(schema, grouped_by, n_groups)
        shares = tuple(Variable(f"share_{i}", low=0, high=1) for i in range(1, n_groups))
        others = tuple(Variable(f"moment_{i}") for i in range(self.size - n_groups))
        variables = Variable("sum"), *shares, *others
        self.transform = Gaussianise(Schema((self.size,), variables), atoms=0)
        # Along a condition on which W depends sharply, an energy, its knots would be seen.
        self.by_logarithm = n_condition > 0
        self.register_buffer("logarithm", torch.tensor([0.0, 1.0], dtype=torch.double))
        n_given = n_condition + n_groups
        self.line = MLP(n_given, 2 * self.size, hidden=FLOW.hidden, zero_output=True)
        self.flow = FLOW.build((self.size,), n_given)

    def of(self, x: Tensor, there: Tensor, group: Tensor | None = None) -> Tensor:
        """Return (B, size) moments of points (B, N, F) where they are `there` (B, N), float64.

        They are W, the shares f of groups (B, N), NaN where there is no choice, the means and L of
        columns that can be moved, by rows, and the means and widths of the others.
        """
        w, share, moved, fixed = self._parts(x, there)
        mean, lower = _mean_and_lower(share, moved)
        centre = (share[..., None] * fixed).sum(1)
        width = (share[..., None] * (fixed - centre[:, None]).square()).sum(1).sqrt()
        rows, columns = torch.tril_indices(len(self.moved), len(self.moved))
        member = self._member(there, group)
        sums = (member * w[..., None]).sum(1)
        share = (sums / _from_here(sums).clamp_min(TINY))[:, :-1]
        share = torch.where(_undecided(member), share, torch.nan)
        parts = [w.sum(1, keepdim=True), share, mean, lower[:, rows, columns], centre, width]
        return torch.cat(parts, 1)

    def fit(
        self, x: Tensor, there: Tensor, weight: Tensor | None, group: Tensor | None = None
    ) -> None:
        """Make each moment of training points normal, and see whether these lie on a grid."""
        some = there.any(1)  # The moments of nothing are no numbers that others may come near.
        x, there, weight = x[some], there[some], None if weight is None else weight[some]
        group = None if group is None else group[some]
        found = self.of(x, there, group)
        self.transform.fit(Batch(_filled(found), weight=weight))
        log = found[:, 0][found[:, 0] > 0].log()
        if len(log) > 1 and log.std() > 0:
            self.logarithm.copy_(torch.stack([log.mean(), log.std()]))
        group = torch.zeros_like(there, dtype=torch.long) if group is None else group
        self.places.fit(x[..., self.moved], there, group)

    def mapped(self, moments: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return moments (B, size) as normal numbers, which are noise where they are NaN."""
        batch: Batch = self.transform(Batch(moments.nan_to_num(0.0)))[0]
        mapped = batch.x
        if self.by_logarithm:
            centre, width = self.logarithm.to(mapped)
            log = (moments[:, :1].clamp_min(TINY).log() - centre) / width
            mapped = torch.cat([log, mapped[:, 1:]], 1)
            none = (moments[:, :1] <= 0).expand_as(moments)
            moments = torch.where(none, torch.nan, moments)
        noise = torch.randn(
            moments.shape, generator=generator, device=moments.device, dtype=moments.dtype
        )
        return torch.where(moments.isnan(), noise.to(mapped), mapped)

    def inverse(self, mapped: Tensor) -> Tensor:
        """Return moments (B, size) of normal numbers, float64."""
        moments = self.transform.inverse(Batch(mapped.double())).x
        if not self.by_logarithm:
            return moments
        centre, width = self.logarithm.to(moments)
        return torch.cat([(centre + width * mapped[:, :1].double()).exp(), moments[:, 1:]], 1)

    def log_q(self, mapped: Tensor, condition: Tensor, bounds: Tensor) -> Tensor:
        """Return (B,) ln q of mapped moments (B, size) at mapped c (B, C); 0 of no points.

        Args:
            bounds: (B, G), n_1, n_1 + n_2, ..., n.
        """
        given = self._given(condition, bounds)
        centre, log_width = self.line(given).chunk(2, 1)
        log_q: Tensor = self.flow.log_prob((mapped - centre) * (-log_width).exp(), given)
        log_q = (log_q - log_width.sum(1)).clamp_max(SHARPEST)
        return torch.where(bounds[:, -1] > 0, log_q, 0.0)

    def draw(self, noise: Tensor, condition: Tensor, bounds: Tensor) -> Tensor:
        """Return mapped moments of standard normal noise (B, size)."""
        given = self._given(condition, bounds)
        centre, log_width = self.line(given).chunk(2, 1)
        drawn: Tensor = centre + log_width.exp() * self.flow.from_noise(noise, given)
        return drawn

    def impose(
        self, x: Tensor, there: Tensor, mapped: Tensor, group: Tensor | None = None
    ) -> Tensor:
        """Return points (B, N, F), changed to have mapped moments (B, size).

        Fewer points than columns cannot have any widths. What that makes of columns is within the
        ranges of their variables.
        """
        wanted = self.inverse(mapped)
        member = self._member(there, group)
        total, of_groups, mean, lower = self._wanted(wanted, member)
        w, _, moved, _ = self._parts(x, there)
        sums = (member * w[..., None]).sum(1)
        # Where groups of points have no weight there is nothing to scale.
        factor = of_groups.where(sums > 0, 0.0)
        factor = factor * (total / factor.sum(1, keepdim=True).clamp_min(TINY))
        w = w * (member @ (factor / sums.clamp_min(TINY))[..., None])[..., 0]
        if self.places.known_any:
            moved = self._on_grid(moved, there, group)
            w = _tilted(w, member, moved, mean, lower)
        else:
            moved = _sheared(w, moved, there, mean, lower)
        result = x.clone()
        result[..., self.moved] = moved.to(x)
        result[..., self.column] = torch.where((sums > 0).any(1)[:, None], w, 0.0).to(x)
        return torch.where(there[..., None], to_domain(result, self.items), x)

    def _wanted(self, wanted: Tensor, member: Tensor) -> tuple[Tensor, ...]:
        """Return W (B, 1), W_g (B, G), m (B, M) and L (B, M, M) of moments (B, size)."""
        n, n_shares = len(self.moved), self.n_groups - 1
        total, shares, mean, rest = wanted.tensor_split([1, 1 + n_shares, 1 + n_shares + n], 1)
        counts, undecided = member.sum(1), _undecided(member)
        shares = torch.where(undecided, shares.clamp(0, 1), (counts[:, :-1] > 0).to(shares))
        left, parts = total.clamp_min(0), []
        for share in shares.T:
            parts.append(left * share[:, None])
            left = left - parts[-1]
        rows, columns = torch.tril_indices(n, n)
        lower = wanted.new_zeros(len(wanted), n, n)
        lower[:, rows, columns] = rest[:, : len(rows)]
        return total.clamp_min(0), torch.cat([*parts, left], 1), mean, lower

    def _on_grid(self, moved: Tensor, there: Tensor, group: Tensor | None) -> Tensor:
        group = torch.zeros_like(there, dtype=torch.long) if group is None else group
        return self.places.nearest(moved, there, group)

    def _member(self, there: Tensor, group: Tensor | None) -> Tensor:
        """Return (B, N, G), 1 where a point is there and of a group, float64."""
        if group is None:
            return there[..., None].double()
        which = functional.one_hot(torch.where(there, group, 0), self.n_groups)
        return which.double() * there[..., None]

    def _parts(self, x: Tensor, there: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return w_i and w_i / W, 0 where no point is, columns that can be moved, and others."""
        x = torch.where(there[..., None], x, 0.0).double()
        w = x[..., self.column].clamp_min(0)
        share = w / w.sum(1, keepdim=True).clamp_min(TINY)
        return w, share, x[..., self.moved], x[..., self.fixed]

    def _given(self, condition: Tensor, bounds: Tensor) -> Tensor:
        return torch.cat([condition, bounds / self.n_places], 1)


def n_moments(schema: Schema, grouped_by: str | None = None, n_groups: int = 1) -> int:
    """Return how many moments sets of a schema have, with one column of weights."""
    others = len(schema.variables) - 1 - (grouped_by is not None)
    moved = sum(map(_moves, schema.variables))
    return n_groups + others + moved * (moved + 1) // 2 + others - moved


def _moves(variable: Variable) -> bool:
    """Return whether a column may take any value."""
    bounded = any(map(math.isfinite, variable.range))
    return variable.domain == "real" and not bounded and variable.present is None


def _mean_and_lower(share: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return means (B, M) and L (B, M, M) of columns (B, N, M) of points of shares (B, N)."""
    mean = (share[..., None] * x).sum(1)
    away = x - mean[:, None]
    covariance = (share[..., None] * away).mT @ away
    # Of few points it is singular.
    least = LEAST * covariance.diagonal(dim1=1, dim2=2) + TINY
    return mean, torch.linalg.cholesky(covariance + torch.diag_embed(least))


def _filled(values: Tensor) -> Tensor:
    """Return values (B, K), those that are NaN chosen at random from the others of their column."""
    generator = torch.Generator(device=values.device).manual_seed(0)
    u = torch.rand(values.shape, generator=generator, device=values.device, dtype=values.dtype)
    columns = []
    for column, place in zip(values.unbind(1), u.unbind(1), strict=True):
        known = column[~column.isnan()] if not column.isnan().all() else place
        chosen = known[(place * len(known)).long()]
        columns.append(torch.where(column.isnan(), chosen, column))
    return torch.stack(columns, 1)


def _from_here(values: Tensor) -> Tensor:
    """Return the sums of values (B, G) from each column to the last."""
    return values.flip(1).cumsum(1).flip(1)


def _undecided(member: Tensor) -> Tensor:
    """Return (B, G - 1), whether groups have points, and those behind them too."""
    counts = member.sum(1)
    return (counts[:, :-1] > 0) & (_from_here(counts)[:, 1:] > 0)


def _sheared(w: Tensor, x: Tensor, there: Tensor, mean: Tensor, lower: Tensor) -> Tensor:
    """Return columns x (B, N, M) of points of weights w, moved to have m (B, M) and L (B, M, M)."""
    share = w / w.sum(1, keepdim=True).clamp_min(TINY)
    centre, found = _mean_and_lower(share, x)
    one = torch.eye(x.shape[2], dtype=w.dtype, device=w.device)
    # Through the inverse, since what is not resolved is left alone below.
    change = lower @ torch.linalg.solve_triangular(found, one.expand_as(found), upper=False)
    # Of all points, hardly weighted ones too; columns may have different units.
    width = (x - centre[:, None]).square().where(there[..., None], 0.0).sum(1).sqrt() + TINY
    relative = change * width[:, None] / width[..., None]
    stretched = torch.linalg.matrix_norm(relative, 2) if x.shape[2] else w.new_zeros(len(w))
    change = torch.where((stretched <= STRETCH)[:, None, None], change, one)
    return mean[:, None] + (x - centre[:, None]) @ change.mT


def _tilted(w: Tensor, member: Tensor, x: Tensor, mean: Tensor, lower: Tensor) -> Tensor:
    """Return weights for points at x (B, N, M) to have m (B, M) and C = L L^T nearly."""
    covariance, away = lower @ lower.mT, x - mean[:, None]
    seen = (w > 0)[..., None]
    size = away.square().where(seen, 0.0).sum(1) / seen.sum(1).clamp_min(1)
    width = (torch.maximum(size, covariance.diagonal(dim1=1, dim2=2)) + TINY**0.5).sqrt()
    away = away.where(seen, 0.0) / width[:, None]
    rows, columns = torch.tril_indices(x.shape[2], x.shape[2])
    features = torch.cat([away, away[..., rows] * away[..., columns]], 2)
    second = (covariance / (width[:, None] * width[..., None]))[:, rows, columns]
    target = torch.cat([torch.zeros_like(mean), second], 1)
    return tilted(w, member, features, target, 2 * math.log(STRETCH))
