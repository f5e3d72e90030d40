r"""Preprocessing of images and lattices: ranges, levels, the unit interval, labels.

`Rescale`: y = 2 (x - low) / (high - low) - 1.

`Dequantise` (Theis, van den Oord & Bethge, arXiv 1511.01844): x is one of K levels, and with its
number k and uniform noise u, y = (k + u) / K lies in (0, 1). The noise has density K in y, so that
by Jensen's inequality log P(x) >= E[log q(y)] - N log K for N entries.

`Logit` (Dinh et al., arXiv 1605.08803): y = log s - log(1 - s) with s = \alpha + (1 - 2 \alpha) x,
log|dy/dx| = log(1 - 2 \alpha) - log s - log(1 - s).

`OneHot`: a label among K becomes K columns, of which one is 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError, RecipeError
from physgen.transforms.base import Transform

_RANGES = {"binary": (0.0, 1.0), "spin": (-1.0, 1.0)}
_DISCRETE = ("binary", "spin", "integer")


class Rescale(Transform):
    """Map the range of every variable to [-1, 1].

    The inverse clips into the range, and rounds to spins, binaries and integers. So there is no
    exact density, but `bound` is known where nothing is rounded. Real columns of tables, of which
    none should lie at the ends of its range, are refused.

    Args:
        schema: of the samples; `low` and `high` of the variables are obeyed.

    Raises:
        RecipeError: a variable has no range, or is a real column of a table.
        DomainError: while fitting, for a value out of its range or between its levels.

    >>> from physgen.batch import Variable
    >>> transform = Rescale(Schema((1, 2), (Variable("grey", low=0.0, high=255.0),)))
    >>> transform(Batch(torch.tensor([[[0.0, 255.0]]])))[0].x.tolist()
    [[[-1.0, 1.0]]]
    """

    exact = False

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        for variable in schema.variables:
            if len(schema.variables) > 1 and variable.domain not in _DISCRETE:
                raise RecipeError(
                    f"transform rescale: column {variable.name} is a real number, of which rows "
                    "would be clipped to the ends of its range; take bounded, or gaussianise"
                )
        self._shape, self._variables = schema.shape, schema.variables
        ranges = torch.tensor([_range(v, "rescale") for v in schema.variables]).T
        steps = [_step(v) for v in schema.variables]
        self._rounds = any(steps)
        self.register_buffer("low", ranges[0].contiguous(), persistent=False)
        self.register_buffer("high", ranges[1].contiguous(), persistent=False)
        self.register_buffer("steps", torch.tensor(steps), persistent=False)
        self.low: Tensor
        self.high: Tensor
        self.steps: Tensor

    def fit(self, batch: Batch) -> None:
        """Check that all values are in range, and those of discrete variables on their levels."""
        _check_range(batch.x, self.low, self.high, self._variables, "rescale")
        levels = (batch.x - self.low) / torch.where(self.steps > 0, self.steps, torch.inf)
        _refuse(
            levels != levels.round(),
            batch.x,
            "between the levels that transform rescale rounds to; behind dequantise, standardise",
        )

    def forward(
        self, batch: Batch, generator: torch.Generator | None = None
    ) -> tuple[Batch, Tensor | None]:
        """Map to [-1, 1]."""
        return batch.replace(x=2 * (batch.x - self.low) / (self.high - self.low) - 1), None

    def bound(self, batch: Batch, generator: torch.Generator | None = None) -> tuple[Batch, Tensor]:
        """Map as `forward` does; return also the log-determinant of what is not clipped."""
        mapped, _ = self(batch)
        if self._rounds:
            return super().bound(batch, generator)
        log_det = (2 / (self.high - self.low)).log().expand(self._shape).sum()
        return mapped, log_det.to(mapped.x).expand(len(batch))

    def inverse(self, batch: Batch) -> Batch:
        """Map back, into the range."""
        x = self.low + (batch.x + 1) / 2 * (self.high - self.low)
        x = x.maximum(self.low).minimum(self.high)
        step = torch.where(self.steps > 0, self.steps, torch.ones_like(self.steps))
        level = self.low + ((x - self.low) / step).round() * step
        return batch.replace(x=torch.where(self.steps > 0, level, x))


class Dequantise(Transform):
    """Spread each of K levels of a variable over an interval of length 1 / K within (0, 1).

    The inverse returns the levels exactly. There is no exact density, but `bound` is known.

    Args:
        schema: of samples with one variable.
        levels: K, evenly spaced from the variable's `low` to its `high`; needed for real variables
            only (17 for scikit-learn's digits, 256 for MNIST).

    Raises:
        RecipeError: several variables, no range, or an unknown number of levels.
        DomainError: while fitting, for a value that is no level.

    >>> from physgen.batch import Variable
    >>> transform = Dequantise(Schema((2,), (Variable("spin", domain="spin"),)))
    >>> levels = Batch(torch.tensor([[-1.0, 1.0]]))
    >>> torch.equal(transform.inverse(transform(levels)[0]).x, levels.x)
    True
    """

    exact = False

    def __init__(self, schema: Schema, *, levels: int | None = None) -> None:
        super().__init__()
        if len(schema.variables) > 1:
            raise RecipeError("transform dequantise works on images, not on tables of columns")
        self._variable = schema.variables[0]
        self._low, self._high = _range(self._variable, "dequantise")
        step, width = _step(self._variable), self._high - self._low
        self.levels = round(width / step) + 1 if levels is None and step else levels or 0
        if self.levels < 2:
            raise RecipeError(
                f"transform dequantise: {self._variable.name} is {self._variable.domain}: say "
                "how many `levels` it has, at least 2 (17 for scikit-learn's digits, 256 for MNIST)"
            )
        self._size = math.prod(schema.shape)

    def fit(self, batch: Batch) -> None:
        """Check that all values are levels."""
        scaled = self._scaled(batch.x)
        off = ((scaled - scaled.round()).abs() > 1e-3) | (scaled.round() != self._numbers(scaled))
        problem = (
            f"none of the {self.levels} levels of transform dequantise; set `levels` to those of "
            "your images, and counts of a binomial likelihood to one less"
        )
        if ((255 * batch.x - (255 * batch.x).round()).abs() < 1e-3).all():
            problem += ": they are bytes: transform.0.levels=256 surrogate.counts=255"
        _refuse(off, batch.x, problem)

    def forward(
        self, batch: Batch, generator: torch.Generator | None = None
    ) -> tuple[Batch, Tensor | None]:
        """Map to (0, 1), with noise."""
        k = self._numbers(self._scaled(batch.x))
        noise = torch.rand(k.shape, generator=generator, device=k.device, dtype=k.dtype)
        # Rounding of k + u must not lead to the next level.
        small = 4 * self.levels * torch.finfo(k.dtype).eps
        y = (k + noise.clamp(small, 1 - small)) / self.levels
        return batch.replace(x=y), None

    def bound(self, batch: Batch, generator: torch.Generator | None = None) -> tuple[Batch, Tensor]:
        """Map as `forward` does; return also minus the log-density of the noise."""
        mapped, _ = self(batch, generator)
        return mapped, mapped.x.new_full((len(batch),), -self._size * math.log(self.levels))

    def inverse(self, batch: Batch) -> Batch:
        """Return the levels."""
        k = (batch.x * self.levels).floor().clamp(0, self.levels - 1)
        return batch.replace(x=self._low + k * (self._high - self._low) / (self.levels - 1))

    def _scaled(self, x: Tensor) -> Tensor:
        x = x if x.is_floating_point() else x.float()
        return (x - self._low) * (self.levels - 1) / (self._high - self._low)

    def _numbers(self, scaled: Tensor) -> Tensor:
        return scaled.round().clamp(0, self.levels - 1)


class Logit(Transform):
    r"""Map [0, 1] to real numbers; the inverse clips into [0, 1].

    There is no exact density, since some of it is clipped; `bound` is known.

    Args:
        schema: of the samples.
        alpha: the distance that is kept from 0 and 1, so that the map is finite there.

    Raises:
        RecipeError: alpha is not within (0, 1/2).
        DomainError: while fitting, for a value outside [0, 1].

    >>> from physgen.batch import Variable
    >>> transform = Logit(Schema((3,), (Variable("grey", low=0.0, high=1.0),)))
    >>> grey = Batch(torch.tensor([[0.0, 0.5, 1.0]]))
    >>> torch.allclose(transform.inverse(transform(grey)[0]).x, grey.x)
    True
    """

    exact = False

    def __init__(self, schema: Schema, *, alpha: float = 0.05) -> None:
        super().__init__()
        if not 0 < alpha < 0.5:
            raise RecipeError(f"transform logit: alpha = {alpha:g} must lie between 0 and 1/2")
        self._alpha, self._variables = alpha, schema.variables

    def fit(self, batch: Batch) -> None:
        """Check that all values are within [0, 1]."""
        zero, one = batch.x.new_zeros(1), batch.x.new_ones(1)
        _check_range(batch.x, zero, one, self._variables, "logit")

    def forward(
        self, batch: Batch, generator: torch.Generator | None = None
    ) -> tuple[Batch, Tensor | None]:
        """Map to real numbers."""
        return self.bound(batch)[0], None

    def bound(self, batch: Batch, generator: torch.Generator | None = None) -> tuple[Batch, Tensor]:
        """Map as `forward` does; return also the log-determinant of what is not clipped."""
        s = self._alpha + (1 - 2 * self._alpha) * batch.x
        slope = math.log(1 - 2 * self._alpha) - s.log() - (-s).log1p()
        return batch.replace(x=s.log() - (-s).log1p()), slope.flatten(1).sum(1)

    def inverse(self, batch: Batch) -> Batch:
        """Map back to [0, 1]."""
        x = (batch.x.sigmoid() - self._alpha) / (1 - 2 * self._alpha)
        return batch.replace(x=x.clamp(0, 1))


class OneHot(Transform):
    """Turn labels among the conditions into columns of 0 and 1; other conditions stay as they are.

    Samples stay too. A transform that maps conditions itself (standardise) cannot stand beside it.

    Args:
        schema: of the samples; conditions with the domain "integer" or "binary" are labels.

    Raises:
        RecipeError: there is no label, or one without a range.
        DomainError: while fitting, for a condition that is no label.

    >>> from physgen.batch import Variable
    >>> label = Variable("digit", low=0.0, high=2.0, domain="integer")
    >>> transform = OneHot(Schema((1,), (Variable("x"),), (label,)))
    >>> transform(Batch(torch.zeros(1, 1), condition=torch.tensor([[2.0]])))[0].condition.tolist()
    [[0.0, 0.0, 1.0]]
    """

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self._conditions = schema.condition
        self._ranges: list[tuple[float, float] | None] = [
            _range(v, "one-hot") if v.domain in ("integer", "binary") else None
            for v in schema.condition
        ]
        if not any(self._ranges):
            raise RecipeError(
                "transform one-hot: no condition is a label (of domain integer); leave it out, or "
                "set system.labels=true for images that have them"
            )

    def fit(self, batch: Batch) -> None:
        """Check that all labels are within their ranges."""
        if batch.condition is None:
            return
        for column, variable, limits in zip(
            batch.condition.unbind(1), self._conditions, self._ranges, strict=True
        ):
            if limits is not None:
                inside = (column >= limits[0]) & (column <= limits[1]) & (column == column.round())
                problem = f"not a {variable.name} from {limits[0]:g} to {limits[1]:g}"
                _refuse(~inside, column, problem)

    def forward(
        self, batch: Batch, generator: torch.Generator | None = None
    ) -> tuple[Batch, Tensor | None]:
        """Map the condition."""
        condition = batch.condition
        if condition is not None:
            condition = self.map_condition(condition)
        return batch.replace(condition=condition), batch.x.new_zeros(len(batch))

    def inverse(self, batch: Batch) -> Batch:
        """Map the condition back."""
        if batch.condition is None:
            return batch
        columns, start = [], 0
        for limits in self._ranges:
            stop = start + self._width(limits)
            part = batch.condition[:, start:stop]
            columns.append(part if limits is None else part.argmax(1, True) + limits[0])
            start = stop
        return batch.replace(condition=torch.cat(columns, 1).to(batch.condition.dtype))

    def latent_condition(self, n_condition: int) -> int:
        """Number of columns of the mapped condition."""
        return sum(self._width(limits) for limits in self._ranges)

    def map_condition(self, condition: Tensor) -> Tensor:
        """Map conditions (B, C) as `forward` does."""
        columns = []
        for column, limits in zip(condition.unbind(1), self._ranges, strict=True):
            if limits is None:
                columns.append(column[:, None])
            else:
                levels = torch.arange(self._width(limits), device=column.device) + limits[0]
                columns.append((column[:, None] == levels).to(condition.dtype))
        return torch.cat(columns, 1)

    @staticmethod
    def _width(limits: tuple[float, float] | None) -> int:
        return 1 if limits is None else round(limits[1] - limits[0]) + 1


def _range(variable: Variable, kind: str) -> tuple[float, float]:
    low, high = _RANGES.get(variable.domain, (variable.low, variable.high))
    if low is None or high is None or not low < high:
        raise RecipeError(
            f"transform {kind}: {variable.name} has no range (low and high of the variable); "
            "take standardise for what is unbounded"
        )
    return float(low), float(high)


def _step(variable: Variable) -> float:
    """Distance of the values of a discrete variable, 0 for the others."""
    return (2.0 if variable.domain == "spin" else 1.0) if variable.domain in _DISCRETE else 0.0


def _check_range(
    x: Tensor, low: Tensor, high: Tensor, variables: tuple[Variable, ...], kind: str
) -> None:
    names = ", ".join(variable.name for variable in variables)
    outside = ~((x >= low) & (x <= high))
    _refuse(outside, x, f"outside the range of {names} that transform {kind} maps")


def _refuse(bad: Tensor, x: Tensor, problem: str) -> None:
    """Raise `DomainError` naming the first value of `x` where `bad` holds, and its row."""
    if bad.any():
        place = tuple(bad.nonzero()[0].tolist())
        raise DomainError(f"value {x[place].item():g} (row {place[0]}) is {problem}")
