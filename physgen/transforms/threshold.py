"""The readout threshold of showers, taken from the data."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from physgen.errors import DomainError

SEEN = 1_000_000
"""Energies of so many voxels are looked at for what is unusual about them."""
STRAY = 1e-3
"""As small a share of the voxels does not make a threshold."""
FAR = 10.0
"""A voxel that has as many times less than the rest is a stray one."""
REPEATED, FEWEST = 0.01, 10
"""Where as large a share of the voxels is at the threshold, and as many, energies are multiples of
a step."""


def threshold_of(x: Tensor, at_once: int) -> Tensor:
    """Return the smallest energy of a voxel in MeV, ().

    Args:
        x: (B, n_voxels) showers in MeV.
        at_once: showers that are looked at together, which bounds the memory.

    Raises:
        DomainError: all showers are empty.

    Warns:
        UserWarning: few voxels lie far below the others, or many have the same, smallest energy.

    >>> threshold_of(torch.tensor([[0.0, 3.0], [2.0, 0.0]]), 1)
    tensor(2.)
    """
    positive, n = [], 0
    least, row, voxel = torch.inf, 0, 0
    for first, part in zip(range(0, len(x), at_once), torch.split(x, at_once), strict=True):
        found = torch.where(part > 0, part, torch.inf)
        place = int(found.argmin())
        if float(found.flatten()[place]) < least:
            least = float(found.flatten()[place])
            row, voxel = first + place // x.shape[1], place % x.shape[1]
        if n < SEEN:
            positive.append(part[part > 0])
            n += len(positive[-1])
    if least == torch.inf:
        raise DomainError("all showers are empty: nothing to learn from")
    energies = torch.cat(positive)[:SEEN].double()
    usual = float(energies.kthvalue(1 + int(STRAY * (len(energies) - 1))).values)
    if least < usual / FAR:
        warnings.warn(
            f"voxel {voxel} of training shower {row} has {least:.3g} MeV, the smallest energy, "
            f"which is taken for the readout threshold, but {1 - STRAY:.1%} of all voxels with "
            f"energy have {usual:.3g} MeV or more: samples will fill what lies between; set what "
            "is below the threshold to 0 in the file",
            stacklevel=2,
        )
    equal = int((energies == least).sum())
    share = equal / len(energies)
    if equal >= FEWEST and REPEATED < share < 1:
        warnings.warn(
            f"{share:.1%} of all voxels with energy have the smallest, {least:.3g} MeV: energies "
            "seem to be multiples of a step, but densities of showers are those of continuous "
            "energies and would learn them wrongly; add uniform noise of a step to them",
            stacklevel=2,
        )
    return x.new_tensor(least)
