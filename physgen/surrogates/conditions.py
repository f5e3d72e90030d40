"""Which conditions a surrogate was trained on: to draw from, and to refuse others."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from physgen.batch import Schema, Variable
from physgen.errors import DomainError

MARGIN = 0.05
"""By how much of their range the trained domain exceeds the data; by what share of their value, for
what is never negative."""


class ConditionPrior(nn.Module):
    """Remembers which conditions the training data had: to draw from, and to refuse others.

    Keeps `size` of them (with repetition), the range of each column, and which labels occurred: an
    integer column whose variable states `low` and `high` is a label.
    """

    values: Tensor
    low: Tensor
    high: Tensor
    labels: Tensor

    def __init__(self, schema: Schema, size: int = 4096) -> None:
        super().__init__()
        self.variables = schema.condition
        n_columns = len(schema.condition)
        self.register_buffer("values", torch.full((size, n_columns), float("nan")))
        self.register_buffer("low", torch.full((n_columns,), float("-inf")))
        self.register_buffer("high", torch.full((n_columns,), float("inf")))
        sizes = [_n_labels(variable) for variable in schema.condition]
        self.register_buffer("labels", torch.zeros(n_columns, max(sizes, default=0)).bool())

    def fit(self, condition: Tensor) -> None:
        """Store a resampling of the (N, C) conditions and their range.

        No sample reaches the ends of what it is drawn from: the trained domain goes `MARGIN`
        further than the data, but not beyond the stated ends of a variable's range.
        """
        generator = torch.Generator(device=condition.device).manual_seed(0)
        rows = torch.randint(
            len(condition), (len(self.values),), generator=generator, device=condition.device
        )
        self.values.copy_(condition[rows])
        self.low.copy_(condition.amin(0))
        self.high.copy_(condition.amax(0))
        for column, variable in enumerate(self.variables):
            self._widen(column)
            if _n_labels(variable):
                label = torch.unique(self._label(column, condition))
                if label.amin() < 0 or label.amax() >= _n_labels(variable):
                    raise DomainError(
                        f"condition {variable.name} runs from {self.low[column].item():g} to "
                        f"{self.high[column].item():g}, and is said to lie in [{variable.low:g}, "
                        f"{variable.high:g}]: mend the data, or what is said of them"
                    )
                self.labels[column, label] = True

    def draw(self, n: int, generator: torch.Generator) -> Tensor | None:
        """Return (n, C) drawn with replacement; `None` for an unconditional surrogate."""
        if not self.variables:
            return None
        if torch.isnan(self.values).any():
            raise DomainError(
                "this surrogate has not seen any conditions: pass `condition`, or train it first"
            )
        rows = torch.randint(len(self.values), (n,), generator=generator, device=self.values.device)
        return self.values[rows]

    def settle(self, condition: Tensor | None, n: int, generator: torch.Generator) -> Tensor | None:
        """Return the (n, C) conditions of `n` samples: those given, checked, or else drawn."""
        if condition is None:
            return self.draw(n, generator)
        self.check(condition)
        return condition

    def check(self, condition: Tensor, tolerance: float = 1e-6) -> None:
        """Raise `DomainError` naming the first row and variable outside the trained range."""
        if condition.ndim != 2 or condition.shape[1] != len(self.variables):
            names = ", ".join(f"{v.name} [{v.unit}]" for v in self.variables) or "none"
            raise DomainError(
                f"condition of shape {tuple(condition.shape)}: expected (n, "
                f"{len(self.variables)}), the columns being {names}"
            )
        slack = tolerance * torch.maximum(self.low.abs(), self.high.abs())
        # Written so that NaN, which compares false with everything, counts as outside.
        inside = (condition >= self.low - slack) & (condition <= self.high + slack)
        if not inside.all():
            row, column = (~inside).nonzero()[0].tolist()
            variable = self.variables[column]
            unit = "" if variable.unit == "1" else f" {variable.unit}"
            raise DomainError(
                f"condition {variable.name} = {condition[row, column].item():g}{unit} "
                f"(row {row}) is outside the trained domain "
                f"[{self.low[column].item():g}, {self.high[column].item():g}]{unit}; "
                "train on a range that covers it"
            )
        for column, variable in enumerate(self.variables):
            if _n_labels(variable) and self.labels[column].any():
                known = self.labels[column, self._label(column, condition)]
                known &= condition[:, column] == condition[:, column].round()
                if not known.all():
                    row = int((~known).nonzero()[0])
                    seen = (self.labels[column].nonzero()[:, 0] + int(variable.low or 0)).tolist()
                    raise DomainError(
                        f"condition {variable.name} = {condition[row, column].item():g} (row "
                        f"{row}) is not a label of the training data, which had {seen}"
                    )

    def _widen(self, column: int) -> None:
        """Let the domain of a real number go a little further than the data."""
        variable, low, high = self.variables[column], self.low[column], self.high[column]
        if variable.domain not in ("real", "non-negative"):
            return
        step = MARGIN * (high - low)
        wide = [low - step, high + step]
        if variable.domain == "non-negative":
            wide = [low / (1 + MARGIN), high * (1 + MARGIN)]
        # Data that lie beyond what is said of them are in the domain all the same.
        if variable.low is not None:
            wide[0] = wide[0].clamp_min(variable.low).minimum(low)
        if variable.high is not None:
            wide[1] = wide[1].clamp_max(variable.high).maximum(high)
        self.low[column], self.high[column] = wide

    def _label(self, column: int, condition: Tensor) -> Tensor:
        """Return (N,) positions of a column's labels, counted from the lowest possible one."""
        return condition[:, column].round().long() - int(self.variables[column].low or 0)


def _n_labels(variable: Variable) -> int:
    """How many labels a column may hold; 0 if it holds no labels."""
    if variable.domain != "integer" or variable.low is None or variable.high is None:
        return 0
    return int(variable.high) - int(variable.low) + 1
