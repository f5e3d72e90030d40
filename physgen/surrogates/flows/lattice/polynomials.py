"""Legendre polynomials of one number, and their products for several.

P_0 = 1, P_1 = u, (k + 1) P_{k+1} = (2 k + 1) u P_k - k P_{k-1}: orthogonal on [-1, 1], so that an
optimiser sees directions that hardly disturb each other.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor


def legendre(u: Tensor, n: int) -> Tensor:
    """Return (*shape, n), P_0 to P_{n-1} of numbers in [-1, 1].

    >>> legendre(torch.tensor([0.5]), 3)
    tensor([[ 1.0000,  0.5000, -0.1250]])
    """
    values = [torch.ones_like(u), u]
    for k in range(1, n - 1):
        values.append(((2 * k + 1) * u * values[k] - k * values[k - 1]) / (k + 1))
    return torch.stack(values[:n], -1)


def exponents(n_columns: int, degree: int) -> tuple[tuple[int, ...], ...]:
    """Return the degrees in each of `n_columns` numbers of all products up to a total degree.

    The constant comes first.

    >>> exponents(2, 1)
    ((0, 0), (0, 1), (1, 0))
    """
    every = product(range(degree + 1), repeat=n_columns)
    return tuple(sorted((e for e in every if sum(e) <= degree), key=lambda e: (sum(e), e)))


def products(u: Tensor, degrees: tuple[tuple[int, ...], ...]) -> Tensor:
    """Return (B, J), the products of Legendre polynomials of (B, C) numbers in [-1, 1]."""
    highest = max((max(e, default=0) for e in degrees), default=0)
    values = legendre(u, highest + 1)
    columns = [torch.stack([values[:, c, k] for c, k in enumerate(e)], 1).prod(1) for e in degrees]
    return torch.stack(columns, 1)
