r"""Posteriors by sequential Monte Carlo: particles from the prior to prior times likelihood.

Particles are draws of the prior p(theta); their target becomes p(theta) L(theta)^beta with beta
from 0 to 1 (Del Moral, Doucet & Jasra, J. R. Stat. Soc. B 68 (2006) 411). Each step of beta is as
long as half of the particles count for after weighing; they are resampled and then moved by
differences of others (ter Braak, Stat. Comput. 16 (2006) 239),

    theta_i' = theta_i + gamma (theta_j - theta_k),    gamma = 2.38 / sqrt(2 P), now and then 1,

accepted by Metropolis; j and k belong to the half of the particles that rests. Nothing is tuned,
and particles hop between modes. Posteriors of many data are drawn side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Log = Callable[[Tensor], Tensor]
"""Maps (O, N, P) parameters to (O, N) logarithms, row o for datum o."""

_LONGEST = 60
"""Steps of beta at most; the last one goes to 1."""
_HOPS = 0.15
"""Share of the moves by a whole difference, from mode to mode."""


def sample(
    start: Tensor, log_prior: Log, log_likelihood: Log, moves: int, *, generator: torch.Generator
) -> Tensor:
    """Return (O, N, P) draws of the posteriors of O data.

    Args:
        start: (O, N, P) draws of the prior.
        log_prior: -inf outside.
        log_likelihood: of the data; -inf is allowed.
        moves: of every particle after each step of beta.
        generator: the only source of randomness.

    >>> def log_prior(theta):
    ...     return -theta.square().sum(2) / 2
    >>> def log_likelihood(theta):  # of a datum 2 with error 1: the posterior is N(1, 1/2)
    ...     return -(theta - 2).square().sum(2) / 2
    >>> generator = torch.Generator().manual_seed(1)
    >>> start = torch.randn(1, 4000, 1, generator=generator)
    >>> draws = sample(start, log_prior, log_likelihood, 10, generator=generator)
    >>> [round(float(moment), 1) for moment in (draws.mean(), draws.var())]
    [1.0, 0.5]
    """
    theta, likelihood = start, _finite(log_likelihood(start))
    prior = log_prior(theta)
    beta = theta.new_zeros(len(theta), 1, dtype=torch.float64)
    for number in range(_LONGEST):
        step = 1 - beta if number == _LONGEST - 1 else _step(likelihood, beta)
        chosen = _resample((step * likelihood).softmax(1), generator)
        theta = theta.gather(1, chosen[:, :, None].expand_as(theta))
        prior, likelihood = prior.gather(1, chosen), likelihood.gather(1, chosen)
        beta = beta + step
        for _ in range(moves):
            theta, prior, likelihood = _move(
                theta, (prior, likelihood), beta, (log_prior, log_likelihood), generator
            )
        if bool((beta >= 1).all()):
            break
    return theta


def _step(likelihood: Tensor, beta: Tensor) -> Tensor:
    """Return (O, 1) steps of beta after which half of the particles count."""
    low, high = torch.zeros_like(beta), 1 - beta
    for _ in range(40):
        middle = (low + high) / 2
        weight = (middle * likelihood).softmax(1)
        few = weight.square().sum(1, keepdim=True) * weight.shape[1] > 2
        low, high = torch.where(few, low, middle), torch.where(few, middle, high)
    return torch.where(high > 1 - beta - 1e-9, 1 - beta, low)


def _resample(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Return (O, N) systematically chosen particles, in random order."""
    n_data, n = weight.shape
    away = torch.rand(n_data, 1, generator=generator, dtype=weight.dtype, device=weight.device)
    at = (torch.arange(n, device=weight.device) + away) / n
    chosen = torch.searchsorted(weight.cumsum(1), at).clamp_max(n - 1)
    order = torch.rand(n_data, n, generator=generator, device=weight.device).argsort(1)
    return chosen.gather(1, order)


def _move(
    theta: Tensor,
    logs: tuple[Tensor, Tensor],
    beta: Tensor,
    functions: tuple[Log, Log],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Propose a move to one half of the particles after the other."""
    n_data, n, n_parameters = theta.shape
    order = torch.randperm(n, generator=generator, device=theta.device)
    prior, likelihood = logs
    for moving, resting in ((order[: n // 2], order[n // 2 :]), (order[n // 2 :], order[: n // 2])):
        pair = torch.randint(len(resting), (2, len(moving)), generator=generator).to(resting)
        others = theta[:, resting]
        hop = torch.rand(len(moving), 1, generator=generator).to(theta) < _HOPS
        gamma = torch.where(hop, 1.0, 2.38 / math.sqrt(2 * n_parameters)).to(theta)
        noise = torch.randn(n_data, len(moving), n_parameters, generator=generator).to(theta)
        noise = 1e-3 * others.std(1, keepdim=True) * noise
        there = theta[:, moving] + gamma * (others[:, pair[0]] - others[:, pair[1]]) + noise
        new_prior, new_likelihood = functions[0](there), _finite(functions[1](there))
        gain = new_prior - prior[:, moving] + beta * (new_likelihood - likelihood[:, moving])
        uniform = torch.rand(gain.shape, generator=generator, dtype=gain.dtype).to(gain.device)
        taken = uniform.log() < gain
        theta = theta.index_copy(1, moving, torch.where(taken[:, :, None], there, theta[:, moving]))
        prior = prior.index_copy(1, moving, torch.where(taken, new_prior, prior[:, moving]))
        likelihood = likelihood.index_copy(
            1, moving, torch.where(taken, new_likelihood, likelihood[:, moving])
        )
    return theta, prior, likelihood


def _finite(log: Tensor) -> Tensor:
    """Return logarithms whose products with 0 are 0."""
    return log.double().nan_to_num(nan=-1e30, neginf=-1e30)
