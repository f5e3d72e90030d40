"""Columns that are sorted stay sorted: leading and subleading momenta.

A smaller column s below a larger one l, both above the limit a of s, becomes

    y = a + (s - a) / (l - s)    in [a, infinity),

whose inverse s = a + (l - a) (y - a) / (1 + y - a) lies between a and l whatever y is drawn.
"""

from __future__ import annotations

import torch
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import DomainError, RecipeError, suggest
from physgen.systems.presence import presence_rules
from physgen.transforms.base import Transform


class Ordered(Transform):
    """Map the smaller of two columns to how far it is on its way to the larger one.

    Where the smaller one is absent it stays as it is.

    Args:
        schema: of a table, one variable a column; `low` of a smaller column is its limit (0 if it
            has none), and must be a limit of the larger one too.
        pairs: names (larger, smaller), in an order in which a larger column is not changed before.
            A pair that the table has neither of is left out, so that one recipe serves other
            tables too.

    Raises:
        RecipeError: the other name of a pair is no column, or a column would be changed twice.
        DomainError: while fitting, for a row that is not in order.
    """

    def __init__(self, schema: Schema, *, pairs: tuple[tuple[str, str], ...]) -> None:
        super().__init__()
        pairs = tuple(pair for pair in pairs if set(pair) & set(schema.names))
        for name in (name for pair in pairs for name in pair):
            if name not in schema.names:
                raise RecipeError(
                    f"transform ordered: no column {name!r}{suggest(name, schema.names)}"
                )
        smaller = [pair[1] for pair in pairs]
        for i, (larger, name) in enumerate(pairs):
            if name in smaller[:i] or larger in smaller:
                raise RecipeError(
                    f"transform ordered: {larger!r} or {name!r} is the smaller one of another pair"
                )
        self._names = pairs
        self._pairs = [(schema.names.index(a), schema.names.index(b)) for a, b in pairs]
        self._low = [schema.variables[s].low or 0.0 for _, s in self._pairs]
        rules = presence_rules(schema)
        self._rules = [rules[s] for _, s in self._pairs]

    def fit(self, batch: Batch) -> None:
        """Check the order."""
        for i, (larger, smaller) in enumerate(self._pairs):
            x = batch.x
            wrong = (x[:, smaller] > x[:, larger]) | (x[:, smaller] < self._low[i])
            wrong &= self._present(i, x)
            if wrong.any():
                row = int(wrong.nonzero()[0])
                a, b = self._names[i]
                raise DomainError(
                    f"transform ordered: row {row} has {b} = {x[row, smaller].item():g}, which "
                    f"is not between {self._low[i]:g} and {a} = {x[row, larger].item():g}; leave "
                    "the pair out"
                )

    def forward(
        self, batch: Batch, generator: torch.Generator | None = None
    ) -> tuple[Batch, Tensor | None]:
        """Map the smaller columns."""
        x, log_det = batch.x.clone(), batch.x.new_zeros(len(batch))
        for i, (larger, smaller) in enumerate(self._pairs):
            low, top, present = self._low[i], x[:, larger], self._present(i, batch.x)
            # Equal values would be infinitely far on their way.
            gap = (top - x[:, smaller]).clamp_min(torch.finfo(x.dtype).eps * 1e2).where(present, 1)
            y = low + (x[:, smaller] - low) / gap
            log_det = log_det + ((top - low).where(present, 1) / gap.square()).log()
            x[:, smaller] = y.where(present, x[:, smaller])
        return batch.replace(x=x), log_det

    def inverse(self, batch: Batch) -> Batch:
        """Map back; the order holds."""
        x = batch.x.clone()
        for i, (larger, smaller) in enumerate(self._pairs):
            odds = (x[:, smaller] - self._low[i]).clamp_min(0)
            below = self._low[i] + (x[:, larger] - self._low[i]) * odds / (1 + odds)
            below = below.minimum(x[:, larger])
            x[:, smaller] = below.where(self._present(i, x), x[:, smaller])
        return batch.replace(x=x)

    def _present(self, i: int, x: Tensor) -> Tensor:
        rule = self._rules[i]
        if rule is None:
            return torch.ones(len(x), dtype=torch.bool, device=x.device)
        return rule(x.unbind(-1))
