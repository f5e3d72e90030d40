r"""Hybrid Monte Carlo for any differentiable action (Duane, Kennedy, Pendleton & Roweth 1987).

Momenta p ~ N(0, 1) are drawn, H = p^2 / 2 + S(x) is integrated by leapfrog,

    p <- p - (eps / 2) dS/dx,    x <- x + eps p,    p <- p - (eps / 2) dS/dx,

and the end accepted with probability min(1, exp(H - H')); on groups as `physgen.sampling.manifold`
says. `init` and `step` are pure functions of
(C, ...) chains that move together; `sample` tunes, thermalises and runs them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from physgen.errors import DomainError, InputError
from physgen.sampling.manifold import FLAT, Manifold

Action = Callable[[Tensor], Tensor]
"""Maps (C, ...) configurations to (C,) actions, differentiably."""

ACCEPTANCE = 0.85
"""What the step size is tuned to."""


@dataclass(frozen=True)
class State:
    """Where (C, ...) chains stand, with (C,) actions and (C, ...) gradients there."""

    x: Tensor
    action: Tensor
    gradient: Tensor


@dataclass(frozen=True)
class Info:
    """What a step did: (C,) acceptance probabilities, whether accepted, and H' - H."""

    probability: Tensor
    accepted: Tensor
    energy_change: Tensor


def init(x: Tensor, action: Action) -> State:
    """Start chains at (C, ...) configurations.

    Raises:
        DomainError: if the action is not differentiable, or is not (C,).
    """
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        value = action(x)
        if value.shape != x.shape[:1]:
            raise DomainError(
                f"the action of {x.shape[0]} configurations has shape {tuple(value.shape)}: "
                f"expected ({x.shape[0]},)"
            )
        if not value.requires_grad:
            raise DomainError("the action does not depend differentiably on the configuration")
        (gradient,) = torch.autograd.grad(value.sum(), x)
    return State(x.detach(), value.detach(), gradient)


def leapfrog(
    state: State,
    momentum: Tensor,
    action: Action,
    step_size: float | Tensor,
    n_steps: int,
    manifold: Manifold = FLAT,
) -> tuple[State, Tensor]:
    """Integrate for `n_steps` steps; return where it ends."""
    for _ in range(n_steps):
        momentum = manifold.kick(momentum, state.x, state.gradient, 0.5 * step_size)
        state = init(manifold.drift(state.x, momentum, step_size), action)
        momentum = manifold.kick(momentum, state.x, state.gradient, 0.5 * step_size)
    return state, momentum


def step(
    state: State,
    action: Action,
    *,
    step_size: float | Tensor,
    n_steps: int,
    generator: torch.Generator,
    manifold: Manifold = FLAT,
) -> tuple[State, Info]:
    """Do one trajectory of every chain. A trajectory that runs off to NaN is refused.

    Step sizes may differ from chain to chain, (C, 1, ...).
    """
    device, dtype = state.x.device, state.x.dtype
    momentum = manifold.momentum(state.x, generator)
    uniform = torch.rand(len(state.x), generator=generator, device=device, dtype=dtype)
    proposal, end = leapfrog(state, momentum, action, step_size, n_steps, manifold)
    kinetic = manifold.kinetic(end) - manifold.kinetic(momentum)
    change = proposal.action - state.action + kinetic
    return choose(state, proposal, change, uniform)


def choose(state: State, proposal: State, change: Tensor, uniform: Tensor) -> tuple[State, Info]:
    """Accept the proposals of (C,) chains with probability min(1, exp(-change))."""
    probability = torch.nan_to_num((-change).clamp(max=0).exp(), nan=0.0)
    accepted = uniform < probability
    each = accepted.reshape(-1, *[1] * (state.x.ndim - 1))
    chosen = State(
        torch.where(each, proposal.x, state.x),
        torch.where(accepted, proposal.action, state.action),
        torch.where(each, proposal.gradient, state.gradient),
    )
    return chosen, Info(probability, accepted, change)


@dataclass(frozen=True)
class Run:
    """Configurations (C, T, ...) of C chains, the acceptance, and the step size that was found."""

    x: Tensor
    acceptance: float
    step_size: float


class Schedule(NamedTuple):
    """The trajectories of a run.

    Attributes:
        n_keep: configurations that are kept, every `n_skip`-th of n_keep * n_skip.
        n_skip: from one that is kept to the next.
        n_warm: before them, in which the step size is tuned.
    """

    n_keep: int
    n_skip: int = 1
    n_warm: int = 200


def sample(
    x: Tensor,
    action: Action,
    schedule: Schedule,
    *,
    generator: torch.Generator,
    manifold: Manifold = FLAT,
) -> Run:
    """Run chains from (C, ...) starts.

    During the first `n_warm` trajectories the step size is driven towards an acceptance of
    `ACCEPTANCE` (Robbins & Monro), afterwards it is fixed. Trajectories have lengths between 1/2
    and 3/2, so that no mode of a nearly harmonic action returns to where it was.

    Raises:
        InputError: if no step size is accepted: the action is not finite, or has jumps.

    >>> generator = torch.Generator().manual_seed(1)
    >>> def action(x):  # a Gaussian of variance 1/4
    ...     return 2 * x.square().flatten(1).sum(1)
    >>> run = sample(torch.zeros(64, 2), action, Schedule(100), generator=generator)
    >>> round(float(run.x.square().mean()), 2), run.acceptance > 0.7
    (0.25, True)
    """
    n_keep, n_skip, n_warm = schedule
    state, log_step, lengths = init(x, action), math.log(0.1), _lengths(generator)

    def move(state: State, log_step: float) -> tuple[State, Info]:
        step_size = math.exp(log_step)
        n_steps = max(1, round(next(lengths) / step_size))
        return step(
            state,
            action,
            step_size=step_size,
            n_steps=n_steps,
            generator=generator,
            manifold=manifold,
        )

    for trial in range(n_warm):
        state, info = move(state, log_step)
        log_step += (float(info.probability.mean()) - ACCEPTANCE) / (1 + trial) ** 0.6
        if log_step < -5.5:
            raise InputError(
                f"HMC does not accept even steps of {math.exp(log_step):.1e}: the action is not "
                "finite, or not continuous"
            )
        log_step = min(log_step, 0.0)
    states, total = [], 0.0
    for _ in range(n_keep):
        for _ in range(n_skip):
            state, info = move(state, log_step)
            total += float(info.probability.mean())
        states.append(state.x)
    return Run(torch.stack(states, 1), total / (n_keep * n_skip), math.exp(log_step))


def _lengths(generator: torch.Generator) -> Iterator[float]:
    while True:
        numbers = torch.rand(1024, generator=generator, device=generator.device)
        yield from (0.5 + numbers).tolist()
