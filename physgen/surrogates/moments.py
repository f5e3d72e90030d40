r"""Weighted moments of sets of points, which are drawn before the points.

Points that have a weight w_i >= 0, the pT of particles or the energy of points, have as a set

    W = \sum_i w_i,   m_a = \sum_i w_i x_ia / W,   C_ab = \sum_i w_i (x_ia - m_a)(x_ib - m_b) / W,

with a and b the other columns. A model of single points gets these only as well as it gets the sums
of many; a spline flow learns q(W, m, L | n, c) of these few numbers directly, C = L L^T with L
lower triangular. The points are drawn given them, and then scaled and sheared to have them. Only
columns of real numbers without bounds are moved, and not where their values lie on a grid: of the
others the width C_aa^(1/2) is drawn alone, and it and the mean are what they become. The mass of a
jet is pT (tr C)^(1/2) to second order in the angles, the response of a shower W over its energy.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from physgen.batch import Batch, Schema, Variable
from physgen.errors import RecipeError, suggest
from physgen.surrogates.flows.stack import CouplingOptions
from physgen.transforms.domains import to_domain
from physgen.transforms.quantile import Gaussianise

FLOW = CouplingOptions(n_layers=6, hidden=(64, 64))
"""Of the few moments; a small part of the time that points take."""

LEAST, TINY = 1e-12, 1e-300
"""What is added to the square of a width: this share of it, and a number that is not zero."""

STRETCH = 4.0
"""Points that would have to be spread by more keep their shape: of few, hardly weighted ones nearly
any would do."""

SHARPEST = 20.0
"""Largest ln q: moments that a set of few points does not have are constants."""

DISTINCT, LOOKED_AT = 0.5, 100_000
"""A column with a smaller share of different values lies on a grid; of how many points."""


class Moments(nn.Module):
    """q(W, m, L | n, c) of the points of a schema.

    Args:
        schema: of the sets.
        weight: name of the column of weights.
        n_condition: columns of c, mapped.

    Raises:
        RecipeError: there is no such column, or it can be negative, or there is no other one.

    >>> schema = Schema((5, 2), (Variable("x"), Variable("w", domain="non-negative")), masked=True)
    >>> moments = Moments(schema, "w", 0)
    >>> x = torch.tensor([[[0.0, 1.0], [4.0, 3.0]]])
    >>> moments.of(x, torch.ones(1, 2, dtype=torch.bool)).round(decimals=4)  # W, m, L
    tensor([[4.0000, 3.0000, 1.7321]], dtype=torch.float64)
    """

    on_grid: Tensor

    def __init__(self, schema: Schema, weight: str, n_condition: int) -> None:
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
        others = [i for i in range(len(names)) if i != self.column]
        self.moved = [i for i in others if _moves(schema.variables[i])]
        self.fixed = [i for i in others if not _moves(schema.variables[i])]
        self.items = schema.items
        self.register_buffer("on_grid", torch.zeros((), dtype=torch.bool))
        self.n_places, self.size = schema.shape[0], n_moments(schema)
        variables = tuple(Variable(f"moment_{i}") for i in range(self.size))
        self.transform = Gaussianise(Schema((self.size,), variables), atoms=0)
        self.flow = FLOW.build((self.size,), n_condition + 1)

    def of(self, x: Tensor, there: Tensor) -> Tensor:
        """Return (B, size) moments of points (B, N, F) where they are `there` (B, N), float64.

        They are W, the means and L of columns that can be moved, by rows, and the means and widths
        of the others.
        """
        w, share, moved, fixed = self._parts(x, there)
        mean, lower = _mean_and_lower(share, moved)
        centre = (share[..., None] * fixed).sum(1)
        width = (share[..., None] * (fixed - centre[:, None]).square()).sum(1).sqrt()
        rows, columns = torch.tril_indices(len(self.moved), len(self.moved))
        parts = [w.sum(1, keepdim=True), mean, lower[:, rows, columns], centre, width]
        return torch.cat(parts, 1)

    def fit(self, x: Tensor, there: Tensor, weight: Tensor | None) -> None:
        """Make each moment of training points normal, and see whether these lie on a grid."""
        some = there.any(1)  # The moments of nothing are no numbers that others may come near.
        x, there, weight = x[some], there[some], None if weight is None else weight[some]
        self.transform.fit(Batch(self.of(x, there), weight=weight))
        columns = [x[..., i][there][:LOOKED_AT].cpu().numpy() for i in self.moved]
        different = [len(np.unique(column)) / max(len(column), 1) for column in columns]
        self.on_grid.fill_(min(different, default=1.0) < DISTINCT)

    def mapped(self, moments: Tensor) -> Tensor:
        """Return moments (B, size) as normal numbers."""
        batch: Batch = self.transform(Batch(moments))[0]
        return batch.x

    def log_q(self, mapped: Tensor, condition: Tensor, number: Tensor) -> Tensor:
        """Return (B,) ln q of mapped moments (B, size) at mapped c (B, C) and n (B,); 0 of none."""
        log_q = self.flow.log_prob(mapped, self._given(condition, number)).clamp_max(SHARPEST)
        return torch.where(number > 0, log_q, 0.0)

    def draw(self, noise: Tensor, condition: Tensor, number: Tensor) -> Tensor:
        """Return mapped moments of standard normal noise (B, size)."""
        return self.flow.from_noise(noise, self._given(condition, number))

    def impose(self, x: Tensor, there: Tensor, mapped: Tensor) -> Tensor:
        """Return points (B, N, F), moved and sheared to have mapped moments (B, size).

        Fewer points than columns cannot have any widths. What that makes of columns is within the
        ranges of their variables.
        """
        wanted = self.transform.inverse(Batch(mapped.double())).x
        w, share, moved, _ = self._parts(x, there)
        n = len(self.moved)
        rows, columns = torch.tril_indices(n, n)
        lower = wanted.new_zeros(len(x), n, n)
        lower[:, rows, columns] = wanted[:, 1 + n : 1 + n + len(rows)]
        mean, found = _mean_and_lower(share, moved)
        one = torch.eye(n, dtype=w.dtype, device=w.device)
        # Through the inverse, since what is not resolved is left alone below.
        change = lower @ torch.linalg.solve_triangular(found, one.expand_as(found), upper=False)
        # Of all points, hardly weighted ones too; columns may have different units.
        width = (moved - mean[:, None]).square().where(there[..., None], 0.0).sum(1).sqrt() + TINY
        relative = change * width[:, None] / width[..., None]
        stretched = torch.linalg.matrix_norm(relative, 2) if n else w.new_zeros(len(w))
        change = torch.where((stretched <= STRETCH)[:, None, None], change, one)
        result, total = x.clone(), w.sum(1, keepdim=True)
        placed = wanted[:, None, 1 : 1 + n] + (moved - mean[:, None]) @ change.mT
        result[..., self.moved] = torch.where(self.on_grid, moved, placed).to(x)
        scaled = w * (wanted[:, :1].clamp_min(0) / total.clamp_min(TINY))
        result[..., self.column] = torch.where(total > 0, scaled, w).to(x)
        return torch.where(there[..., None], to_domain(result, self.items), x)

    def _parts(self, x: Tensor, there: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return w_i and w_i / W, 0 where no point is, columns that can be moved, and others."""
        x = torch.where(there[..., None], x, 0.0).double()
        w = x[..., self.column].clamp_min(0)
        share = w / w.sum(1, keepdim=True).clamp_min(TINY)
        return w, share, x[..., self.moved], x[..., self.fixed]

    def _given(self, condition: Tensor, number: Tensor) -> Tensor:
        return torch.cat([condition, number[:, None] / self.n_places], 1)


def n_moments(schema: Schema) -> int:
    """Return how many moments sets of a schema have, with one column of weights."""
    others = len(schema.variables) - 1
    moved = sum(map(_moves, schema.variables))
    return 1 + others + moved * (moved + 1) // 2 + others - moved


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
