r"""Columns with bounds become real numbers, all of them: no mass is left beyond the bounds.

With both bounds, y = \Phi^{-1}((x - low) / (high - low)): a uniform column is normal, so that a
flow that is the identity has no edge to learn. With one, y = \ln(x - low), or \ln(high - x).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError, RecipeError
from physgen.transforms.base import Transform

EDGE = 1e-7
"""Least distance from a bound in units of the range: single precision tells it from the bound."""


class Bounded(Transform):
    """Map the open range of every variable to the real numbers; `standardise` may stand behind.

    Args:
        schema: of the samples; ranges follow from `low`, `high` and the domain of the variables,
            and those without any stay as they are.

    Raises:
        RecipeError: a variable is discrete.
        DomainError: while fitting, for a value on its only bound, or beyond one.

    >>> from physgen.batch import Variable
    >>> transform = Bounded(Schema((1,), (Variable("E", "GeV", low=0.0),)))
    >>> batch = Batch(torch.tensor([[0.5], [2.0]]))
    >>> transform.fit(batch)
    >>> torch.allclose(transform.inverse(transform(batch)[0]).x, batch.x.double())
    True
    """

    wide = True

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        for variable in schema.variables:
            if variable.domain in ("integer", "binary", "spin"):
                raise RecipeError(
                    f"transform bounded: {variable.name} is {variable.domain}, not a real number; "
                    "take gaussianise for tables and points (and for these the surrogate "
                    "point-diffusion), dequantise for images and lattices"
                )
        self._variables = schema.variables
        low, high = torch.tensor([v.range for v in schema.variables], dtype=torch.double).T
        # Of what is not bounded no infinity may reach a gradient.
        numbers = {
            "below": low.isfinite(),
            "above": high.isfinite(),
            "low": torch.where(low.isfinite(), low, 0.0),
            "high": torch.where(high.isfinite(), high, 0.0),
        }
        for name, value in numbers.items():
            self.register_buffer(name, value, persistent=False)
        self.below: Tensor
        self.above: Tensor
        self.low: Tensor
        self.high: Tensor

    def covers(self, variable: Variable) -> bool:
        """Every range is mapped onto the real numbers."""
        return True

    def fit(self, batch: Batch) -> None:
        """Check that all values are within their ranges."""
        x = batch.x.double()
        both = self.below & self.above
        # Bounds may be written with fewer digits than the file has; a lone one must not be met.
        slack = torch.where(both, 1e-6 * (self.high - self.low), -torch.finfo(x.dtype).tiny)
        outside = self.below & (x < self.low - slack) | self.above & (x > self.high + slack)
        if outside.any():
            place = tuple(outside.nonzero()[0].tolist())
            variable = self._variables[place[-1] if len(self._variables) > 1 else 0]
            raise DomainError(
                f"transform bounded: {variable.name} = {x[place].item():g} (row {place[0]}) is not "
                f"inside its range {variable.range[0]:g} to {variable.range[1]:g}; take "
                "gaussianise for values that repeat at a bound"
            )

    def forward(
        self, batch: Batch, generator: torch.Generator | None = None
    ) -> tuple[Batch, Tensor | None]:
        """Map to real numbers."""
        x, (both, one, width) = batch.x.double(), self._kinds()
        u = torch.where(both, (x - self.low) / width, 0.5).clamp(EDGE, 1 - EDGE)
        normal = torch.special.ndtri(u)
        gap = torch.where(self.below, x - self.low, self.high - x)
        log = torch.where(one, gap, 1.0).clamp_min(torch.finfo(x.dtype).tiny).log()
        slope = 0.5 * normal.square() + 0.5 * math.log(2 * math.pi) - width.log()
        slope = torch.where(both, slope, torch.where(one, -log, 0.0))
        y = torch.where(both, normal, torch.where(one, log, x))
        return batch.replace(x=y), slope.flatten(1).sum(1)

    def inverse(self, batch: Batch) -> Batch:
        """Map back, inside the range."""
        y, (both, one, width) = batch.x.double(), self._kinds()
        between = self.low + torch.special.ndtr(y).clamp(EDGE, 1 - EDGE) * width
        gap = torch.where(one, y, 0.0).exp()
        nearest = torch.where(self.below, self.low + gap, self.high - gap)
        return batch.replace(x=torch.where(both, between, torch.where(one, nearest, y)))

    def _kinds(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return which variables have both bounds, which have one, and the ranges of the former."""
        both = self.below & self.above
        return both, self.below ^ self.above, torch.where(both, self.high - self.low, 1.0)
