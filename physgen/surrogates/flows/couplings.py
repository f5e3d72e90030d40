"""Couplings of an action in a training without data: drawn from a range, or led to their values.

Drawn are `A_STEP` different ones a step, the points of a Kronecker sequence, moved by a common
random shift modulo 1 (Cranley & Patterson, SIAM J. Numer. Anal. 13 (1976) 904): evenly, and so that
every step sees the whole range.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from physgen.errors import RecipeError, suggest
from physgen.surrogates.base import Surrogate
from physgen.surrogates.method import StepContext
from physgen.systems.base import System
from physgen.systems.family import Family

A_STEP = 16
"""Different couplings of a training step."""

Action = Callable[[Tensor, Tensor | None], Tensor]


class Couplings:
    """Draws couplings evenly from a box, without a range of the first of them.

    Args:
        low, high: (C,) ends of the box.
        left_out: [low, high) of the first coupling that is not drawn.

    Raises:
        RecipeError: nothing, or not a range inside the box, is left out.

    >>> from types import SimpleNamespace
    >>> step = SimpleNamespace(batch_size=32, rand=torch.rand)
    >>> points = Couplings(torch.tensor([5.0]), torch.tensor([10.0])).draw(step)
    >>> points.shape, bool(((points >= 5) & (points < 10)).all())
    (torch.Size([32, 1]), True)
    """

    def __init__(
        self, low: Tensor, high: Tensor, left_out: tuple[float, float] | None = None
    ) -> None:
        self._low, self._high, self._left_out = low.double(), high.double(), left_out
        if left_out is not None:
            begin, end = left_out
            if not float(low[0]) < begin < end < float(high[0]):
                raise RecipeError(
                    f"method.left_out = [{begin:g}, {end:g}]: it must be a range within the first "
                    f"coupling's, {float(low[0]):g} to {float(high[0]):g}"
                )
        # The root of r^(C + 1) = r + 1 makes the evenest such sequence (golden ratio for C = 1).
        root = 2.0
        for _ in range(64):
            root = (1 + root) ** (1 / (1 + len(low)))
        powers = root ** -torch.arange(1, 1 + len(low), dtype=torch.float64)
        self._sequence = torch.arange(A_STEP, dtype=torch.float64)[:, None] * powers

    def draw(self, ctx: StepContext) -> Tensor:
        """Return (B, C) couplings, `A_STEP` different ones in turns."""
        shift = ctx.rand(len(self._low))[:1].double()
        share = (self._sequence.to(shift.device) + shift) % 1
        low, length = self._low.to(shift.device), (self._high - self._low).to(shift.device)
        if self._left_out is None:
            points = low + length * share
        else:
            begin, end = self._left_out
            length[0] -= end - begin
            points = low + length * share
            points[:, 0] += torch.where(points[:, 0] >= begin, end - begin, 0.0)
        rows = torch.arange(ctx.batch_size, device=shift.device) % A_STEP
        return points[rows]


class Annealed:
    """The action of a theory whose couplings are led, linearly, to those of the system.

    Args:
        system: at its own couplings.
        start: couplings to begin with, by name.
        steps: after which the couplings are those of the system.

    Raises:
        RecipeError: the system has no coupling of a name, or there is no such theory.
    """

    def __init__(self, system: Any, start: Mapping[str, float], steps: int) -> None:
        known = [variable.name for variable in getattr(type(system), "couplings", ())]
        for name in start:
            if name not in known or not is_dataclass(system):
                raise RecipeError(
                    f"method.anneal.{name}: {type(system).__name__} has no such coupling"
                    f"{suggest(name, known)}"
                )
        self._system, self._start, self._steps = system, dict(start), steps
        self.at(0)  # The theory to begin with must be one.

    def at(self, step: int) -> Action:
        """Return the action at a step of the training."""
        share = min(1.0, step / self._steps) if self._steps else 1.0
        values = {
            name: begin + share * (getattr(self._system, name) - begin)
            for name, begin in self._start.items()
        }
        action: Action = replace(self._system, **values).action
        return action


def couplings_of(
    surrogate: Surrogate, system: System, left_out: tuple[float, float] | None, method: str
) -> Couplings | None:
    """Return what draws the conditions of a surrogate, or `None` if it has none.

    The surrogate takes the range of the couplings as the one it is trained on.

    Args:
        surrogate: whose conditions are couplings of the system, if it has any.
        system: a family, where couplings vary.
        left_out: see `Couplings`.
        method: the name that an error says.

    Raises:
        RecipeError: conditions are no couplings, or there is nothing that could be left out.
    """
    if not surrogate.schema.condition:
        if left_out is not None:
            raise RecipeError(
                "method.left_out: there is one coupling, and nothing to leave out; make a coupling "
                "of the system a list"
            )
        return None
    if not isinstance(system, Family):
        names = ", ".join(variable.name for variable in surrogate.schema.condition)
        raise RecipeError(
            f"method.kind: {method} learns the action, and that of "
            f"{type(system).__name__} has no couplings {names}; learn from data by "
            "maximum-likelihood"
        )
    surrogate.conditions.span(*system.bounds)
    return Couplings(*system.bounds, left_out)
