"""Self-attention over the sites of an image (Vaswani et al., arXiv 1706.03762; 1805.08318)."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional

from physgen.networks.conv import normalisation


class SelfAttention(nn.Module):
    """Every site looks at every other one; heads of up to 32 channels. It starts as the identity.

    Args:
        n_channels: of images (B, C, H, W).

    >>> import torch
    >>> SelfAttention(8)(torch.ones(2, 8, 4, 4)).shape
    torch.Size([2, 8, 4, 4])
    """

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.width = math.gcd(32, n_channels)
        self.norm = normalisation(n_channels)
        self.inner = nn.Conv2d(n_channels, 3 * n_channels, 1)
        self.outer = zeroed(nn.Conv2d(n_channels, n_channels, 1))

    def forward(self, h: Tensor) -> Tensor:
        """Return (B, C, H, W)."""
        n, _, rows, columns = h.shape
        parts = self.inner(self.norm(h)).reshape(n, 3, -1, self.width, rows * columns)
        query, key, value = parts.transpose(-1, -2).unbind(1)
        attended = functional.scaled_dot_product_attention(query, key, value)
        out: Tensor = h + self.outer(attended.transpose(-1, -2).reshape(h.shape))
        return out


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """Return a convolution whose parameters are 0, so that what it is added to starts alone."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
