r"""Langevin steps with accept/reject (MALA; Roberts & Tweedie, Bernoulli 2 (1996) 341).

The proposal x' = x - eps dS/dx + sqrt(2 eps) xi, xi ~ N(0, 1), has the density

    log T(x -> x') = -|x' - x + eps dS/dx(x)|^2 / (4 eps) + const

and is accepted with probability min(1, exp(-S(x') + S(x)) T(x' -> x) / T(x -> x')), which makes the
target exact at any eps. Without the second half, the discretised equation is biased of order eps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from physgen.sampling.hmc import Action, Info, State, choose, init

__all__ = ["init", "log_transition", "step"]


def log_transition(start: State, end: Tensor, step_size: float) -> Tensor:
    """Return (C,), log T(start -> end) up to a constant."""
    distance = end - start.x + step_size * start.gradient
    return -distance.square().flatten(1).sum(1) / (4 * step_size)


def step(
    state: State, action: Action, *, step_size: float, generator: torch.Generator
) -> tuple[State, Info]:
    """Move every chain by one accepted or refused Langevin step of size `step_size`."""
    shape, device, dtype = state.x.shape, state.x.device, state.x.dtype
    noise = torch.randn(shape, generator=generator, device=device, dtype=dtype)
    uniform = torch.rand(shape[:1], generator=generator, device=device, dtype=dtype)
    moved = state.x - step_size * state.gradient + math.sqrt(2 * step_size) * noise
    proposal = init(moved, action)
    forwards = log_transition(state, proposal.x, step_size)
    backwards = log_transition(proposal, state.x, step_size)
    return choose(state, proposal, proposal.action - state.action + forwards - backwards, uniform)
