"""What the reference evaluation of CaloChallenge (arXiv:2410.21611) looks at, in its order.

Of voxel energies v in MeV, those below the readout threshold taken for 0, in layers i:

    high        log10 E_inc; log10(E_i + 1e-8) of each layer; then for c = eta, phi, of the layers
                with sectors, <c>_i / 100 mm, eta before phi, and sigma_c,i likewise; <r>_i and
                sigma_r,i / 100 mm of all layers; log10(E_tot + 1e-8); the sparsity of each layer
    low         log10 E_inc; 100 v / E_inc
    normalised  log10 E_inc; v / (E_i + 1e-16); log10(E_i + 1e-8)

Sparsity is the share of voxels of a layer without energy. Centres and widths of an empty layer are
0 here, and not defined in `physgen.systems.shower_observables`.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from physgen.systems.geometry import Coordinate, Geometry
from physgen.systems.shower_observables import layer_energies

Level = Literal["low", "normalised", "high"]

_SMALL = 1e-8
_MM = 100.0


def thresholded(x: Tensor, cut: float) -> Tensor:
    """Return (B, n_voxels) energies, of which those below a cut are 0.

    >>> thresholded(torch.tensor([[0.4, 1.0, 3.0]]), 1.0)
    tensor([[0., 1., 3.]])
    """
    return torch.where(x < cut, 0.0, x)


def features(x: Tensor, energy: Tensor, geometry: Geometry, level: Level) -> Tensor:
    """Return (B, F) features of the module's description.

    Args:
        x: (B, n_voxels) in MeV, see `thresholded`.
        energy: (B,) of the incoming particles in MeV.
        geometry: of the voxels.
        level: which of them.

    >>> from physgen.systems.geometry import Layer
    >>> geometry = Geometry((Layer(0, (0.0, 10.0, 20.0), 1), Layer(1, (0.0, 10.0), 4)))
    >>> x, energy = torch.tensor([[60.0, 20.0, 0.0, 0.0, 0.0, 0.0]]), torch.tensor([100.0])
    >>> [round(value, 3) for value in features(x, energy, geometry, "high")[0].tolist()]
    [2.0, 1.903, -8.0, 0.0, 0.0, 0.0, 0.0, 0.075, 0.0, 0.043, 0.0, 1.903, 0.0, 1.0]
    """
    x, energy = x.double(), energy.double()
    layers = layer_energies(x, geometry)
    columns = [torch.log10(energy)[:, None]]
    if level == "low":
        return torch.cat([*columns, 100 * x / energy[:, None]], 1)
    if level == "normalised":
        at = torch.from_numpy(geometry.layer).to(x.device)
        return torch.cat([*columns, x / (layers[:, at] + 1e-16), torch.log10(layers + _SMALL)], 1)
    sectors = [i for i, layer in enumerate(geometry.layers) if layer.n_alpha > 1]
    eta, phi, r = (moments(x, layers, geometry, name) for name in ("eta", "phi", "r"))
    columns.append(torch.log10(layers + _SMALL))
    columns += [one[which][:, sectors] / _MM for which in (0, 1) for one in (eta, phi)]
    columns += [r[0] / _MM, r[1] / _MM, torch.log10(layers.sum(1) + _SMALL)[:, None]]
    return torch.cat([*columns, sparsity(x, geometry)], 1)


def moments(
    x: Tensor, layers: Tensor, geometry: Geometry, name: Coordinate
) -> tuple[Tensor, Tensor]:
    """Return centre and width in mm, (B, n_layers) each, 0 where a layer is empty."""
    position = torch.from_numpy(geometry.coordinate(name)).to(x)
    centre = layer_energies(x * position, geometry) / (layers + 1e-16)
    square = layer_energies(x * position**2, geometry) / (layers + 1e-16)
    return centre, (square - centre**2).clamp(min=0).sqrt()


def sparsity(x: Tensor, geometry: Geometry) -> Tensor:
    """Return (B, n_layers), the share of voxels without energy."""
    sizes = torch.tensor([layer.n_voxels for layer in geometry.layers], device=x.device)
    return 1 - layer_energies((x > 0).double(), geometry) / sizes


def log_voxels(x: Tensor) -> Tensor:
    """Return log10 of (B, n_voxels) energies in MeV, those that are 0 taken for 0.1.

    >>> log_voxels(torch.tensor([[0.0, 100.0]]))
    tensor([[-1.,  2.]], dtype=torch.float64)
    """
    x = x.double()
    return torch.where(x > 0, torch.log10(x.clamp(min=1e-300)), math.log10(0.1))
