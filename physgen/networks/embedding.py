r"""Time and condition as features that a network is modulated by.

A time t becomes (t, sin w_k t, cos w_k t) at frequencies w_k from 1 to 100 in geometric steps
(Vaswani et al., arXiv 1706.03762, for a real t of order one), to which a linear map of the
condition is added; two layers mix them. `Modulation` turns the features into a scale and a shift
of each channel, h (1 + s) + b (Perez et al., arXiv 1709.07871), which start as the identity.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Embedding(nn.Module):
    """Features of time and condition, (B,) and (B, C) or `None` -> (B, n_features).

    Args:
        n_features: F.
        n_condition: C; where it is 0, or no condition is given, time alone is embedded.

    >>> Embedding(16)(torch.linspace(0, 1, 5)).shape
    torch.Size([5, 16])
    """

    frequencies: Tensor

    def __init__(self, n_features: int, n_condition: int = 0) -> None:
        super().__init__()
        frequencies = torch.logspace(0, 2, 16)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.time = nn.Linear(1 + 2 * len(frequencies), n_features)
        self.condition = nn.Linear(n_condition, n_features, bias=False) if n_condition else None
        self.mix = nn.Sequential(nn.SiLU(), nn.Linear(n_features, n_features), nn.SiLU())

    def forward(self, time: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B, n_features)."""
        waves = time[:, None] * self.frequencies
        h = self.time(torch.cat([time[:, None], waves.sin(), waves.cos()], 1))
        if self.condition is not None and condition is not None:
            h = h + self.condition(condition)
        mixed: Tensor = self.mix(h)
        return mixed


class Modulation(nn.Module):
    """Scale and shift of each channel of (B, C, ...) by features (B, F); starts as the identity.

    Args:
        n_features: F.
        n_channels: C.
    """

    def __init__(self, n_features: int, n_channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_features, 2 * n_channels)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, h: Tensor, features: Tensor) -> Tensor:
        """Return (B, C, ...)."""
        scale, shift = self.linear(features).unflatten(1, (-1, *[1] * (h.ndim - 2))).chunk(2, 1)
        modulated: Tensor = h * (1 + scale) + shift
        return modulated
