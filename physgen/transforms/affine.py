"""Standardisation: y = (t(x) - mean) / deviation, with t the identity or the logarithm.

log|det dy/dx| = sum over entries of [-log deviation, and -log x where t is the logarithm].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError, RecipeError, suggest
from physgen.transforms.base import Transform


class Standardise(Transform):
    """Bring every variable, and every column of the condition, to mean 0 and deviation 1.

    A schema with one variable (a lattice, a voxel grid) has one mean and one deviation for all
    entries; a table has one a column. Event weights count.

    Args:
        schema: of the samples.
        log: names of variables and conditions whose logarithm is taken first; they must be
            positive (energies, momenta).

    Raises:
        RecipeError: for a name in `log` that the schema has not.
        DomainError: while fitting, for a value of a logarithmic column that is not positive.

    >>> from physgen.batch import Variable
    >>> transform = Standardise(Schema((1,), (Variable("x"),)))
    >>> batch = Batch(torch.tensor([[1.0], [3.0]]))
    >>> transform.fit(batch)
    >>> transform(batch)[0].x.tolist()
    [[-1.0], [1.0]]
    """

    wide = True

    def __init__(self, schema: Schema, *, log: tuple[str, ...] = ()) -> None:
        super().__init__()
        known = [*schema.names, *(variable.name for variable in schema.condition)]
        for name in log:
            if name not in known:
                raise RecipeError(
                    f"transform standardise: no variable {name!r}{suggest(name, known)}"
                )
        self._variables, self._conditions, self._log = schema.variables, schema.condition, log
        self._size = 1
        if len(schema.variables) == 1:
            for length in schema.shape:
                self._size *= length
        for prefix, variables in (("x", schema.variables), ("condition", schema.condition)):
            self.register_buffer(f"{prefix}_mean", torch.zeros(len(variables), dtype=torch.double))
            self.register_buffer(f"{prefix}_scale", torch.ones(len(variables), dtype=torch.double))
            chosen = torch.tensor(
                [variable.name in log for variable in variables], dtype=torch.bool
            )
            self.register_buffer(f"{prefix}_log", chosen)
        self.x_mean: Tensor
        self.x_scale: Tensor
        self.x_log: Tensor
        self.condition_mean: Tensor
        self.condition_scale: Tensor
        self.condition_log: Tensor

    def covers(self, variable: Variable) -> bool:
        """Logarithms cover positive numbers."""
        low, high = variable.range
        positive = variable.name in self._log and low in (0.0, -math.inf) and math.isinf(high)
        return positive or super().covers(variable)

    def fit(self, batch: Batch) -> None:
        """Take weighted means and deviations; a constant column keeps its scale."""
        weight = batch.weight.clamp_min(0) if batch.weight is not None else None
        if weight is None:
            weight = torch.ones(len(batch), dtype=torch.double, device=batch.x.device)
        x = batch.x.reshape(-1, len(self._variables)).double()
        rows = weight.double().repeat_interleave(len(x) // len(batch))
        x = _logarithm(x, self.x_log, self._variables)
        self.x_mean.copy_(_mean(x, rows))
        self.x_scale.copy_(_scale(x, rows))
        if batch.condition is not None:
            c = _logarithm(batch.condition.double(), self.condition_log, self._conditions)
            self.condition_mean.copy_(_mean(c, weight.double()))
            self.condition_scale.copy_(_scale(c, weight.double()))

    def forward(
        self, batch: Batch, generator: torch.Generator | None = None
    ) -> tuple[Batch, Tensor | None]:
        """Map x and condition; the log-determinant is that of x."""
        x = batch.x.double()
        y = torch.where(self.x_log, x.clamp_min(torch.finfo(x.dtype).tiny).log(), x)
        # The slope of the logarithm is 1/x = exp(-y); columns without it have slope 1.
        slope = torch.where(self.x_log, -y, torch.zeros_like(y)).flatten(1).sum(-1)
        log_det = slope - self._size * self.x_scale.log().sum()
        condition = batch.condition
        if condition is not None:
            condition = self.map_condition(condition)
        return batch.replace(x=(y - self.x_mean) / self.x_scale, condition=condition), log_det

    def inverse(self, batch: Batch) -> Batch:
        """Map x and condition back."""
        y = batch.x * self.x_scale + self.x_mean
        condition = batch.condition
        if condition is not None:
            condition = condition * self.condition_scale + self.condition_mean
            condition = _exponential(condition, self.condition_log)
        return batch.replace(x=_exponential(y, self.x_log), condition=condition)

    def map_condition(self, condition: Tensor) -> Tensor:
        """Map conditions (B, C) as `forward` does."""
        condition = condition.double()
        tiny = torch.finfo(condition.dtype).tiny
        mapped = torch.where(self.condition_log, condition.clamp_min(tiny).log(), condition)
        return (mapped - self.condition_mean) / self.condition_scale


def _logarithm(x: Tensor, log: Tensor, variables: tuple[Variable, ...]) -> Tensor:
    bad = (log & ~(x > 0)).nonzero()
    if len(bad):
        row, column = bad[0].tolist()
        raise DomainError(
            f"{variables[column].name} = {x[row, column].item():g} (row {row}): its logarithm is "
            "asked for (`log` of transform standardise), so it must be positive"
        )
    return torch.where(log, x.log(), x)


def _exponential(y: Tensor, log: Tensor) -> Tensor:
    # Not of all columns: exp overflows beyond 709, and its derivative would be NaN times 0.
    return torch.where(log, torch.where(log, y, 0.0).exp(), y)


def _mean(x: Tensor, weight: Tensor) -> Tensor:
    return (weight @ x) / weight.sum()


def _scale(x: Tensor, weight: Tensor) -> Tensor:
    deviation = (weight @ (x - _mean(x, weight)).square() / weight.sum()).sqrt()
    return torch.where(deviation > 0, deviation, torch.ones_like(deviation))
