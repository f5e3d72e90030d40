r"""Training on an action without data, of samples that have no gradient.

The variational free energy

    F_q = <log q(s) + S(s)>_q = KL(q || p) - ln Z

is minimised along the gradient of the score function, with what the other samples of a step have in
the mean as a baseline (Williams, Machine Learning 8 (1992) 229; Wu, Wang & Zhang, arXiv 1809.10606,
equation 4),

    d F_q / d theta = < (R - <R>) d log q / d theta >,    R = log q + S,

whose variance vanishes where q = p, since R is then a constant. Annealing multiplies the action by
a number that rises to 1: spins that are frozen at the end find their way at a higher temperature.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from physgen.batch import Batch
from physgen.errors import RecipeError
from physgen.ranges import PositiveFloat, Probability
from physgen.surrogates.autoregressive.network import AutoregressiveNetwork
from physgen.surrogates.base import Surrogate
from physgen.surrogates.flows.couplings import Action, couplings_of
from physgen.surrogates.method import Method, StepContext
from physgen.systems.base import HasAction, System
from physgen.systems.family import Family


class VariationalFreeEnergy(Method):
    """Minimises the free energy of an autoregressive network of spins.

    Args:
        surrogate: of spins.
        system: has the action.
        learning_rate: of Adam, before the engine's schedule.
        anneal: the action is multiplied by 1 - anneal^step; 0 begins with the action itself.
        left_out: see `ReverseKL`.

    Raises:
        RecipeError: the surrogate is no such network, or has conditions that are no couplings of
            the system; there is no action, or it is not symmetric as the surrogate is; a step
            has too few configurations to compare.

    >>> from physgen.surrogates.autoregressive.spins import AutoregressiveSpins
    >>> from physgen.systems.ising import Ising
    >>> system = Ising(shape=(4, 4))
    >>> VariationalFreeEnergy(AutoregressiveSpins(system.schema), system).inputs
    ()
    """

    inputs: tuple[str, ...] = ()

    def __init__(
        self,
        surrogate: Surrogate,
        system: System,
        *,
        learning_rate: PositiveFloat = 2e-3,
        anneal: Probability = 0.0,
        left_out: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(surrogate)
        if not isinstance(surrogate, AutoregressiveNetwork):
            raise RecipeError(
                "method.kind: variational-free-energy trains autoregressive-spins and "
                f"autoregressive-potts; {type(surrogate).__name__} takes another method"
            )
        if not isinstance(system, HasAction):
            raise RecipeError(
                f"variational-free-energy needs an action, which {type(system).__name__} lacks"
            )
        self._couplings = couplings_of(surrogate, system, left_out, "variational-free-energy")
        if (images := surrogate.images()) is not None:
            _check_symmetry(system, *images)
        self._spins = surrogate
        self._action: Action = system.action
        self._anneal, self._scale = anneal, 1.0
        self.optimisers = {"surrogate": torch.optim.Adam(surrogate.parameters(), learning_rate)}

    def step(self, batches: Mapping[str, Batch], ctx: StepContext) -> dict[str, Tensor]:
        """Do one step on fresh samples of the surrogate; the loss is KL(q || p) - ln Z."""
        self._scale = 1.0 - self._anneal**ctx.step if self._anneal else 1.0
        drawn = [ctx.rand(self._spins.n_sites)]
        if self._couplings is not None:
            drawn.append(self._couplings.draw(ctx))
        return {"loss": ctx.minimise(self._loss, self.optimisers["surrogate"], *drawn)}

    def _loss(self, uniform: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B,) log q + S, with the gradient of the score function."""
        x = self._spins.from_uniform(uniform, condition)
        log_prob = self._spins.log_prob(Batch(x, condition))
        with torch.no_grad():
            reward = log_prob + self._scale * self._action(x, condition).to(log_prob)
            advantage = above_others(reward, condition)
        return reward + advantage * (log_prob - log_prob.detach())


def above_others(reward: Tensor, condition: Tensor | None) -> Tensor:
    """Return (B,) numbers less the mean of the other rows of the same (B, C) condition.

    A mean that a row is part of would make the gradient of n rows too small by (n - 1) / n.

    Raises:
        RecipeError: a row is alone.

    >>> above_others(torch.tensor([1.0, 3.0, 8.0]), None).tolist()
    [-4.5, -1.5, 6.0]
    """
    if condition is None:
        condition = reward.new_zeros(len(reward), 1)
    _, group, counts = torch.unique(condition, dim=0, return_inverse=True, return_counts=True)
    if (counts < 2).any():
        raise RecipeError(
            "method.kind: variational-free-energy compares configurations of the same couplings, "
            f"and of {len(reward)} at {len(counts)} there is one alone; make engine.batch_size, "
            f"over engine.accumulate and processes, {2 * len(counts)} or more"
        )
    totals = reward.new_zeros(len(counts)).index_add(0, group, reward)
    n = counts[group]
    above: Tensor = reward - (totals[group] - reward) / (n - 1)
    return above


def _check_symmetry(system: HasAction, x: Tensor, image: Tensor) -> None:
    """Raise `RecipeError` if the action of configurations and of their images differ."""
    members = system.members.values() if isinstance(system, Family) else [system]
    for member in members:
        action = member.action
        if not torch.allclose(action(x, None), action(image, None), rtol=1e-5, atol=1e-4):
            raise RecipeError(
                "the action has not the symmetry that the surrogate has by construction; set "
                "surrogate.spin_flip_symmetric=false (or permutation_symmetric)"
            )
