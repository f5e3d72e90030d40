r"""Hybrid Monte Carlo at several temperatures at once, for actions whose chains do not mix alone.

Levels 0 = beta_0 < ... < beta_K = 1 lead from independent normal numbers to the action,

    S_beta(x) = beta S(x) + (1 - beta) |x|^2 / 2 sigma^2.

The lowest level is drawn afresh each time, all others move by HMC, and neighbouring levels exchange
their configurations with the probability min(1, exp((beta' - beta)(U' - U))), U = S - |x|^2 / 2
sigma^2: a mode is left by way of the low levels and another entered. The levels are placed so that
all exchanges fail equally often, about half of the time, which is best for the traffic between the
ends (Syed, Bouchard-Cote, Deligiannidis & Doucet, J. R. Stat. Soc. B 84 (2022) 321).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from physgen.sampling import hmc

_FIRST_LEVELS = 10
_MOST_LEVELS = 40
_ROUNDS = 4
_TARGET = 0.8


@dataclass
class Ladder:
    """Levels of C systems each, (K C, ...) configurations in all, the lowest level first.

    Attributes:
        x: (K, C, ...).
        action: of (B, ...) configurations.
        width: sigma.
        betas: (K,), from 0 to 1.
        log_steps: (K,), of HMC.
        generator: the only source of randomness.
    """

    x: Tensor
    action: hmc.Action
    width: float
    betas: Tensor
    log_steps: Tensor
    generator: torch.Generator

    def sweep(self, adapt: float = 0.0) -> Tensor:
        """Move all levels and exchange neighbours; return (K - 1,) probabilities of failing.

        Args:
            adapt: by how much step sizes follow their acceptance.
        """
        levels, systems = self.x.shape[:2]
        each = (-1, *[1] * (self.x.ndim - 2))
        beta = self.betas.repeat_interleave(systems)

        def tempered(x: Tensor) -> Tensor:
            return beta * self.action(x) + (1 - beta) * self._free(x)

        jitter = 0.5 + float(torch.rand((), generator=self.generator))
        n_steps = max(1, round(8 * jitter))
        steps = self.log_steps.exp().repeat_interleave(systems).reshape(each)
        state, info = hmc.step(
            hmc.init(self.x.flatten(0, 1), tempered),
            tempered,
            step_size=steps,
            n_steps=n_steps,
            generator=self.generator,
        )
        if adapt:
            rate = info.probability.reshape(levels, systems).mean(1)
            self.log_steps += adapt * (rate - _TARGET)
        x = state.x.reshape_as(self.x).clone()
        x[0].normal_(generator=self.generator).mul_(self.width)
        with torch.no_grad():
            flat = x.flatten(0, 1)
            energy = (self.action(flat) - self._free(flat)).reshape(levels, systems)
        order, failing = self._exchange(energy)
        self.x = x.gather(0, order.reshape(*order.shape, *each[1:]).expand_as(x))
        return failing

    def _exchange(self, energy: Tensor) -> tuple[Tensor, Tensor]:
        """Exchange neighbours given (K, C) values of U, in as many passes as bring all together.

        Exchanges cost nothing beside the moves. Returns (K, C), from which level each
        configuration comes, and (K - 1,) probabilities of failing.
        """
        levels, systems = energy.shape
        step = (self.betas[1:] - self.betas[:-1])[:, None]
        failing = 1 - (step * (energy[1:] - energy[:-1])).clamp(max=0).exp().nan_to_num(nan=0.0)
        uniform = torch.rand(
            (levels, levels - 1, systems), generator=self.generator, dtype=energy.dtype
        ).log()
        # On arrays of NumPy, since there are many steps of few numbers.
        u, steps, index = energy.numpy(), step.numpy(), np.arange(levels)[:, None]
        order = np.broadcast_to(index, u.shape)
        for number, log_uniform in enumerate(uniform.numpy()):
            swap = log_uniform < steps * (u[1:] - u[:-1])
            swap[number % 2 :: 2] = False
            come = np.broadcast_to(index, u.shape).copy()
            come[:-1] += swap
            come[1:] -= swap
            u, order = np.take_along_axis(u, come, 0), np.take_along_axis(order, come, 0)
        return torch.from_numpy(order), failing.mean(1)

    def replace_levels(self, failing: Tensor) -> None:
        """Place levels anew so that exchanges fail equally often, about half of the time."""
        failing = failing.clamp(min=1e-3)
        barrier = torch.cat([failing.new_zeros(1), failing.cumsum(0)])
        n = min(max(math.ceil(2 * float(barrier[-1])) + 1, 4), _MOST_LEVELS)
        wanted = torch.linspace(0, float(barrier[-1]), n, dtype=barrier.dtype)
        upper = torch.searchsorted(barrier, wanted).clamp(1, len(barrier) - 1)
        share = (wanted - barrier[upper - 1]) / (barrier[upper] - barrier[upper - 1])
        betas, steps = self.betas, self.log_steps
        self.betas = torch.lerp(betas[upper - 1], betas[upper], share)
        self.betas[0], self.betas[-1] = 0.0, 1.0
        self.log_steps = torch.lerp(steps[upper - 1], steps[upper], share)
        nearest = torch.where(share < 0.5, upper - 1, upper)
        self.x = self.x[nearest].clone()

    def _free(self, x: Tensor) -> Tensor:
        return x.square().flatten(1).sum(1) / (2 * self.width**2)


def init(x: Tensor, action: hmc.Action, *, step_size: float, generator: torch.Generator) -> Ladder:
    """Start systems (C, ...) at all levels, place the levels, and let them warm up.

    Args:
        x: configurations from all modes that are known.
        action: as `hmc` takes it.
        step_size: of HMC with the action.
        generator: the only source of randomness.
    """
    levels = _FIRST_LEVELS
    betas = torch.linspace(0, 1, levels, dtype=x.dtype) ** 2
    ladder = Ladder(
        x.expand(levels, *x.shape).clone(),
        action,
        float(x.square().mean().sqrt()),
        betas,
        torch.full((levels,), math.log(step_size), dtype=x.dtype),
        generator,
    )
    for round_ in range(_ROUNDS):
        failing = torch.zeros(len(ladder.betas) - 1, dtype=x.dtype)
        for trial in range(50):
            result = ladder.sweep(adapt=1 / (1 + 0.2 * trial))
            failing += result / 40 * (trial >= 10)
        if round_ < _ROUNDS - 1:
            ladder.replace_levels(failing)
    return ladder


def sample(ladder: Ladder, n_keep: int, n_skip: int = 1) -> Tensor:
    """Return (C, n_keep, ...): every `n_skip`-th configuration of the action itself."""
    states = []
    for _ in range(n_keep):
        for _ in range(n_skip):
            ladder.sweep()
        states.append(ladder.x[-1].clone())
    return torch.stack(states, 1)
