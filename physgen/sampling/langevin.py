r"""Langevin steps with accept/reject (MALA; Roberts & Tweedie, Bernoulli 2 (1996) 341).

The proposal x' = x - eps dS/dx + sqrt(2 eps) xi, xi ~ N(0, 1), has the density

    log T(x -> x') = -|x' - x + eps dS/dx(x)|^2 / (4 eps) + const

and is accepted with probability min(1, exp(-S(x') + S(x)) T(x' -> x) / T(x -> x')), which makes the
target exact at any eps. Without the second half, the discretised equation is biased of order eps.
With the gradient cut to a largest length in all of this (MALTA, ibid.) the target stays exact, and
chains cannot be thrown out of steep places.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from physgen.sampling.hmc import Action, Info, State, choose, init

__all__ = ["init", "log_transition", "step", "truncated"]


def log_transition(start: State, end: Tensor, step_size: float | Tensor) -> Tensor:
    """Return (C,), log T(start -> end) up to a constant."""
    distance = end - start.x + step_size * start.gradient
    return -distance.square().flatten(1).sum(1) / (4 * step_size)


def truncated(state: State, longest: float) -> State:
    """Cut the gradient of each chain to a largest length."""
    each = (-1, *[1] * (state.x.ndim - 1))
    length = state.gradient.flatten(1).norm(dim=1).reshape(each)
    return replace(state, gradient=state.gradient * (longest / length).clamp(max=1))


def step(
    state: State,
    action: Action,
    *,
    step_size: float | Tensor,
    generator: torch.Generator,
    longest: float | None = None,
) -> tuple[State, Info]:
    """Move every chain by one accepted or refused Langevin step.

    Args:
        state: of (C, ...) chains; its gradients are cut too, if any are.
        action: of the target.
        step_size: eps.
        generator: the only source of randomness.
        longest: length to which gradients are cut.
    """
    shape, device, dtype = state.x.shape, state.x.device, state.x.dtype
    noise = torch.randn(shape, generator=generator, device=device, dtype=dtype)
    uniform = torch.rand(shape[:1], generator=generator, device=device, dtype=dtype)
    if longest is not None:
        state = truncated(state, longest)
    moved = state.x - step_size * state.gradient + (2 * step_size) ** 0.5 * noise
    proposal = init(moved, action)
    if longest is not None:
        proposal = truncated(proposal, longest)
    forwards = log_transition(state, proposal.x, step_size)
    backwards = log_transition(proposal, state.x, step_size)
    return choose(state, proposal, proposal.action - state.action + forwards - backwards, uniform)
