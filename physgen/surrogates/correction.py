r"""Samples of exp(-S) / Z out of those of a surrogate that knows its density.

A proposal x of the surrogate q has the log-weight -S(x) - log q(x). Independence Metropolis makes a
Markov chain of the target out of proposals and their weights (`physgen.sampling.metropolis`); its
first states, which may be untypical, are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import RecipeError
from physgen.sampling.metropolis import Chains, independence_metropolis
from physgen.surrogates.base import Surrogate, density_of
from physgen.surrogates.conditions import ConditionPrior

Action = Callable[[Tensor, Tensor | None], Tensor]
Correction = Literal["none", "independence-metropolis"]

AT_ONCE = 4096
"""Proposals drawn together."""
BURN_IN = 512
"""States of a chain that are left out, after which it has forgotten where it began: a chance of
less than 1e-6 at an acceptance of 3%."""


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
        if density_of(surrogate) is None:
            raise RecipeError(
                f"sampling.correction: {type(surrogate).__name__} does not know its density, "
                "without which nothing can be corrected; set sampling.correction=none, or take a "
                "flow with an exact density"
            )
        if surrogate.schema.condition and method != "none":
            names = ", ".join(variable.name for variable in surrogate.schema.condition)
            raise RecipeError(
                f"sampling.correction: {method} makes a chain of one target, and this one depends "
                f"on {names}; set sampling.correction=none, or train at one value of each"
            )
        self.original, self.action, self.method = surrogate, action, method
        precise = surrogate.high_precision().eval()
        density = density_of(precise)
        assert density is not None
        self._density = density

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
                batch, log_prob = self._density.sample_with_log_prob(
                    rows.stop - rows.start, given, generator=generator
                )
                weight = -self.action(batch.x, batch.condition) - log_prob
            parts.append(batch.replace(log_weight=weight))
        return Batch.concatenate(parts)

    def log_weight(self, batch: Batch) -> Tensor:
        """Return (B,) log-weights of other samples under the surrogate, such as true ones."""
        parts = []
        for first in range(0, len(batch), AT_ONCE):
            part = batch[first : first + AT_ONCE].to(self.device, torch.float64)
            with torch.no_grad():
                density = self._density.log_prob(Batch(part.x, part.condition, mask=part.mask))
                parts.append(-self.action(part.x, part.condition) - density)
        return torch.cat(parts)

    def correct(self, proposals: Batch, *, generator: torch.Generator) -> Chains:
        """Make one chain of the target out of proposals (N,), of which `BURN_IN` are spent."""
        return independence_metropolis(proposals, generator=generator, burn_in=BURN_IN)

    def sample(
        self, n: int, condition: Tensor | None = None, *, generator: torch.Generator
    ) -> Batch:
        """Draw `n` samples: one chain of the target, or proposals with `log_weight`.

        Raises:
            RecipeError: conditions are given to a chain, which has the target of one of them.
        """
        if self.method == "none":
            return self.propose(n, condition, generator=generator).to(dtype=self.dtype)
        if condition is not None:
            raise RecipeError(
                "sampling.correction: independence-metropolis makes a chain of one target, not of "
                "many conditions; draw the proposals and their log-weights (--uncorrected)"
            )
        proposals = self.propose(n + BURN_IN, generator=generator)
        return self.correct(proposals, generator=generator).batch.to(dtype=self.dtype)
