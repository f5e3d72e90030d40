r"""Bijections of R^D.

z = f(x | c) and log q(x | c) = log N(z; 0, 1) + log|det df/dx|.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Bijection(nn.Module):
    """A conditional bijection of R^features, with log-determinants in the dtype of its input.

    Args:
        features: size of x.
        n_condition: size of the condition; 0 for none.

    >>> from physgen.surrogates.flows.stack import CouplingStack
    >>> bijection = CouplingStack(2)  # new ones are the identity, up to order
    >>> bijection.log_prob(torch.zeros(1, 2)).exp()  # 1 / (2 pi)
    tensor([0.1592], grad_fn=<ExpBackward0>)
    """

    not_exported: str = ""
    """Why the way to the data is no graph of one shape, and what to do; see `Surrogate`."""

    starts_at_data: bool = False
    """Whether `start_at` is to be called before the first step."""

    def __init__(self, features: int, n_condition: int = 0) -> None:
        super().__init__()
        self.features, self.n_condition = features, n_condition

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data (B, features) to the base; return z and log|det dz/dx|, (B,)."""
        raise NotImplementedError

    def inverse(self, z: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map the base (B, features) to data; return x and log|det dx/dz|, (B,)."""
        raise NotImplementedError

    def from_noise(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map the base to data, where the log-determinant is not asked for."""
        return self.inverse(z, condition)[0]

    def start_at(self, x: Tensor, condition: Tensor | None, weight: Tensor) -> None:
        """Begin near data (N, features) given (N, C); each row counts for its weight, (N,)."""

    def log_prob(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B,) log q(x | condition) under a standard normal base."""
        z, log_det = self(x, condition)
        total: Tensor = standard_normal(z) + log_det
        return total


def fixed_orders(n: int, features: int) -> Tensor:
    """Return (n, features) permutations, the same ones for the same number of features."""
    generator = torch.Generator().manual_seed(features)
    orders = torch.empty(n, features, dtype=torch.long)
    for order in orders:
        torch.randperm(features, generator=generator, out=order)
    return orders


def standard_normal(z: Tensor) -> Tensor:
    """Log-density (B,) of z (B, D) under N(0, 1)^D."""
    return -0.5 * z.square().sum(-1) - 0.5 * z.shape[-1] * math.log(2 * math.pi)
