r"""Weighted moments of sets of points, which are drawn before the points.

Points that have a weight w_i >= 0, the pT of particles or the energy of points, have as a set

    W = \sum_i w_i,   m_a = \sum_i w_i x_ia / W,   s_a^2 = \sum_i w_i (x_ia - m_a)^2 / W,

for every other column a. A model of single points gets these only as well as it gets the sums of
many; a spline flow learns q(W, m, s | n, c) of these few numbers directly. The points are drawn to
them, and then moved and scaled to have them, but for columns of integers. The mass of a jet is
pT (s_eta^2 + s_phi^2)^(1/2) to second order in the angles, the response of a shower W over its
energy.
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
    """q(W, m, s | n, c) of the points of a schema.

    Args:
        schema: of the sets.
        weight: name of the column of weights.
        n_condition: columns of c, mapped.

    Raises:
        RecipeError: there is no such column, or it can be negative, or there is no other one.

    >>> schema = Schema((5, 2), (Variable("x"), Variable("w", domain="non-negative")), masked=True)
    >>> moments = Moments(schema, "w", 0)
    >>> x = torch.tensor([[[0.0, 1.0], [4.0, 3.0]]])
    >>> moments.of(x, torch.ones(1, 2, dtype=torch.bool))[0].tolist()  # W, m, s
    [4.0, 3.0, 1.7320508075688772]
    """

    def __init__(self, schema: Schema, weight: str, n_condition: int) -> None:
        super().__init__()
        names = [variable.name for variable in schema.variables]
        if weight not in names:
            raise RecipeError(
                f"surrogate.weighted_by: no column is called {weight!r}{suggest(weight, names)}"
            )
        self.column = names.index(weight)
        if schema.variables[self.column].domain != "non-negative" or len(names) < 2:
            raise RecipeError(
                f"surrogate.weighted_by: {weight} must be non-negative, beside another column"
            )
        self.others = [i for i in range(len(names)) if i != self.column]
        # What is moved: all but integers, which would be none any more.
        self.moved = [schema.variables[i].domain in ("real", "angle") for i in self.others]
        self.n_places, self.size = schema.shape[0], 1 + 2 * len(self.others)
        variables = tuple(Variable(f"moment_{i}") for i in range(self.size))
        self.transform = Gaussianise(Schema((self.size,), variables), atoms=0)
        self.flow = FLOW.build((self.size,), n_condition + 1)

    def of(self, x: Tensor, there: Tensor) -> Tensor:
        """Return (B, size) moments of points (B, N, F) where they are `there` (B, N), float64."""
        w, rest = self._parts(x, there)
        total = w.sum(1)
        mean = (w[..., None] * rest).sum(1) / total.clamp_min(LEAST)[:, None]
        square = (w[..., None] * (rest - mean[:, None]).square()).sum(1)
        width = (square / total.clamp_min(LEAST)[:, None]).sqrt()
        return torch.cat([total[:, None], mean, width], 1)

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
        """Return points (B, N, F), moved and scaled to have mapped moments (B, size).

        A width that is 0 remains so.
        """
        wanted = self.transform.inverse(Batch(mapped.double())).x
        found = self.of(x, there)
        n = len(self.others)
        w, rest = self._parts(x, there)
        scale = wanted[:, :1].clamp_min(0) / found[:, :1].clamp_min(LEAST)
        mean, width = (found[:, 1 + i : 1 + i + n][:, None] for i in (0, n))
        to_mean, to_width = (wanted[:, 1 + i : 1 + i + n][:, None] for i in (0, n))
        stretch = torch.where(width.square() > LEAST, to_width / width.clamp_min(LEAST), 1.0)
        moved = to_mean + (rest - mean) * stretch.clamp_min(0)
        kept = torch.tensor(self.moved, device=x.device)
        result = torch.empty_like(x)
        result[..., self.others] = torch.where(kept, moved, rest).to(x)
        result[..., self.column] = (w * scale).to(x)
        return torch.where(there[..., None], result, x)

    def _parts(self, x: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights (B, N), 0 where no point is, and the other columns."""
        x = torch.where(there[..., None], x, 0.0).double()
        return x[..., self.column].clamp_min(0), x[..., self.others]

    def _given(self, condition: Tensor, number: Tensor) -> Tensor:
        return torch.cat([condition, number[:, None] / self.n_places], 1)
