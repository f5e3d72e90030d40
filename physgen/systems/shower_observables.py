"""Observables of calorimeter showers.

With voxel energies v in layer i, E_i = sum v, they are

    E_tot/E_inc, E_i, E_i/E_tot, occupied_i = share of the layer's voxels with energy,
    <c>_i = sum v c / E_i and sigma_c,i = sqrt(<c^2>_i - <c>_i^2) for c = eta, phi in layers with
    sectors, and for c = r in the others, in mm,
    the spectrum: the share of all voxels in each bin of log10(v/MeV).

Centres and widths are measured where it is known where voxels lie.

What depends on a layer's energy is not defined (NaN) where the layer is empty. The sparsity of
CaloChallenge (arXiv:2410.21611) is 1 - `occupied_i`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from physgen.io.showers import SHARES
from physgen.systems.base import Derived
from physgen.systems.geometry import COORDINATES, Coordinate, Geometry

RESOLUTION = {
    "resolution": Derived(
        ("E_tot/E_inc", "(E_tot/E_inc)^2"),
        lambda means: float(math.sqrt(max(means[1] - means[0] ** 2, 0.0)) / means[0]),
    )
}
"""Relative width of the response, sigma(E_tot)/<E_tot>, at the energies of the sample."""

_ROUNDING = 1e-12
"""Of <c^2>: variances below are what is left of sums of 64 bits."""

PLAUSIBLE = {"E_tot/E_inc": SHARES}
"""Where the median of a sample lies if units are not mixed up."""


def observables(
    x: Tensor, energy: Tensor, geometry: Geometry, edges: NDArray[np.float64]
) -> dict[str, Tensor]:
    """Return the observables of the module's description, by name.

    Names end in the layer's id: "E_layer_12", "centre_eta_1", "width_r_12", "occupied_2".
    "spectrum" is (B, bins); all others are (B,).

    Args:
        x: (B, n_voxels) in MeV.
        energy: (B,) of the incoming particles in MeV.
        geometry: of the voxels.
        edges: (bins + 1,) of the spectrum in MeV; the outermost bins are open.

    >>> from physgen.systems.geometry import Layer
    >>> geometry = Geometry((Layer(0, (0.0, 10.0, 20.0), 1), Layer(1, (0.0, 10.0), 4)))
    >>> x, energy = torch.tensor([[60.0, 20.0, 0.0, 0.0, 0.0, 0.0]]), torch.tensor([100.0])
    >>> values = observables(x, energy, geometry, np.logspace(0, 2, 3))
    >>> names = ["E_tot/E_inc", "fraction_0", "occupied_0", "centre_r_0"]
    >>> [round(values[name].item(), 6) for name in names]
    [0.8, 1.0, 1.0, 7.5]
    """
    x, energy = x.double(), energy.double()
    layers = layer_energies(x, geometry)
    total = layers.sum(1)
    values = {"E_tot/E_inc": total / energy, "(E_tot/E_inc)^2": (total / energy) ** 2}
    occupied = layer_energies((x > 0).double(), geometry)
    known = COORDINATES if geometry.placed else ()
    moments = {name: _moments(x, layers, geometry, name) for name in known}
    for i, layer in enumerate(geometry.layers):
        values[f"E_layer_{layer.id}"] = layers[:, i]
        values[f"fraction_{layer.id}"] = layers[:, i] / total
        values[f"occupied_{layer.id}"] = occupied[:, i] / layer.n_voxels
        for name, (centre, width) in moments.items():
            if (name == "r") == (layer.n_alpha == 1):
                values[f"centre_{name}_{layer.id}"] = centre[:, i]
                values[f"width_{name}_{layer.id}"] = width[:, i]
    values["spectrum"] = _spectrum(x, edges)
    return values


def layer_energies(x: Tensor, geometry: Geometry) -> Tensor:
    """Sum (B, n_voxels) over each layer: (B, n_layers)."""
    sizes = [layer.n_voxels for layer in geometry.layers]
    return torch.stack([part.sum(1) for part in torch.split(x, sizes, 1)], 1)


def _moments(
    x: Tensor, layers: Tensor, geometry: Geometry, name: Coordinate
) -> tuple[Tensor, Tensor]:
    """Return (centre, width), (B, n_layers) each, NaN where a layer is empty."""
    position = torch.from_numpy(geometry.coordinate(name)).to(x)
    centre = layer_energies(x * position, geometry) / layers
    square = layer_energies(x * position**2, geometry) / layers
    return centre, width_of(square, centre)


def width_of(square: Tensor, centre: Tensor) -> Tensor:
    """Return the widths sqrt(square - centre^2), 0 where the difference is rounding.

    The width of a single voxel would otherwise tell by its digits energies of 32 from 64 bits.

    >>> one = torch.tensor([0.1], dtype=torch.float64)
    >>> energy = torch.tensor([3.0], dtype=torch.float64)
    >>> width_of(energy * one**2 / energy, energy * one / energy)
    tensor([0.], dtype=torch.float64)
    """
    variance = square - centre**2
    return torch.where(variance < _ROUNDING * square.abs(), 0.0, variance).sqrt()


def _spectrum(x: Tensor, edges: NDArray[np.float64]) -> Tensor:
    inner = torch.from_numpy(edges[1:-1]).to(x.device)
    bins = torch.bucketize(x.contiguous(), inner, right=True)
    counts = torch.zeros((len(x), len(edges) - 1), dtype=x.dtype, device=x.device)
    counts.scatter_add_(1, bins, (x > 0).to(x.dtype))
    return counts / x.shape[1]
