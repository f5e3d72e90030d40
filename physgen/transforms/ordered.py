"""Columns that are sorted stay sorted: leading and subleading momenta.

A smaller column s below a larger one l, both above the limit a of s, becomes

    y = a + (s - a) / (l - s)    in [a, infinity),

whose inverse s = a + (l - a) (y - a) / (1 + y - a) lies between a and l whatever y is drawn. In a
chain of columns, each is mapped by what the one above it was in the data, and mapped back when that
one has been: the Jacobian is triangular. What comes back is put on the grid that the smaller column
is on (see `physgen.grids`): momenta that were rounded to 0.01 GeV are so again.
"""

from __future__ import annotations

import re
from dataclasses import astuple

import numpy as np
import torch
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import DomainError, RecipeError, suggest
from physgen.grids import Grid, grid_of, nearest
from physgen.systems.presence import presence_rules
from physgen.transforms.base import Transform


class Ordered(Transform):
    """Map the smaller of two columns to how far it is on its way to the larger one.

    Where the smaller one is absent it stays as it is.

    Args:
        schema: of a table, one variable a column; `low` of a smaller column is its limit (0 if it
            has none), and must be a limit of the larger one too.
        pairs: names (larger, smaller), a larger one first where it is the smaller of another pair.
            `None` takes the columns whose names differ by one in a number they hold, such as pt[0]
            and pt[1] or pT_jet1 and pT_jet2, as far as all rows fitted on are in that order.

    Raises:
        RecipeError: a pair names no column, or a column would be changed twice.
        DomainError: while fitting, for a row that is not in the order asked for.

    >>> from physgen.batch import Variable
    >>> schema = Schema((2,), (Variable("pt1", low=0.0), Variable("pt2", low=0.0)))
    >>> transform = Ordered(schema, pairs=(("pt1", "pt2"),))
    >>> batch = Batch(torch.tensor([[4.0, 1.0], [3.0, 2.0]]))
    >>> transform.fit(batch)
    >>> torch.allclose(transform.inverse(transform(batch)[0]).x, batch.x)
    True
    """

    mixes = True
    wide = True

    active: Tensor
    grids: Tensor

    def __init__(self, schema: Schema, *, pairs: tuple[tuple[str, str], ...] | None = None) -> None:
        super().__init__()
        self._found = pairs is None
        pairs = numbered(schema) if pairs is None else pairs
        for name in (name for pair in pairs for name in pair):
            if name not in schema.names:
                raise RecipeError(
                    f"transform ordered: no column {name!r}{suggest(name, schema.names)}"
                )
        smaller = [pair[1] for pair in pairs]
        for i, (larger, name) in enumerate(pairs):
            if name in smaller[:i] or larger in smaller[i:]:
                raise RecipeError(
                    f"transform ordered: {larger!r} or {name!r} is the smaller one of another "
                    "pair; name each column once as the smaller one, and larger pairs first"
                )
        self._names = pairs
        self._pairs = [(schema.names.index(a), schema.names.index(b)) for a, b in pairs]
        self._low = [schema.variables[s].low or 0.0 for _, s in self._pairs]
        rules = presence_rules(schema)
        self._rules = [rules[s] for _, s in self._pairs]
        self.register_buffer("active", torch.full((len(pairs),), not self._found))
        # Of step 0 where there is none.
        self.register_buffer("grids", torch.zeros(len(pairs), 3, dtype=torch.double))

    def fit(self, batch: Batch) -> None:
        """Check the order of the pairs asked for, or find those that are in order."""
        x = batch.x
        for i, (larger, smaller) in enumerate(self._pairs):
            wrong = (x[:, smaller] > x[:, larger]) | (x[:, smaller] < self._low[i])
            wrong &= self._present(i, x)
            if self._found:
                # Ties would be infinitely far on their way; a few are rounding, many are not.
                ties = (x[:, smaller] == x[:, larger]) & self._present(i, x)
                self.active[i] = not wrong.any() and 1000 * ties.sum() < len(x)
            elif wrong.any():
                row = int(wrong.nonzero()[0])
                a, b = self._names[i]
                raise DomainError(
                    f"transform ordered: row {row} has {b} = {x[row, smaller].item():g}, which "
                    f"is not between {self._low[i]:g} and {a} = {x[row, larger].item():g}; leave "
                    "the pair out"
                )
            held = x[self._present(i, x), smaller].double().cpu().numpy()
            grid = grid_of(*np.unique(held, return_counts=True)) or Grid(step=0.0)
            self.grids[i] = torch.tensor(astuple(grid), dtype=torch.double)

    def forward(
        self, batch: Batch, generator: torch.Generator | None = None
    ) -> tuple[Batch, Tensor | None]:
        """Map the smaller columns."""
        old, x = batch.x, batch.x.clone()
        log_det = x.new_zeros(len(x))
        for i, (larger, smaller) in enumerate(self._pairs):
            low, top, mapped = self._low[i], old[:, larger], self._mapped(i, old)
            # Equal values would be infinitely far on their way.
            gap = (top - old[:, smaller]).clamp_min(torch.finfo(x.dtype).eps * 1e2).where(mapped, 1)
            y = low + (old[:, smaller] - low) / gap
            log_det = log_det + ((top - low).where(mapped, 1) / gap.square()).log()
            x[:, smaller] = y.where(mapped, x[:, smaller])
        return batch.replace(x=x), log_det

    def inverse(self, batch: Batch) -> Batch:
        """Map back; the order holds."""
        x = batch.x.clone()
        for i, (larger, smaller) in enumerate(self._pairs):
            odds = (x[:, smaller] - self._low[i]).clamp_min(0)
            below = self._low[i] + (x[:, larger] - self._low[i]) * odds / (1 + odds)
            # Chosen by value, not by a branch, which no exporter could trace.
            offset, step, divisor = self.grids[i]
            on_grid = step > 0
            rounded = nearest(below, offset, step.where(on_grid, 1), divisor.where(on_grid, 1))
            below = rounded.where(on_grid, below)
            below = below.minimum(x[:, larger])
            x[:, smaller] = below.where(self._mapped(i, x), x[:, smaller])
        return batch.replace(x=x)

    def _mapped(self, i: int, x: Tensor) -> Tensor:
        return self._present(i, x) & self.active[i]

    def _present(self, i: int, x: Tensor) -> Tensor:
        rule = self._rules[i]
        if rule is None:
            return torch.ones_like(x[:, 0], dtype=torch.bool)
        return rule(x.unbind(-1))


def numbered(schema: Schema) -> tuple[tuple[str, str], ...]:
    """Return pairs of real columns of one unit whose names differ by one in a number they hold."""
    real = {v.name: v.unit for v in schema.variables if v.domain in ("real", "non-negative")}
    pairs: dict[str, str] = {}
    for name, unit in real.items():
        for number in re.finditer(r"\d+", name):
            following = f"{name[: number.start()]}{int(number[0]) + 1}{name[number.end() :]}"
            if real.get(following) == unit:
                pairs.setdefault(following, name)
    # A column stands as the smaller one before it does as the larger one of the next pair.
    chains = sorted(pairs.items(), key=lambda pair: [int(n) for n in re.findall(r"\d+", pair[0])])
    return tuple((larger, smaller) for smaller, larger in chains)
