r"""Angles with the density f(theta) ~ exp(beta cos theta + lambda theta) on (-pi, pi), as a map.

The distribution function is integrated between the points of a grid by Gauss's rule, and inverted
by Newton's iteration from there: both to 1e-12. A quantile theta of u moves with beta by
d theta = -dF(theta) / f(theta) at fixed u, so that it can be differentiated.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

_POINTS = 512
"""Of the grid, which is so fine that a rule of three nodes is exact between two points."""
_NEWTON = 2


def gauss_rule(n: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the n nodes in (0, 1) and the weights of Gauss's rule, of the type of `like`."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return like.new_tensor((nodes + 1) / 2), like.new_tensor(weights / 2)


class VonMises:
    """Densities exp(beta cos theta + lambda_k theta), k = 0 ... K - 1, with their quantiles.

    Args:
        beta: (), in double precision.
        tilts: (K,), the lambda_k.

    >>> beta = torch.tensor(2.0, dtype=torch.float64)
    >>> angles = VonMises(beta, beta.new_zeros(1))
    >>> round(angles.quantile(beta.new_tensor([0.75])).item(), 6)  # the upper quartile
    0.529663
    >>> bool((angles.log_norm - (2 * math.pi * torch.special.i0(beta)).log()).abs() < 1e-14)
    True
    """

    def __init__(self, beta: Tensor, tilts: Tensor) -> None:
        self._beta, self._tilts = beta, tilts
        self._nodes, self._weights = gauss_rule(3, beta)
        self._size = 2 * math.pi / _POINTS
        self._edges = torch.arange(_POINTS + 1, dtype=beta.dtype, device=beta.device)
        self._edges = self._edges * self._size - math.pi
        inner = self._edges[:-1, None] + self._size * self._nodes
        parts = (self._density(inner, tilts[:, None, None]) * self._weights).sum(-1) * self._size
        whole = torch.nn.functional.pad(parts.cumsum(1), (1, 0))
        self._total = whole[:, -1]
        self._cdf = whole / self._total[:, None]
        self.log_norm = self._total.log() + beta
        """(K,), the logarithms of the integrals over theta."""

    def quantile(self, u: Tensor, which: Tensor | None = None) -> Tensor:
        """Return the angles below which is the probability `u`, of the densities `which`.

        Args:
            u: in (0, 1), of any shape, in double precision.
            which: numbers k of the same shape; the first where there are none.
        """
        row = torch.zeros_like(u, dtype=torch.long) if which is None else which
        # One ascending table: row k goes from 2 k to 2 k + 1.
        shift = 2.0 * torch.arange(len(self._tilts), device=u.device)[:, None]
        flat = (self._cdf.detach() + shift).flatten()
        place = torch.searchsorted(flat, u + 2.0 * row, right=True) - 1
        place = (place - row * (_POINTS + 1)).clamp(0, _POINTS - 1)
        left = self._edges[place]
        tilt, total = self._tilts[row], self._total[row]
        below = self._cdf[row, place]
        with torch.no_grad():
            share = (u - below) / (self._cdf[row, place + 1] - below)
            theta = left + self._size * share.clamp(0, 1)
            for _ in range(_NEWTON):
                off = below + self._integral(left, theta, tilt) / total - u
                theta = theta - off * total / self._density(theta, tilt)
                theta = torch.minimum(torch.maximum(theta, left), left + self._size)
        # At the root this step is zero, but for its derivative in beta, lambda and u.
        off = below + self._integral(left, theta, tilt) / total - u
        return theta - off * (total / self._density(theta, tilt)).detach()

    def _density(self, theta: Tensor, tilt: Tensor) -> Tensor:
        """Return exp(beta (cos theta - 1) + lambda theta)."""
        return (self._beta * (theta.cos() - 1) + tilt * theta).exp()

    def _integral(self, left: Tensor, right: Tensor, tilt: Tensor) -> Tensor:
        size = (right - left)[..., None]
        points = left[..., None] + size * self._nodes
        return (self._density(points, tilt[..., None]) * self._weights * size).sum(-1)
