r"""Samples of exp(-S) / Z by Langevin steps with accept/reject that begin at those of a surrogate.

Each sample of the surrogate is the start of a chain of its own, and the end of that chain is kept
(for diffusion models of fields Zhu, Aarts, Wang, Zhou & Wang, arXiv 2502.05504). The surrogate
needs no density, the steps need the force -dS/dx (`physgen.sampling.langevin`). Every step leaves
exp(-S) invariant, and so does any number of them; what is left of the surrogate's error falls as
exp(-n eps / tau), where tau is the slowest relaxation time of dx = -dS/dx dt + sqrt(2) dW, a
variance for a Gaussian mode. Unlike independence Metropolis this is exact in the limit of many
steps alone: steps do not go between wells, whose shares stay those of the surrogate.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import InputError
from physgen.sampling import langevin
from physgen.surrogates.base import Surrogate
from physgen.surrogates.conditions import ConditionPrior
from physgen.surrogates.correction import Action

ACCEPTANCE = 0.574
"""What the step size is tuned to, the best in many dimensions (Roberts & Rosenthal, J. R. Stat.
Soc. B 60 (1998) 255)."""
PILOTS, TRIALS = 256, 200
"""Chains that tune the step size, and the steps of each; they are no samples."""
FIRST, SMALLEST = 0.05, 1e-6
"""The step size that tuning begins with, and gives up at, in units of the variance of an entry."""


class Tuned(NamedTuple):
    """Steps of a fixed kind: eps, and the length to which gradients are cut."""

    step_size: float
    longest: float


class Relaxed:
    """A surrogate whose samples move by Langevin steps towards exp(-action).

    Args:
        surrogate: any that samples real fields.
        action: (B, *shape) samples and (B, C) conditions to (B,) actions, differentiable.
        steps: from each sample of the surrogate.

    >>> from physgen.surrogates.flows.lattice.continuous import ContinuousLatticeFlow
    >>> from physgen.systems.scalar import Phi4
    >>> system = Phi4(shape=(4,))
    >>> relaxed = Relaxed(ContinuousLatticeFlow(system.schema), system.action, steps=10)
    >>> relaxed.sample(5, generator=torch.Generator().manual_seed(1)).x.shape
    torch.Size([5, 4])
    """

    method = "mala"

    def __init__(self, surrogate: Surrogate, action: Action, steps: int) -> None:
        self.original, self.action, self.steps = surrogate, action, steps

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
        """Of the samples; chains move in double precision."""
        return self.original.dtype

    @cached_property
    def tuned(self) -> Tuned:
        """The steps: tuned once, on chains of their own, and then fixed, or they would be biased.

        Gradients are cut at twice their median length there: a chain that begins in a steep place
        leaves it, and others do not notice.

        Raises:
            InputError: no step is accepted: the action is not finite, or has jumps.
        """
        generator = torch.Generator(self.device).manual_seed(0)
        chains = _Chains(self, PILOTS, None, generator)
        scale = float(chains.state.x.var())
        log_step, longest = math.log(FIRST * scale), math.inf
        for trial in range(TRIALS):
            longest = 2 * float(chains.state.gradient.flatten(1).norm(dim=1).median())
            probability = chains.move(Tuned(math.exp(log_step), longest))
            log_step += (probability - ACCEPTANCE) / (1 + trial) ** 0.6
            if not log_step > math.log(SMALLEST * scale):
                raise InputError(
                    "sampling.correction: mala does not accept even steps of "
                    f"{math.exp(log_step):.1e}: the action is not finite, or not continuous"
                )
        return Tuned(math.exp(log_step), longest)

    def sample(
        self, n: int, condition: Tensor | None = None, *, generator: torch.Generator
    ) -> Batch:
        """Draw `n` independent samples: the ends of as many chains."""
        steps, chains = self.tuned, _Chains(self, n, condition, generator)
        for _ in range(self.steps):
            chains.move(steps)
        return chains.batch.replace(x=chains.state.x).to(dtype=self.dtype)


class _Chains:
    """Chains from fresh samples of a surrogate."""

    def __init__(
        self, of: Relaxed, n: int, condition: Tensor | None, generator: torch.Generator
    ) -> None:
        self.batch = of.original.sample(n, condition, generator=generator)
        given, action = self.batch.condition, of.action
        couplings = None if given is None else given.double()

        def at_its_couplings(x: Tensor) -> Tensor:
            return action(x, couplings)

        self._action, self._generator = at_its_couplings, generator
        self.state = langevin.init(self.batch.x.double(), at_its_couplings)

    def move(self, by: Tuned) -> float:
        """Move all chains by one step; return the mean probability that it was accepted."""
        self.state, info = langevin.step(
            self.state,
            self._action,
            step_size=by.step_size,
            generator=self._generator,
            longest=by.longest,
        )
        return float(info.probability.mean())
