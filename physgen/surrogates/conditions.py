"""Which conditions a surrogate was trained on: to draw from, and to refuse others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from physgen.batch import Schema, Variable
from physgen.errors import DomainError, InputError

MARGIN = 0.05
"""By how much of their range the trained domain exceeds the data; by what share of their value, for
what is never negative."""


RESOLUTION = 1e-4
"""Rounding of a condition by more than this share of its range is a loss."""


REMEDY = (
    "train on a range that covers it, or set sampling.extrapolate=true (a refinement is trained "
    "with it, `physgen infer` takes --extrapolate) and judge the samples"
)

_BOX = 1024
"""Conditions remembered of a box that is evenly drawn from."""

TOLERANCE = 1e-6
"""Rounding by which a condition may exceed the domain."""

LARGEST = 1_000_000
"""How many training rows conditions are remembered of; of more, a random subset."""


class ConditionPrior(nn.Module):
    """Remembers which conditions the training data had: to draw from, and to refuse others.

    Keeps the distinct ones, what share of the rows each has, half the distance of each number to
    the nearest other one of its column, the range of each column, and which labels occurred: an
    integer column whose variable states `low` and `high` is a label.

    >>> prior = ConditionPrior(Schema((1,), (Variable("x"),), (Variable("T"),)))
    >>> prior.fit(torch.tensor([[1.0], [2.0], [4.0]]))
    >>> prior.resolve(None, 5, torch.Generator()).shape  # drawn, where none are given
    torch.Size([5, 1])
    """

    values: Tensor
    shares: Tensor
    halfway: Tensor
    low: Tensor
    high: Tensor
    labels: Tensor

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self.extrapolate = False  # Whether numbers outside the domain are accepted.
        self.variables = schema.condition
        n_columns = len(schema.condition)
        self.register_buffer("values", torch.zeros(0, n_columns))
        self.register_buffer("shares", torch.zeros(0))
        self.register_buffer("halfway", torch.zeros(0, n_columns))
        self.register_buffer("low", torch.full((n_columns,), float("-inf")))
        self.register_buffer("high", torch.full((n_columns,), float("inf")))
        sizes = [_n_labels(variable) for variable in schema.condition]
        self.register_buffer("labels", torch.zeros(n_columns, max(sizes, default=0)).bool())

    def fit(
        self, condition: Tensor, weight: Tensor | None = None, *, as_they_are: bool = False
    ) -> None:
        """Store (N, C) conditions, and their range.

        No sample reaches the ends of what it is drawn from: the trained domain goes `MARGIN`
        further than the data, but not beyond the stated ends of a variable's range.

        Args:
            condition: of the training rows.
            weight: (N,), event weights. A negative one takes its share from the conditions that
                follow, so that their distribution function rises; of several columns, which have
                no order, nothing can be drawn then.
            as_they_are: draw rows as they are, not between them: they are events, whose columns
                belong together.

        Raises:
            DomainError: single precision does not resolve a column, or a label is out of range.
            InputError: the weights do not sum to a positive number.
        """
        self._check_resolution(condition)
        values, index = torch.unique(condition, dim=0, return_inverse=True)
        rows = torch.ones_like(index) if weight is None else weight
        upto = torch.zeros(len(values), dtype=torch.float64, device=values.device)
        upto = upto.index_add(0, index, rows.double()).cumsum(0)
        if weight is not None and not upto[-1] > 0:
            raise InputError(
                f"data.weight: the weights of {len(condition)} rows, of which conditions are "
                f"remembered, sum to {upto[-1].item():g}: nothing can be drawn from them"
            )
        upto = upto.clamp(min=upto.new_zeros(()), max=upto[-1]).cummax(0).values
        shares = upto.diff(prepend=upto.new_zeros(1)) * len(values) / upto[-1]
        halfway = torch.zeros_like(values)
        for j in range(0 if as_they_are else len(self.variables)):
            halfway[:, j] = self._halfway(j, condition[:, j], values[:, j])
        drawable = weight is None or len(self.variables) == 1 or bool((weight >= 0).all())
        positive = (shares > 0) & drawable
        self.values, self.shares, self.halfway = (
            column[positive].to(self.low) for column in (values, shares, halfway)
        )
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
                        f"{variable.high:g}]: fix the data or the declared range"
                    )
                self.labels[column, label] = True

    def span(self, low: Tensor, high: Tensor) -> None:
        """Let the domain be the box between (C,) ends, evenly drawn from: training without data."""
        sobol = torch.quasirandom.SobolEngine(len(low))  # type: ignore[no-untyped-call]
        share = sobol.draw(_BOX, dtype=torch.float64).to(low.device)
        self.fit(low.double() + (high - low).double() * share)
        self.low.copy_(low)
        self.high.copy_(high)

    def cover(self, condition: Tensor) -> None:
        """Let the domain reach (N, C) conditions that are not drawn from.

        They are of the rows kept for validation and test: what a surrogate is judged on it must
        accept, and which rows these are is chance.
        """
        if len(condition):
            self.low.copy_(torch.minimum(self.low, condition.amin(0).to(self.low)))
            self.high.copy_(torch.maximum(self.high, condition.amax(0).to(self.high)))

    def draw(self, n: int, generator: torch.Generator) -> Tensor | None:
        """Return (n, C) conditions, as the training rows have them; `None` if there are none.

        Real numbers that one row alone has come from anywhere up to halfway to the nearest other
        one, so that they are new, with the distribution of the rows; numbers that rows share, and
        integers, stay what they are. On the device of the generator.
        """
        if not self.variables:
            return None
        if not len(self.values):
            raise DomainError(
                "this surrogate has no conditions to draw from: it has seen none, or several at "
                "once with negative event weights, whose distribution nobody can draw from; pass "
                "`condition`, or the rows of a file"
            )
        device = generator.device
        upto = self.shares.to(device, torch.float64).cumsum(0)
        at = upto[-1] * torch.rand(n, generator=generator, device=device, dtype=torch.float64)
        rows = torch.searchsorted(upto, at, right=True).clamp_max(len(upto) - 1)
        values, halfway = self.values.to(device)[rows], self.halfway.to(device)[rows]
        away = torch.rand(n, 1, generator=generator, device=device, dtype=values.dtype)
        return values + (2 * away - 1) * halfway

    def resolve(
        self, condition: Tensor | None, n: int, generator: torch.Generator
    ) -> Tensor | None:
        """Return the (n, C) conditions of `n` samples: those given, checked, or else drawn."""
        if condition is None:
            return self.draw(n, generator)
        if not self.variables:
            raise DomainError("this surrogate was trained without conditions; do not pass any")
        self.check(condition)
        return condition

    def check(self, condition: Tensor, tolerance: float = TOLERANCE) -> None:
        """Raise `DomainError` naming the first row and variable outside the trained range."""
        if condition.ndim != 2 or condition.shape[1] != len(self.variables):
            names = ", ".join(f"{v.name} [{v.unit}]" for v in self.variables) or "none"
            raise DomainError(
                f"condition of shape {tuple(condition.shape)}: expected (n, "
                f"{len(self.variables)}), the columns being {names}"
            )
        self._check_labels(condition)
        inside = self._inside(condition, tolerance)
        if self.extrapolate:
            # What is said of the data ends where they do; a negative energy never is one.
            kinds = [replace(v, low=None, high=None).range for v in self.variables]
            least, most = condition.new_tensor(kinds).T
            inside = condition.isfinite() & (condition >= least) & (condition <= most)
        if not inside.all():
            row, column = (~inside).nonzero()[0].tolist()
            variable = self.variables[column]
            unit = "" if variable.unit == "1" else f" {variable.unit}"
            raise DomainError(
                f"condition {variable.name} = {condition[row, column].item():g}{unit} "
                f"(row {row}) is outside the trained domain "
                f"[{self.low[column].item():g}, {self.high[column].item():g}]{unit}; "
                f"{'give numbers' if self.extrapolate else REMEDY}"
            )

    def trained_classes(self) -> dict[str, list[str]]:
        """Return the names of the classes that the training data had, by condition."""
        return {
            variable.name: [variable.classes[k] for k in self._known(column)]
            for column, variable in enumerate(self.variables)
            if variable.classes
        }

    def _known(self, column: int) -> list[int]:
        """Return the labels of a column that the training data had."""
        found = self.labels[column].nonzero()[:, 0] + int(self.variables[column].low or 0)
        return [int(label) for label in found]

    def _check_labels(self, condition: Tensor) -> None:
        """Raise `DomainError` naming the first row and variable with an unknown label."""
        for column, variable in enumerate(self.variables):
            if not _n_labels(variable) or not self.labels[column].any():
                continue
            labels = self._known(column)
            given = condition[:, column]
            known = torch.isin(given, given.new_tensor(labels))
            if known.all():
                continue
            row = int((~known).nonzero()[0])
            number = given[row].item()
            names = self.trained_classes().get(variable.name)
            said = f"{number:g}"
            if variable.classes and number in range(len(variable.classes)):
                said = variable.classes[int(number)]
            raise DomainError(
                f"condition {variable.name} = {said} (row {row}) is not a "
                f"{'class' if names else 'label'} of the training data, which had "
                f"{', '.join(names) if names else labels}"
            )

    def outside(self, condition: Tensor) -> str:
        """Say how many of (n, C) conditions are outside the trained range; "" if none is."""
        beyond = ~self._inside(condition.to(self.low), TOLERANCE)
        if not beyond.any():
            return ""
        domains = []
        for column in beyond.any(0).nonzero()[:, 0].tolist():
            variable, low, high = self.variables[column], self.low[column], self.high[column]
            unit = "" if variable.unit == "1" else f" {variable.unit}"
            domains.append(f"{variable.name} [{low.item():g}, {high.item():g}]{unit}")
        return (
            f"{int(beyond.any(1).sum())} of {len(condition)} samples are outside the trained "
            f"domain: {', '.join(domains)}"
        )

    def _inside(self, condition: Tensor, tolerance: float) -> Tensor:
        slack = tolerance * torch.maximum(self.low.abs(), self.high.abs())
        # Written so that NaN, which compares false with everything, counts as outside.
        return (condition >= self.low - slack) & (condition <= self.high + slack)

    def _check_resolution(self, condition: Tensor) -> None:
        """Refuse columns that are kept, and given to networks, with less than they hold."""
        wide = condition.double()
        lost = (wide - wide.to(self.low).double()).abs().amax(0)
        spread = wide.amax(0) - wide.amin(0)
        for column in (lost > RESOLUTION * spread).logical_and(spread > 0).nonzero()[:, 0].tolist():
            name = self.variables[column].name
            raise DomainError(
                f"condition {name} varies by {spread[column].item():g} around "
                f"{wide[:, column].mean().item():g}, which single precision does not resolve; "
                f"subtract an offset from {name} in the data, or leave it out"
            )

    def _halfway(self, column: int, condition: Tensor, values: Tensor) -> Tensor:
        """Return how far draws may be from some values of a column: 0 for what rows share."""
        if self.variables[column].domain not in ("real", "non-negative", "angle"):
            return torch.zeros_like(values)
        known, counts = torch.unique(condition, return_counts=True)
        gap = known.diff()
        # What lies at an end has nothing beyond it.
        none = known.new_zeros(min(len(known), 1))
        half = torch.minimum(torch.cat([none, gap]), torch.cat([gap, none])) / 2
        half = torch.where(counts > 1, torch.zeros_like(half), half)
        return half[torch.searchsorted(known, values.contiguous())]

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        """Take as many conditions as the state holds."""
        for name in ("values", "shares", "halfway"):
            stored, buffer = state_dict.get(prefix + name), getattr(self, name)
            if stored is not None and stored.ndim == buffer.ndim:
                setattr(self, name, buffer.new_empty(len(stored), *buffer.shape[1:]))
        super()._load_from_state_dict(state_dict, prefix, *rest)

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
