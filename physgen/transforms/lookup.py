"""What was fitted to the D columns of a table, a row of a tensor each, as it is looked up.

Knots (D, K) are those of a distribution function, grids (3, D) the numbers of a `Grid`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from physgen.grids import nearest, number

ROUNDING = 4e-7
"""Relative distance that z keeps from the ends of an atom's interval."""


def count(knots: Tensor, x: Tensor, *, strict: bool) -> Tensor:
    """How many knots (D, K) lie below x (B, D), or at most at it: a search without branches."""
    n_knots = knots.shape[-1]
    flat, row = knots.flatten(), torch.arange(len(knots), device=x.device) * n_knots
    index = torch.zeros_like(x, dtype=torch.long)
    step = 1 << (n_knots.bit_length() - 1)
    while step:
        trial = index + step
        knot = flat[row + trial.clamp_max(n_knots) - 1]
        under = knot < x if strict else knot <= x
        index = torch.where(under & (trial <= n_knots), trial, index)
        step //= 2
    return index


def pick(knots: Tensor, index: Tensor) -> Tensor:
    """Knots (D, K) at an index (B, D) of each column."""
    row = torch.arange(len(knots), device=index.device) * knots.shape[-1]
    return knots.flatten()[row + index]


def draw(start: Tensor, stop: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Draw z of a normal within [start, stop); return also -log of its density there.

    Args:
        start, stop: (B, D) ends of the interval of an atom.
        uniform: (B, D) in [0, 1).
    """
    low = torch.special.ndtr(start.double())
    mass = torch.special.ndtr(stop.double()) - low
    level = low + mass * uniform.clamp_min(1e-12)
    z = torch.special.ndtri(level).to(start)
    # Rounding to single precision must not carry z over to the atom beside.
    inside = (ROUNDING * (1 + z.abs())).minimum((stop - start) / 4)
    z = z.minimum(stop - inside).maximum(start + inside)
    return z, mass.clamp_min(1e-300).log().to(z) + minus_log_normal(z)


def on_grid(x: Tensor, grids: Tensor, limits: Tensor) -> Tensor:
    """Return the points of grids nearest to x (B, D), between the (2, D) limits of the columns."""
    offset, step, divisor = grids
    # A bound that is on the grid must not be taken for one beside it.
    low, high = number(limits, offset, step, divisor)
    low, high = (low - 1e-6).ceil() * step + offset, (high + 1e-6).floor() * step + offset
    return nearest(x, offset, step, divisor).maximum(low / divisor).minimum(high / divisor)


def minus_log_normal(z: Tensor) -> Tensor:
    """Return -log of the standard normal density, of any shape."""
    return 0.5 * z.square() + 0.5 * math.log(2 * math.pi)
