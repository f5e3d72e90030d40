r"""Samples of exp(-S) / Z out of those of a surrogate that knows its density.

A proposal x of the surrogate q has the log-weight -S(x) - log q(x). Independence Metropolis makes a
Markov chain of the target out of proposals and their weights (`physgen.sampling.metropolis`); its
first states, which may be untypical, are left out. Each condition has a target and a chain of its
own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import DomainError, RecipeError
from physgen.sampling.metropolis import independence_metropolis
from physgen.surrogates.base import HasDensity, HasLogWeight, Surrogate, density_of
from physgen.surrogates.conditions import ConditionPrior

Action = Callable[[Tensor, Tensor | None], Tensor]
Correction = Literal["none", "independence-metropolis"]

AT_ONCE = 4096
"""Proposals drawn together."""
BURN_IN = 512
"""States of a chain that are left out, after which it has forgotten where it began: a chance of
less than 1e-6 at an acceptance of 3%."""
TARGETS = 64
"""Different conditions of which chains are made at once: each spends `BURN_IN` proposals."""


class Corrected:
    """A surrogate corrected to sample exp(-action), drawn from like a surrogate.

    Args:
        surrogate: that knows its density; it is copied in double precision, and finely integrated
            where it is integrated at all, so that the weights are those of the samples.
        action: (B, *shape) samples and (B, C) conditions to (B,) actions.
        method: "independence-metropolis" draws chains of the target; "none" the proposals, with
            `log_weight`.

    Raises:
        RecipeError: the surrogate does not know its density.

    >>> from physgen.surrogates.flows.lattice.continuous import ContinuousLatticeFlow
    >>> from physgen.systems.scalar import Phi4
    >>> system = Phi4(shape=(4,))
    >>> flow = ContinuousLatticeFlow(system.schema)
    >>> proposals = Corrected(flow, system.action, "none").sample(5, generator=torch.Generator())
    >>> proposals.log_weight.shape
    torch.Size([5])
    """

    def __init__(
        self, surrogate: Surrogate, action: Action, method: Correction = "independence-metropolis"
    ) -> None:
        self.original, self.action, self.method = surrogate, action, method
        self._weighing = _weighing(surrogate.high_precision().eval())

    @property
    def schema(self) -> Schema:
        """Of the samples."""
        return self.original.schema

    @property
    def conditions(self) -> ConditionPrior:
        """Of the training."""
        return self.original.conditions

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.original.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the samples."""
        return self.original.dtype

    def propose(
        self, n: int, condition: Tensor | None = None, *, generator: torch.Generator
    ) -> Batch:
        """Draw `n` independent samples of the surrogate with `log_weight`, in double precision."""
        parts = []
        for first in range(0, n, AT_ONCE):
            rows = slice(first, min(first + AT_ONCE, n))
            given = None if condition is None else condition[rows]
            with torch.no_grad():
                batch, weight = self._weighing.sample_with_log_weight(
                    rows.stop - rows.start, self.action, given, generator=generator
                )
            parts.append(batch.replace(log_weight=weight))
        return Batch.concatenate(parts)

    def log_weight(self, batch: Batch, *, generator: torch.Generator) -> Tensor:
        """Return (B,) log-weights of other samples under the surrogate, such as true ones.

        Random only where a sample is weighed by a way that led to it (`HasLogWeight`).
        """
        parts = []
        for first in range(0, len(batch), AT_ONCE):
            part = batch[first : first + AT_ONCE].to(self.device, torch.float64)
            with torch.no_grad():
                given = Batch(part.x, part.condition, mask=part.mask)
                parts.append(self._weighing.log_weight(given, self.action, generator=generator))
        return torch.cat(parts)

    def correct(self, proposals: Batch, *, generator: torch.Generator) -> Batch:
        """Make a chain of each target out of its proposals, of which `BURN_IN` are spent.

        Raises:
            DomainError: there are more than `TARGETS` different conditions.
        """
        groups = _rows_by_condition(proposals.condition, len(proposals))
        parts = [
            independence_metropolis(proposals[rows], generator=generator, burn_in=BURN_IN).batch
            for rows in groups
        ]
        numbered = [
            part.replace(chain=torch.full((len(part),), number, device=part.x.device))
            for number, part in enumerate(parts)
        ]
        return Batch.concatenate(numbered)

    def for_proposals(self, condition: Tensor) -> Tensor:
        """Return (N, C) conditions with `BURN_IN` more of each different one of (n, C), sorted."""
        groups = _rows_by_condition(condition, len(condition))
        rows = [torch.cat([group, group[:1].expand(BURN_IN)]) for group in groups]
        return condition[torch.cat(rows)]

    def sample(
        self, n: int, condition: Tensor | None = None, *, generator: torch.Generator
    ) -> Batch:
        """Draw `n` samples: a chain of each target, or proposals with `log_weight`.

        Raises:
            DomainError: chains of more than `TARGETS` different conditions are asked for, or of
                those that the surrogate draws itself, which all differ.
        """
        if self.method == "none":
            return self.propose(n, condition, generator=generator).to(dtype=self.dtype)
        if condition is None and self.schema.condition:
            names = ", ".join(variable.name for variable in self.schema.condition)
            raise DomainError(
                f"{self.method} makes a chain of each target, and the target depends on {names}: "
                "give a condition, or draw proposals with their log-weights (--uncorrected)"
            )
        if condition is None:
            proposals = self.propose(n + BURN_IN, generator=generator)
            return self.correct(proposals, generator=generator).to(dtype=self.dtype)
        given = self.for_proposals(condition)
        proposals = self.propose(len(given), given, generator=generator)
        batch = self.correct(proposals, generator=generator)
        # Chains stand one after the other; a row goes back to where its condition was.
        order = torch.cat(_rows_by_condition(condition, n))
        return batch[order.argsort()].to(dtype=self.dtype)


class _ByDensity:
    """Log-weights -S(x) - log q(x) of a density that is known."""

    def __init__(self, density: HasDensity) -> None:
        self._density = density

    def sample_with_log_weight(
        self,
        n: int,
        action: Action,
        condition: Tensor | None = None,
        *,
        generator: torch.Generator,
    ) -> tuple[Batch, Tensor]:
        batch, log_prob = self._density.sample_with_log_prob(n, condition, generator=generator)
        return batch, -action(batch.x, batch.condition) - log_prob

    def log_weight(self, batch: Batch, action: Action, *, generator: torch.Generator) -> Tensor:
        return -action(batch.x, batch.condition) - self._density.log_prob(batch)


def _weighing(surrogate: Surrogate) -> HasLogWeight:
    """Return what weighs the samples of a surrogate; `RecipeError` if nothing does."""
    density = density_of(surrogate)
    if density is not None:
        return _ByDensity(density)
    if isinstance(surrogate, HasLogWeight):
        return surrogate
    raise RecipeError(
        f"sampling.correction: {type(surrogate).__name__} does not know its density, "
        "without which nothing can be corrected; set sampling.correction=none, or take a "
        "flow with an exact density"
    )


def _rows_by_condition(condition: Tensor | None, n: int) -> list[Tensor]:
    """Return the numbers of the rows of each different condition, ascending.

    Raises:
        DomainError: there are more than `TARGETS`.
    """
    if condition is None:
        return [torch.arange(n)]
    values, which = torch.unique(condition, dim=0, return_inverse=True)
    if len(values) > TARGETS:
        raise DomainError(
            f"{len(values)} different conditions: chains are made of {TARGETS} targets at most; "
            "give fewer, or draw proposals with their log-weights (--uncorrected)"
        )
    return [(which == number).nonzero()[:, 0] for number in range(len(values))]
