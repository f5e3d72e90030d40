r"""Langevin steps with accept/reject (MALA; Roberts & Tweedie, Bernoulli 2 (1996) 341).

The proposal x' = x - eps dS/dx + sqrt(2 eps) xi, xi ~ N(0, 1), has the density

    log T(x -> x') = -|x' - x + eps dS/dx(x)|^2 / (4 eps) + const

and is accepted with probability min(1, exp(-S(x') + S(x)) T(x' -> x) / T(x -> x')), which makes the
target exact at any eps. It is one leapfrog step of length (2 eps)^1/2 of Hybrid Monte Carlo, and is
computed as that, so that it exists on groups as well (`physgen.sampling.manifold`). With the
gradient cut to a largest length in all of this (MALTA, ibid.) the target stays exact, since the
step is reversible with any force, and chains cannot be thrown out of steep places.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from physgen.sampling.hmc import Action, Info, State, choose, init
from physgen.sampling.manifold import FLAT, Manifold

__all__ = ["init", "lengths", "proposed", "step", "truncated"]


def lengths(state: State) -> Tensor:
    """Return (C,), the lengths of the gradients."""
    return state.gradient.square().flatten(1).sum(1).sqrt()


def truncated(state: State, longest: float) -> State:
    """Cut the gradient of each chain to a largest length."""
    share = (longest / lengths(state)).clamp(max=1)
    return replace(state, gradient=state.gradient * share.reshape(-1, *[1] * (state.x.ndim - 1)))


def proposed(
    state: State,
    momentum: Tensor,
    action: Action,
    step_size: float | Tensor,
    longest: float = math.inf,
    manifold: Manifold = FLAT,
) -> tuple[State, Tensor]:
    """Return where chains go with a momentum (C, ...), which is xi, and (C,) H' - H.

    The acceptance is min(1, exp(-(H' - H))).
    """
    length = (2 * step_size) ** 0.5
    force = truncated(state, longest).gradient
    half = manifold.kick(momentum, state.x, force, 0.5 * length)
    proposal = init(manifold.drift(state.x, half, length), action)
    end = manifold.kick(half, proposal.x, truncated(proposal, longest).gradient, 0.5 * length)
    kinetic = manifold.kinetic(end) - manifold.kinetic(momentum)
    return proposal, proposal.action - state.action + kinetic


def step(
    state: State,
    action: Action,
    *,
    step_size: float | Tensor,
    generator: torch.Generator,
    longest: float = math.inf,
    manifold: Manifold = FLAT,
) -> tuple[State, Info]:
    """Move every chain by one accepted or refused Langevin step.

    Args:
        state: of (C, ...) chains.
        action: of the target.
        step_size: eps.
        generator: the only source of randomness.
        longest: length to which gradients are cut.
        manifold: where configurations live.
    """
    device, dtype = state.x.device, state.x.dtype
    momentum = manifold.momentum(state.x, generator)
    uniform = torch.rand(len(state.x), generator=generator, device=device, dtype=dtype)
    proposal, change = proposed(state, momentum, action, step_size, longest, manifold)
    return choose(state, proposal, change, uniform)
