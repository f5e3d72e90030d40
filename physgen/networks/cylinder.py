r"""Cylindrical convolutions: networks of voxels around an axis, in layers, sectors and rings.

Sectors close a circle, so that convolutions wrap round in alpha, and the network commutes with
turns by whole sectors. Layers and rings have ends: there the image goes on with zeros, and since a
shower is another one at another depth and radius, every place (z, r) has numbers of its own that
are added to the channels (Amram & Pedro, arXiv 2308.03876, show z and r as channels).

    image -> patches of layers and rings -> residual blocks of convolutions -> voxels

A patch holds a few neighbours in z and r as channels of one place: a patch of all layers and rings
is dense in z and r and a convolution in alpha; one of 1 x 1 convolves voxels in all three. Layers
of fewer sectors or rings than others are shown as `Geometry.voxel_grid` has them, and their output
is the mean over the places where they are shown.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from physgen.networks.conv import normalisation
from physgen.networks.embedding import Embedding, Modulation
from physgen.ranges import Options, Positive


def voxel_image(x: Tensor, grid: Tensor) -> Tensor:
    """Return (B, layers, sectors, rings) of voxels (B, n), zero where the grid says -1."""
    return functional.pad(x, (0, 1))[:, grid]


def cylinder_padded(h: Tensor, rings: int = 1) -> Tensor:
    """Pad (..., sectors, rings): sectors go round, by one; rings end with as many zeros as asked.

    >>> cylinder_padded(torch.tensor([[1.0], [2.0], [3.0]]))[:, 1]
    tensor([3., 1., 2., 3., 1.])
    """
    round_ = torch.cat([h[..., -1:, :], h, h[..., :1, :]], -2)
    return functional.pad(round_, (rings, rings))


class CylindricalOptions(Options):
    """Cylindrical convolutions, for showers in voxels.

    Attributes:
        channels: of each place.
        depth: number of residual blocks.
        patch: how many neighbouring layers and rings make one place.
    """

    kind: Literal["cylindrical"] = "cylindrical"
    channels: Positive = 64
    depth: Positive = 3
    patch: tuple[Positive, Positive] = (1, 4)


class CylindricalNetwork(nn.Module):
    """A network of (voxels (B, n), time (B,), condition (B, C) or `None`), giving (B, n).

    Args:
        grid: (layers, sectors, rings) numbers of voxels, -1 where there is none.
        n_condition: C.
        options: of patches and blocks.

    >>> grid = np.arange(2 * 8 * 3).reshape(2, 8, 3)
    >>> network = CylindricalNetwork(grid, options=CylindricalOptions(channels=8, depth=1))
    >>> network(torch.zeros(5, 48), torch.rand(5)).shape
    torch.Size([5, 48])
    """

    grid: Tensor
    shown: Tensor
    place: Tensor

    def __init__(
        self,
        grid: NDArray[np.int64],
        n_condition: int = 0,
        options: CylindricalOptions = CylindricalOptions(),
    ) -> None:
        super().__init__()
        n_layers, _, n_rings = grid.shape
        deep, wide = (min(p, n) for p, n in zip(options.patch, (n_layers, n_rings), strict=True))
        self.patch = deep, wide
        self.missing = -n_layers % deep, -n_rings % wide
        n_places = -(-n_layers // deep), -(-n_rings // wide)
        self.places = (options.channels, n_places[0], 1, n_places[1])
        n_features = 2 * options.channels
        self.embedding = Embedding(n_features, n_condition)
        self.first = nn.Conv3d(deep * wide, options.channels, 1)
        self.position = nn.Linear(n_features, options.channels * n_places[0] * n_places[1])
        self.blocks = nn.ModuleList(
            _Block(options.channels, n_features, n_places) for _ in range(options.depth)
        )
        self.norm = normalisation(options.channels)
        self.last = _zeroed(nn.Conv3d(options.channels, deep * wide, 1))
        # Of normal numbers that are independent the velocity is linear in each, by the time.
        self.linear = _zeroed(nn.Linear(n_features, n_layers * n_rings))
        voxels = torch.from_numpy(grid)
        self.register_buffer("grid", voxels, persistent=False)
        there, n = voxels >= 0, int(grid.max()) + 1
        self.register_buffer("shown", torch.bincount(voxels[there], minlength=n), persistent=False)
        at = (torch.arange(n_layers)[:, None] * n_rings + torch.arange(n_rings))[:, None]
        place = torch.zeros(n, dtype=torch.long)
        place[voxels[there]] = at.expand_as(voxels)[there]
        self.register_buffer("place", place, persistent=False)

    def forward(self, x: Tensor, time: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B, n)."""
        features = self.embedding(time, condition)
        h: Tensor = self.first(self._patched(voxel_image(x, self.grid)))
        h = h + self.position(features).reshape(-1, *self.places)
        for block in self.blocks:
            h = h + block(h, features)
        image = self._unpatched(self.last(functional.silu(self.norm(h))))
        out: Tensor = self._voxels(image) + self.linear(features)[:, self.place] * x
        return out

    def _patched(self, image: Tensor) -> Tensor:
        """Return (B, patch, layers', sectors, rings') of (B, layers, sectors, rings)."""
        layers, rings = self.missing
        image = functional.pad(image, (0, rings, 0, 0, 0, layers))
        (deep, wide), (_, n_layers, _, n_rings) = self.patch, self.places
        parts = image.reshape(-1, n_layers, deep, image.shape[2], n_rings, wide)
        patched: Tensor = parts.permute(0, 2, 5, 1, 3, 4).flatten(1, 2)
        return patched

    def _unpatched(self, h: Tensor) -> Tensor:
        """Return (B, layers, sectors, rings) of (B, patch, layers', sectors, rings')."""
        parts = h.reshape(-1, *self.patch, *h.shape[2:]).permute(0, 3, 1, 4, 5, 2)
        return parts.flatten(4, 5).flatten(1, 2)[:, : len(self.grid), :, : self.grid.shape[2]]

    def _voxels(self, image: Tensor) -> Tensor:
        """Return (B, n), means over where each voxel is shown."""
        n = len(self.shown)
        # What stands where no voxel is goes to one that is not there.
        to = torch.where(self.grid < 0, n, self.grid).flatten()
        sums = image.new_zeros(image.shape[0], n + 1).index_add(1, to, image.flatten(1))
        return sums[:, :n] / self.shown


class _Block(nn.Module):
    """A cylindrical convolution and one of 1 x 1 x 1; (B, C, layers, sectors, rings) to the same.

    Among (layers, rings) `n_places`, a single one has no neighbours to look at.
    """

    def __init__(self, channels: int, n_features: int, n_places: tuple[int, int]) -> None:
        super().__init__()
        self.norm_in, self.norm_out = normalisation(channels), normalisation(channels)
        layers, self.rings = (int(n > 1) for n in n_places)
        size = 1 + 2 * layers, 3, 1 + 2 * self.rings
        self.inner = nn.Conv3d(channels, channels, size, padding=(layers, 0, 0))
        self.modulation = Modulation(n_features, channels)
        self.outer = _zeroed(nn.Conv3d(channels, channels, 1))

    def forward(self, h: Tensor, features: Tensor) -> Tensor:
        y = self.inner(cylinder_padded(functional.silu(self.norm_in(h)), self.rings))
        y = self.modulation(self.norm_out(y), features)
        out: Tensor = self.outer(functional.silu(y))
        return out


def _zeroed(layer: nn.Conv3d | nn.Linear) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
