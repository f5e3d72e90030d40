r"""Mixtures of logistic densities, whose parameters are outputs of a network.

    q(x) = \sum_c w_c \sigma'((x - \mu_c)/s_c)/s_c,

with the logistic function \sigma. Of n components there are 3 n outputs: n locations, n of scales,
n of shares. A draw takes a uniform number, which says the component, and a standard logistic one.

Of a distribution with ends, what lies beyond |x| = X is spread as a standard logistic number is,

    q(x) = P(|x| > X) e^{X - |x|}    on either side,

so that \sigma(x) is uniform there, however wide the components are, or far from 0.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

LOG_SCALE_LIMIT = 3.0
"""Bound on |ln s| of a component."""
FARTHEST = 11.5
"""X: where the logistic function is 1e-5, and 1 less that."""


def _components(out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return locations, ln of scales and ln of shares up to a constant, (N, n) each."""
    location, scale, share = out.chunk(3, -1)
    return location, LOG_SCALE_LIMIT * torch.tanh(scale / LOG_SCALE_LIMIT), share


def spread(n: int) -> Tensor:
    """Return n different locations about 0: components that are alike would remain alike."""
    return torch.linspace(-0.5, 0.5, n) if n > 1 else torch.zeros(n)


def located(out: Tensor, shift: Tensor) -> Tensor:
    """Return outputs (..., 3 n) whose locations are moved by (...)."""
    n = out.shape[-1] // 3
    return torch.cat([out[..., :n] + shift[..., None], out[..., n:]], -1)


def narrowed(out: Tensor) -> Tensor:
    r"""Return outputs (..., 3 n) whose components are no wider than a standard logistic one.

    Where \sigma(x) is uniform over all events, those of one condition have at most a multiple of
    that density, and so no heavier tails.
    """
    location, scale, share = out.chunk(3, -1)
    return torch.cat([location, functional.logsigmoid(scale), share], -1)


def log_density(x: Tensor, out: Tensor) -> Tensor:
    """Return the logarithm of the density with ends of x, (N,), given outputs (N, 3 n)."""
    location, log_scale, share = _components(out)
    x = x[:, None]
    r = (x.clamp(-FARTHEST, FARTHEST) - location) * (-log_scale).exp()
    low, high = functional.logsigmoid(r), functional.logsigmoid(-r)
    each = torch.where(x < -FARTHEST, low, low + high - log_scale)
    each = torch.where(x > FARTHEST, high, each) - (x.abs() - FARTHEST).clamp(min=0)
    return (each + share.log_softmax(-1)).logsumexp(-1)


def log_probability(low: Tensor, high: Tensor, out: Tensor) -> Tensor:
    """Return ln of the probability of (low, high), (N,) each, where infinite ends are open."""
    location, log_scale, share = _components(out)
    first, last = torch.isneginf(low)[:, None], torch.isposinf(high)[:, None]
    inverse = (-log_scale).exp()
    a = (torch.where(first, 0.0, low[:, None]) - location) * inverse
    b = (torch.where(last, 0.0, high[:, None]) - location) * inverse
    # sigma(b) - sigma(a) = sigma(b) sigma(-a) (1 - exp(a - b)).
    width = torch.where(first | last, 1.0, b - a).clamp(min=1e-6)
    each = torch.where(last, 0.0, functional.logsigmoid(b))
    each = each + torch.where(first, 0.0, functional.logsigmoid(-a))
    each = each + torch.where(first | last, 0.0, (-torch.expm1(-width)).log())
    return (each + share.log_softmax(-1)).logsumexp(-1)


def below(x: Tensor, out: Tensor) -> Tensor:
    """Return the probability of less than x, (N,), given outputs (N, 3 n)."""
    location, log_scale, share = _components(out)
    each = torch.sigmoid((x[:, None] - location) * (-log_scale).exp())
    return (each * share.softmax(-1)).sum(-1)


def _chosen(u: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """Return locations and scales of the components that u in [0, 1) decides for, (N,) each."""
    location, log_scale, share = _components(out)
    below = share.softmax(-1).cumsum(-1)[:, :-1]
    which = (u[:, None] >= below).sum(-1, keepdim=True)
    return location.gather(-1, which)[:, 0], log_scale.gather(-1, which).exp()[:, 0]


def draw(u: Tensor, logistic: Tensor, out: Tensor) -> Tensor:
    """Return x, (N,): `u` decides which component, and `logistic` is standard logistic."""
    location, scale = _chosen(u, out)
    return location + scale * logistic


def draw_with_ends(u: Tensor, logistic: Tensor, out: Tensor) -> Tensor:
    """Return the same of the density with ends."""
    location, scale = _chosen(u, out)
    x = location + scale * logistic
    sign = torch.where(x < 0, -1.0, 1.0)
    # Of what the component has beyond, this share is farther.
    edge = (sign * location - FARTHEST) / scale
    farther = functional.logsigmoid(-sign * logistic) - functional.logsigmoid(edge)
    return torch.where(x.abs() > FARTHEST, sign * (FARTHEST - farther), x)
