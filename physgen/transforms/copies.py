"""Showers that are as likely as one is, by the symmetry of beam and cells."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from physgen.errors import RecipeError
from physgen.systems.geometry import Geometry


def symmetric_copies(geometry: Geometry) -> Tensor:
    """Return (8, n_voxels) orders of voxels: turned by quarters, and mirrored.

    Raises:
        RecipeError: a layer has sectors, but not a multiple of four.

    >>> from physgen.systems.calorimeter import Calorimeter
    >>> symmetric_copies(Calorimeter().geometry).shape
    torch.Size([8, 368])
    """
    copies = []
    for mirrored in (False, True):
        for quarters in range(4):
            parts = []
            for row, first in zip(geometry.layers, geometry.offsets, strict=False):
                if row.n_alpha > 1 and row.n_alpha % 4:
                    raise RecipeError(
                        f"surrogate.symmetric: layer {row.id} has {row.n_alpha} sectors, and only "
                        "a multiple of four can be turned by quarters; leave it out"
                    )
                numbers = np.arange(row.n_voxels).reshape(row.n_alpha, row.n_r)
                numbers = numbers[::-1] if mirrored else numbers
                numbers = np.roll(numbers, quarters * row.n_alpha // 4, axis=0)
                parts.append(first + numbers.reshape(-1))
            copies.append(np.concatenate(parts))
    return torch.as_tensor(np.stack(copies))
