r"""How an energy is divided between two sides of which the numbers of occupied voxels are known.

In units of the readout threshold W = L + R, with L >= k and R >= m. With

    q = ln (L - k + a k)/(R - m + a m),

and a small a, which shows where voxels lie near the threshold,

    r = q between its least and its largest value,    in [0, 1],
    logit s = logit r - logit r_0,    r_0 where q = beta ln(k/m),

so that s = 1/2 where energies follow the numbers by the exponent beta.
"""

from __future__ import annotations

import torch
from torch import Tensor

from physgen.transforms.showers import SPAN

SHIFT = 0.1
"""a."""
NEAREST = 0.02
"""Least r_0, and 1 - r_0."""


def divided(
    whole: Tensor, s: Tensor, counts: tuple[Tensor, Tensor], power: Tensor
) -> tuple[Tensor, Tensor]:
    """Return L and R of energies W in units of v_0, given s, (k, m) and beta.

    >>> k, m = torch.tensor(3.0), torch.tensor(1.0)
    >>> left, right = divided(torch.tensor(12.0), torch.tensor(0.7), (k, m), torch.tensor(1.0))
    >>> s, _ = fractions(left, right, (k, m), torch.tensor(1.0))
    >>> round(float(left + right), 3), round(float(s), 3)
    (12.0, 0.7)
    """
    k, m = counts
    low, span, centre = _range(whole, k.clamp(min=1), m.clamp(min=1), power)
    q = low + span * s * centre / (s * centre + (1 - s) * (1 - centre))
    free = whole - (1 - SHIFT) * (k + m)
    # Each side from its own sigmoid: the small one keeps its precision.
    left = torch.maximum((1 - SHIFT) * k + free * torch.sigmoid(q), k)
    right = torch.maximum((1 - SHIFT) * m + free * torch.sigmoid(-q), m)
    return left, right


def fractions(
    left: Tensor, right: Tensor, counts: tuple[Tensor, Tensor], power: Tensor
) -> tuple[Tensor, Tensor]:
    """Return s of splits, and ln ds/dL, given L, R in units of v_0, (k, m) and beta."""
    low, span, centre = _range(left + right, *counts, power)
    span = span.clamp(min=SPAN)
    a, b = above(left, counts[0]), above(right, counts[1])
    r = (((a / b).log() - low) / span).clamp(0, 1)
    one, other = r * (1 - centre), (1 - r) * centre
    slope = centre * (1 - centre) / (one + other).square() / span * (1 / a + 1 / b)
    return one / (one + other), slope.log()


def above(energy: Tensor, number: Tensor) -> Tensor:
    """Return L - k + a k."""
    return (energy - number).clamp(min=0) + SHIFT * number


def _range(whole: Tensor, k: Tensor, m: Tensor, power: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the least q of energies in units of v_0, its range, and r_0."""
    free = (whole - k - m).clamp(min=0)
    low = (SHIFT * k / (SHIFT * m + free)).log()
    high = ((SHIFT * k + free) / (SHIFT * m)).log()
    centre = (power * (k / m).log() - low) / (high - low).clamp(min=SPAN)
    return low, high - low, centre.clamp(NEAREST, 1 - NEAREST)
