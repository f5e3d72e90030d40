r"""Many short chains of the target from the samples of a model, moved by the force of the action.

Langevin steps (MALA) are Hybrid Monte Carlo with one step of the integrator a trajectory,

    x' = x - (eps^2 / 2) dS/dx + eps xi,    accepted with min(1, exp(-H' + H)),

on groups along the group (`physgen.sampling.manifold`). They need no density of the model, which
decides where chains begin, and the target is exact once that is forgotten: within one mode after a
few autocorrelation times; from mode to mode they do not move the weight that the model gave them.
Independence Metropolis does, and Hybrid Monte Carlo moves where it stands still: in turn they are
one chain of the target, since each leaves it as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from physgen.batch import Batch
from physgen.errors import InputError
from physgen.sampling import hmc, metropolis
from physgen.sampling.hmc import Action
from physgen.sampling.langevin import lengths, step
from physgen.sampling.manifold import FLAT, Manifold

LogWeight = Callable[[Tensor], Tensor]
"""Maps (C, ...) configurations to (C,) log-weights under the model."""

ACCEPTANCE = 0.574
"""Of Langevin steps in many dimensions (Roberts & Rosenthal, J. R. Stat. Soc. B 60 (1998) 255)."""
TUNING = 50
"""Trajectories of Hybrid Monte Carlo before the first proposal, in which its step is tuned."""


def langevin(
    starts: Tensor,
    action: Action,
    schedule: hmc.Schedule,
    *,
    generator: torch.Generator,
    manifold: Manifold = FLAT,
) -> Batch:
    """Move (C, ...) configurations by Langevin steps, which are the trajectories of the schedule.

    The step is tuned to an acceptance of `ACCEPTANCE` while it warms up. Forces are cut to twice
    their median length, so that chains leave steep places: the target stays exact (MALTA; Roberts &
    Tweedie, Bernoulli 2 (1996) 341), since a step is reversible with any force.

    Returns `n_keep` configurations of each chain, one chain after the other, with `chain`.

    Raises:
        InputError: a chain never moves: the action is not finite there, or has jumps.

    >>> generator = torch.Generator().manual_seed(1)
    >>> def action(x):  # a normal number of variance 1/4
    ...     return 2 * x.square().flatten(1).sum(1)
    >>> starts = 0.4 * torch.randn(500, 2, generator=generator, dtype=torch.double)
    >>> batch = langevin(starts, action, hmc.Schedule(8, 5, 40), generator=generator)
    >>> round(float(batch.x.var()), 2)
    0.25
    """
    n_keep, n_skip, n_warm = schedule
    state, log_step, states = hmc.init(starts, action), math.log(0.1), []
    longest = _usual(state)
    moved = torch.zeros_like(state.action, dtype=torch.bool)
    for time in range(n_warm + n_keep * n_skip):
        state, info = step(
            state,
            action,
            step_size=0.5 * math.exp(2 * log_step),
            generator=generator,
            longest=longest,
            manifold=manifold,
        )
        if time < n_warm:
            log_step += (float(info.probability.mean()) - ACCEPTANCE) / (1 + time) ** 0.6
            log_step = min(log_step, 1.0)
            if time == n_warm // 2:  # Forces are now those of the target.
                longest = _usual(state)
            continue
        moved |= info.accepted
        if (time - n_warm + 1) % n_skip == 0:
            states.append(state.x)
    if not moved.all():
        raise InputError(
            f"{int((~moved).sum())} of {len(moved)} chains of Langevin steps never move: the "
            "action is not finite, or not continuous, where the surrogate samples; train it for "
            "longer"
        )
    x = torch.stack(states, 1).flatten(0, 1)
    return Batch(x, chain=torch.arange(len(starts), device=x.device).repeat_interleave(n_keep))


def _usual(state: hmc.State) -> float:
    """Return twice the median length of gradients, beyond which they are cut."""
    usual = 2 * float(lengths(state).nanmedian())
    return usual if usual > 0 else math.inf


class Turns(NamedTuple):
    """Chains of proposals and trajectories in turn.

    Attributes:
        n_chains: that begin at the first of their proposals.
        n_warm: states of each that are left out.
    """

    n_chains: int
    n_warm: int


def in_turn(
    proposals: Batch,
    action: Action,
    log_weight: LogWeight,
    chains: Turns,
    *,
    generator: torch.Generator,
    manifold: Manifold = FLAT,
) -> Batch:
    """Offer each chain a proposal, then move it by a trajectory of Hybrid Monte Carlo, in turn.

    Args:
        proposals: N independent samples of the model with `log_weight`, dealt to the chains.
        action: of the target.
        log_weight: of configurations that trajectories end at.
        chains: how many there are, of N // n_chains proposals each.
        generator: the only source of randomness.
        manifold: where configurations live.

    Returns the chains one after the other, with `chain`.

    Raises:
        InputError: there are too few proposals, or they have no log-weights.
    """
    n_chains, n_warm = chains
    length = len(proposals) // n_chains
    if proposals.log_weight is None or length - n_warm < 1:
        raise InputError(
            f"{n_chains} chains need more than {n_chains * n_warm} proposals, with log-weights"
        )
    x = proposals.x[: n_chains * length].reshape(n_chains, length, *proposals.x.shape[1:])
    offered = proposals.log_weight[: n_chains * length].reshape(n_chains, length)
    tuned = hmc.sample(
        x[:, 0], action, hmc.Schedule(1, n_warm=TUNING), generator=generator, manifold=manifold
    )
    n_steps = max(1, round(1 / tuned.step_size))
    here = tuned.x[:, 0]
    state, states = metropolis.init(log_weight(here)), []
    for time in range(1, length + 1):
        uniform = torch.rand(n_chains, generator=generator, device=x.device, dtype=x.dtype)
        state, accepted = metropolis.step(state, offered[:, time - 1], uniform)
        each = accepted.reshape(-1, *[1] * (x.ndim - 2))
        here = torch.where(each, x[:, time - 1], here)
        moved, _ = hmc.step(
            hmc.init(here, action),
            action,
            step_size=tuned.step_size,
            n_steps=n_steps,
            generator=generator,
            manifold=manifold,
        )
        here = moved.x
        state = metropolis.State(log_weight(here), state.index, state.time)
        if time > n_warm:
            states.append(here)
    samples = torch.stack(states, 1)
    chain = torch.arange(n_chains, device=x.device).repeat_interleave(samples.shape[1])
    return Batch(samples.flatten(0, 1), chain=chain)
