"""How the visible spins of a Boltzmann machine couple to its hidden ones: all to all, or by place.

A coupling holds W and knows its two products, the fields W s on hidden and h W on visible spins.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class DenseCoupling(nn.Module):
    """Every hidden spin couples to every visible one: W is (hidden, sites).

    Hidden spins are (B, hidden), biases (hidden,) and (*shape).

    >>> coupling = DenseCoupling((2, 3), hidden=4, scale=0.1)
    >>> coupling.to_hidden(torch.ones(5, 2, 3), torch.zeros(4)).shape
    torch.Size([5, 4])
    """

    def __init__(self, shape: tuple[int, ...], hidden: int, scale: float) -> None:
        super().__init__()
        self.shape = shape
        self.weight = nn.Parameter(scale * _normal(hidden, math.prod(shape)))
        self.hidden_shape: tuple[int, ...] = (hidden,)
        self.hidden_bias_shape: tuple[int, ...] = (hidden,)
        self.visible_bias_shape = shape

    def to_hidden(self, spins: Tensor, bias: Tensor) -> Tensor:
        """Return (B, hidden) fields of (B, *shape) spins."""
        return torch.addmm(bias, spins.flatten(1), self.weight.t())

    def to_visible(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """Return (B, *shape) fields of (B, hidden) hidden spins."""
        return torch.addmm(bias.flatten(), hidden, self.weight).reshape(-1, *self.shape)

    def mean_of_shared(self, spins: Tensor) -> Tensor:
        """Return numbers at each visible spin as they are: none share a bias."""
        return spins

    def centre_values(self, q: int) -> Tensor:
        """Subtract from W its mean over `q` values, the first axis of spins.

        Returns (hidden,), what that adds to the fields of hidden spins where each visible spin has
        exactly one value.
        """
        weight = self.weight.data.reshape(len(self.weight), q, -1)
        mean = weight.mean(1, keepdim=True)
        weight -= mean
        return mean.flatten(1).sum(1)


class LatticeCoupling(nn.Module):
    """Filters at every site of a periodic lattice: all sites share W, (hidden, C, size, ...).

    Each filter has a hidden spin at each site, which couples to the visible spins in the block of
    `size` sites a side around it. Hidden spins are (B, hidden, *shape), biases (hidden, 1, ...) and
    (1, ...), so that the energy is invariant under translations (the convolutional machine of Lee
    et al., ICML 2009, on a torus). Where a visible spin is `channels` numbers, spins are (B, C,
    *shape) and their biases (C, 1, ...); else C = 1 has no axis.

    >>> coupling = LatticeCoupling((4, 4), hidden=2, size=3, scale=0.1, channels=3)
    >>> coupling.to_hidden(torch.ones(5, 3, 4, 4), torch.zeros(2, 1, 1)).shape
    torch.Size([5, 2, 4, 4])
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        hidden: int,
        size: int,
        scale: float,
        channels: int | None = None,
    ) -> None:
        super().__init__()
        ones = (1,) * len(shape)
        self.weight = nn.Parameter(scale * _normal(hidden, channels or 1, *(size,) * len(shape)))
        self.hidden_shape = (hidden, *shape)
        self.hidden_bias_shape = (hidden, *ones)
        self.visible_bias_shape = ones if channels is None else (channels, *ones)
        self._axes = tuple(range(-len(shape), 0))
        self._channels = channels
        self._convolve = _CONVOLUTIONS[len(shape)]
        before, after = (size - 1) // 2, size // 2
        self._pad_visible = (before, after) * len(shape)
        self._pad_hidden = (after, before) * len(shape)

    def to_hidden(self, spins: Tensor, bias: Tensor) -> Tensor:
        """Return (B, hidden, *shape) fields of spins."""
        if self._channels is None:
            spins = spins.unsqueeze(1)
        around = F.pad(spins, self._pad_visible, mode="circular")
        return self._convolve(around, self.weight, bias.flatten())

    def to_visible(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """Return fields of visible spins, of (B, hidden, *shape) hidden spins."""
        around = F.pad(hidden, self._pad_hidden, mode="circular")
        mirrored = self.weight.flip(self._axes).transpose(0, 1)
        field = self._convolve(around, mirrored, bias.flatten())
        return field.squeeze(1) if self._channels is None else field

    def mean_of_shared(self, spins: Tensor) -> Tensor:
        """Return numbers at each visible spin averaged over those that share a bias."""
        return spins.mean(self._axes, keepdim=True)

    def centre_values(self, q: int) -> Tensor:
        """Subtract from W its mean over `q` values; see `DenseCoupling.centre_values`."""
        mean = self.weight.data.mean(1, keepdim=True)
        self.weight.data -= mean
        return mean.flatten(1).sum(1)


class ValueCoupling(nn.Module):
    """The same weights for each of q values of visible spins: the energy knows no value by name.

    Spins are (B, q, *shape), of which `coupling` sees those of each value less their mean over
    values, and hidden spins (B, q, ...): each value has its own. Biases of visible spins would tell
    values apart; those of the hidden ones are shared.

    >>> coupling = ValueCoupling(DenseCoupling((2, 3), hidden=4, scale=0.1), q=5)
    >>> coupling.to_hidden(torch.ones(7, 5, 2, 3), torch.zeros(4)).shape
    torch.Size([7, 5, 4])
    """

    def __init__(self, coupling: DenseCoupling | LatticeCoupling, q: int) -> None:
        super().__init__()
        self.each = coupling
        self.q = q
        self.hidden_shape = (q, *coupling.hidden_shape)
        self.hidden_bias_shape = coupling.hidden_bias_shape
        self.visible_bias_shape = (1,) * (1 + len(coupling.visible_bias_shape))

    @property
    def weight(self) -> nn.Parameter:
        """W of each value."""
        return self.each.weight

    def to_hidden(self, spins: Tensor, bias: Tensor) -> Tensor:
        """Return (B, q, ...) fields of (B, q, *shape) spins."""
        centred = spins - spins.mean(1, keepdim=True)
        field = self.each.to_hidden(centred.flatten(0, 1), bias)
        return field.reshape(-1, self.q, *field.shape[1:])

    def to_visible(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """Return (B, q, *shape) fields of (B, q, ...) hidden spins."""
        none = bias.new_zeros(self.each.visible_bias_shape)
        field = self.each.to_visible(hidden.flatten(0, 1), none)
        field = field.reshape(-1, self.q, *field.shape[1:])
        return field - field.mean(1, keepdim=True) + bias

    def mean_of_shared(self, spins: Tensor) -> Tensor:
        """Return the mean of numbers at all visible spins and values."""
        return spins.mean().reshape(self.visible_bias_shape)

    def centre_values(self, q: int) -> Tensor:
        """Return what there is left to centre: nothing."""
        return self.weight.new_zeros(len(self.weight))


def _normal(*shape: int) -> Tensor:
    """Numbers of a fixed seed: the seed of a training is the engine's, not the constructor's."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))
