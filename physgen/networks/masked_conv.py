r"""Masked convolutions over lattice sites in raster order (PixelCNN, arXiv 1601.06759).

The kernel of the first layer reaches the sites before its middle, those of further layers the
middle too, so that the parameters of a site depend on the sites before it. Outside the lattice are
zeros. Activations of a site are final once it is reached: to go through the sites in order, and
compute at each what its kernels reach, takes as many operations as one pass.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from physgen.errors import RecipeError
from physgen.ranges import Options, Positive


class MaskedConvOptions(Options):
    """Masked convolutions, for lattices of one to three axes.

    Attributes:
        channels: of each layer.
        depth: number of layers of kernels.
        reach: how many sites a kernel reaches to each side.
    """

    kind: Literal["conv"] = "conv"
    channels: Positive = 16
    depth: Positive = 3
    reach: Positive = 3


class MaskedConv(nn.Module):
    """From spins, as a convolutional network sees them, to parameters of each.

    Args:
        shape: of the lattice, one to three lengths.
        sites: ascending numbers of the sites that are modelled; the others are zeros.
        n_inputs: numbers by which a site is shown to the later ones.
        n_context: size of the context.
        n_outputs: parameters of a site.
        options: of the convolutions.

    Raises:
        RecipeError: the lattice has more than three axes.

    >>> options = MaskedConvOptions(channels=4, depth=2)
    >>> network = MaskedConv((4, 4), range(16), 1, 0, 2, options=options)
    >>> network(torch.zeros(5, 16, 1), torch.zeros(5, 0)).shape
    torch.Size([5, 16, 2])
    """

    sites: Tensor
    masks: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        sites: Sequence[int],
        n_inputs: int,
        n_context: int,
        n_outputs: int,
        options: MaskedConvOptions,
    ) -> None:
        super().__init__()
        if not 1 <= len(shape) <= 3:
            raise RecipeError(
                f"surrogate.network.kind: conv convolves one to three axes, and samples are of "
                f"shape {list(shape)}; take kind=dense"
            )
        self.shape, self.n_inputs, reach = shape, n_inputs, options.reach
        self.kernel = (reach + 1, *[2 * reach + 1] * (len(shape) - 1))
        self._padding = [reach, reach] * (len(shape) - 1) + [reach, 0]
        channels, size = options.channels, math.prod(self.kernel)
        middle = size - 1 - (math.prod(self.kernel[1:]) - 1) // 2
        self._modelled = set(sites)
        self.register_buffer("sites", torch.as_tensor(list(sites)), persistent=False)
        steps = torch.arange(size)
        masks = torch.stack([steps < middle, steps <= middle]).float()
        self.register_buffer("masks", masks, persistent=False)
        widths = [n_inputs, *[channels] * options.depth]
        self.weights = nn.ParameterList(
            torch.randn(channels, width, size) / math.sqrt(width * middle) for width in widths[:-1]
        )
        self.biases = nn.ParameterList(torch.zeros(channels) for _ in widths[:-1])
        # What has been drawn around a site depends on where it is.
        self.places = nn.Parameter(torch.zeros(channels, math.prod(shape)))
        self.context = nn.Linear(n_context, channels, bias=False) if n_context else None
        self.last = nn.Linear(channels + n_context, n_outputs)

    def forward(self, inputs: Tensor, context: Tensor) -> Tensor:
        """Return the parameters (B, D, n_outputs) of sites shown as (B, D, n_inputs)."""
        convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[len(self.shape) - 1]
        n = math.prod(self.shape)
        h = inputs.new_zeros(len(inputs), self.n_inputs, n)
        h[:, :, self.sites] = inputs.transpose(1, 2)
        for layer, weight in enumerate(self._masked()):
            padded = functional.pad(h.reshape(*h.shape[:2], *self.shape), self._padding)
            kernel = weight.reshape(*weight.shape[:2], *self.kernel)
            new = convolve(padded, kernel, self.biases[layer]).flatten(2)
            if layer == 0:
                new = functional.silu(new + self._start(context).transpose(0, 1))
            h = new if layer == 0 else h + functional.silu(new)
        given = context[:, None].expand(-1, len(self.sites), -1)
        out: Tensor = self.last(torch.cat([h[:, :, self.sites].transpose(1, 2), given], 2))
        return out

    def autoregress(self, context: Tensor, draw: Callable[[int, Tensor], Tensor]) -> None:
        """Go through the sites in order; see `MaskedMLP.autoregress`."""
        weights = [weight.transpose(1, 2).flatten(1) for weight in self._masked()]
        outer = [length + reach for length, reach in zip(self.shape, self._rims(), strict=True)]
        seen = [
            context.new_zeros(math.prod(outer), width, len(context))
            for width in (self.n_inputs, *[len(bias) for bias in self.biases])
        ]
        start, number = self._start(context), 0
        for site, (place, window) in enumerate(self._windows(outer)):
            for layer, weight in enumerate(weights):
                new = weight @ seen[layer][window].flatten(0, 1) + self.biases[layer][:, None]
                if layer == 0:
                    h = functional.silu(new + start[:, :, site])
                else:
                    h = h + functional.silu(new)
                seen[layer + 1][place] = h
            if site in self._modelled:
                known = torch.cat([h, context.T])
                parameters = self.last.weight @ known + self.last.bias[:, None]
                seen[0][place] = draw(number, parameters)
                number += 1

    def _masked(self) -> list[Tensor]:
        return [w * self.masks[min(layer, 1)] for layer, w in enumerate(self.weights)]

    def _start(self, context: Tensor) -> Tensor:
        """Return (channels, B or 1, N), what the first layer adds by place and context."""
        if self.context is None:
            return self.places[:, None]
        by_context: Tensor = self.context(context)
        return self.places[:, None] + by_context.T[:, :, None]

    def _rims(self) -> list[int]:
        """Return how much longer the padded lattice is along each axis."""
        return [self.kernel[0] - 1, *[length - 1 for length in self.kernel[1:]]]

    def _windows(self, outer: Sequence[int]) -> list[tuple[int, Tensor]]:
        """Return where each site is in the padded lattice, and where its kernel reaches."""
        numbers = torch.arange(math.prod(outer)).reshape(*outer)
        reach = self.kernel[0] - 1
        windows = []
        for at in itertools.product(*map(range, self.shape)):
            block = tuple(slice(i, i + k) for i, k in zip(at, self.kernel, strict=True))
            place = numbers[(at[0] + reach, *[i + reach for i in at[1:]])]
            windows.append((int(place), numbers[block].flatten().to(self.places.device)))
        return windows
