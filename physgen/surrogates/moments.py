r"""Weighted moments of sets of points, which are drawn before the points.

Points that have a weight w_i >= 0, the pT of particles or the energy of points, have as a set

    W = \sum_i w_i,   m_a = \sum_i w_i x_ia / W,   C_ab = \sum_i w_i (x_ia - m_a)(x_ib - m_b) / W,

with a and b the other columns. A model of single points gets these only as well as it gets the sums
of many; a spline flow learns q(W, m, L | n, c) of these few numbers directly, C = L L^T with L
lower triangular. The points are drawn given them, and then scaled and sheared to have them. Columns
of integers cannot be moved: of these the width C_aa^(1/2) is drawn alone, and it and the mean are
what they become. The mass of a jet is pT (tr C)^(1/2) to second order in the angles, the response
of a shower W over its energy.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from physgen.batch import Batch, Schema, Variable
from physgen.errors import RecipeError, suggest
from physgen.surrogates.flows.stack import CouplingOptions
from physgen.transforms.quantile import Gaussianise

FLOW = CouplingOptions(n_layers=6, hidden=(64, 64))
"""Of the few moments; a small part of the time that points take."""

LEAST = 1e-12
"""Of a sum of weights, or a squared width, that is divided by."""


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
        whole = [schema.variables[i].domain == "integer" for i in others]
        self.moved = [i for i, fixed in zip(others, whole, strict=True) if not fixed]
        self.fixed = [i for i, fixed in zip(others, whole, strict=True) if fixed]
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

    def fit(self, moments: Tensor, weight: Tensor | None) -> None:
        """Make each moment of the training data a normal number."""
        self.transform.fit(Batch(moments, weight=weight))

    def mapped(self, moments: Tensor) -> Tensor:
        """Return moments (B, size) as normal numbers."""
        batch: Batch = self.transform(Batch(moments))[0]
        return batch.x

    def log_q(self, mapped: Tensor, condition: Tensor, number: Tensor) -> Tensor:
        """Return (B,) ln q of mapped moments (B, size) at mapped c (B, C) and n (B,)."""
        return self.flow.log_prob(mapped, self._given(condition, number))

    def draw(self, noise: Tensor, condition: Tensor, number: Tensor) -> Tensor:
        """Return mapped moments of standard normal noise (B, size)."""
        return self.flow.from_noise(noise, self._given(condition, number))

    def impose(self, x: Tensor, there: Tensor, mapped: Tensor) -> Tensor:
        """Return points (B, N, F), moved and sheared to have mapped moments (B, size).

        Fewer points than columns cannot have any widths: these keep the directions that they lack.
        """
        wanted = self.transform.inverse(Batch(mapped.double())).x
        w, share, moved, _ = self._parts(x, there)
        n = len(self.moved)
        rows, columns = torch.tril_indices(n, n)
        lower = wanted.new_zeros(len(x), n, n)
        lower[:, rows, columns] = wanted[:, 1 + n : 1 + n + len(rows)]
        mean, found = _mean_and_lower(share, moved)
        white = torch.linalg.solve_triangular(found, (moved - mean[:, None]).mT, upper=False)
        result = x.clone()
        result[..., self.moved] = (wanted[:, None, 1 : 1 + n] + (lower @ white).mT).to(x)
        total = w.sum(1, keepdim=True).clamp_min(LEAST)
        result[..., self.column] = (w * (wanted[:, :1].clamp_min(0) / total)).to(x)
        return torch.where(there[..., None], result, x)

    def _parts(self, x: Tensor, there: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return w_i and w_i / W, 0 where no point is, columns that can be moved, and others."""
        x = torch.where(there[..., None], x, 0.0).double()
        w = x[..., self.column].clamp_min(0)
        share = w / w.sum(1, keepdim=True).clamp_min(LEAST)
        return w, share, x[..., self.moved], x[..., self.fixed]

    def _given(self, condition: Tensor, number: Tensor) -> Tensor:
        return torch.cat([condition, number[:, None] / self.n_places], 1)


def n_moments(schema: Schema) -> int:
    """Return how many moments sets of a schema have, with one column of weights."""
    others = len(schema.variables) - 1
    fixed = sum(variable.domain == "integer" for variable in schema.variables)
    moved = others - fixed
    return 1 + others + moved * (moved + 1) // 2 + fixed


def _mean_and_lower(share: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return means (B, M) and L (B, M, M) of columns (B, N, M) of points of shares (B, N)."""
    mean = (share[..., None] * x).sum(1)
    away = x - mean[:, None]
    covariance = (share[..., None] * away).mT @ away
    size = covariance.diagonal(dim1=1, dim2=2).sum(1) + LEAST
    # Of few points it is singular.
    least = LEAST * size[:, None, None] * torch.eye(x.shape[2], dtype=x.dtype, device=x.device)
    return mean, torch.linalg.cholesky(covariance + least)
