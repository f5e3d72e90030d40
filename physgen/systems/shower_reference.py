"""What the reference evaluation of CaloChallenge (arXiv:2410.21611) looks at, in its order.

Of voxel energies v in MeV, those below the readout threshold taken for 0, in layers i:

    high        log10 E_inc; log10(E_i + 1e-8) of each layer; then for c = eta, phi, of the layers
                with sectors, <c>_i / 100 mm, eta before phi, and sigma_c,i likewise; <r>_i and
                sigma_r,i / 100 mm of all layers; log10(E_tot + 1e-8); the sparsity of each layer
    low         log10 E_inc; v / E_inc
    normalised  log10 E_inc; v / (E_i + 1e-16); log10(E_i + 1e-8)

Sparsity is the share of voxels of a layer without energy. Centres and widths of an empty layer are
0 here, and not defined in `physgen.systems.shower_observables`. Where it is not known where voxels
lie, there are none. Its histograms are

    E_tot/E_inc     100 bins from 0.5 to 1.5; where there are few incident energies, of each also 20
                    from 0.4 to 1.4, of photons above 4 GeV from 0.9 to 1.1
    E_layer_i       39 log bins from the threshold to the largest of the truth
    centre_eta_i    100 bins of +-100 mm, +-500 in layers 12 and 13, +-30 for electrons; phi too
    width_eta_i     100 bins from 0 to 100 mm, 400 in layers 12 and 13, 30 for electrons; phi too
    centre_r_i      100 bins from 0 to 500 mm, 1500 in layers 12, 13 and 14, 42 for electrons
    width_r_i       100 bins from 0 to 500 mm, 1500 in layers 12, 13 and 14, 20 for electrons
    sparsity_i      20 bins from 0 to 1
    voxels          49 log bins from the threshold to the largest of the truth
    voxels near the threshold, layer i    20 log bins from the threshold to ten times it

of which what lies outside is not counted. Those of r and of the sparsity the reference defines, but
`evaluate.py` of its revision 9b41df7 does not ask for them; those of the voxels near the threshold
are physgen's own.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from numpy import float64
from numpy.typing import NDArray
from torch import Tensor

from physgen.systems.base import Bins
from physgen.systems.geometry import COORDINATES, Coordinate, Geometry
from physgen.systems.shower_observables import layer_energies, width_of

Level = Literal["low", "normalised", "high"]

_SMALL = 1e-8
_MM = 100.0
_NEAR = "voxels near the threshold"


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
        return torch.cat([*columns, x / energy[:, None]], 1)
    if level == "normalised":
        at = torch.from_numpy(geometry.layer).to(x.device)
        return torch.cat([*columns, x / (layers[:, at] + 1e-16), torch.log10(layers + _SMALL)], 1)
    sectors = [i for i, layer in enumerate(geometry.layers) if layer.n_alpha > 1]
    columns.append(torch.log10(layers + _SMALL))
    if geometry.placed:
        eta, phi, r = (moments(x, layers, geometry, name) for name in ("eta", "phi", "r"))
        columns += [one[which][:, sectors] / _MM for which in (0, 1) for one in (eta, phi)]
        columns += [r[0] / _MM, r[1] / _MM]
    columns.append(torch.log10(layers.sum(1) + _SMALL)[:, None])
    return torch.cat([*columns, sparsity(x, geometry)], 1)


def moments(
    x: Tensor, layers: Tensor, geometry: Geometry, name: Coordinate
) -> tuple[Tensor, Tensor]:
    """Return centre and width in mm, (B, n_layers) each, 0 where a layer is empty."""
    position = torch.from_numpy(geometry.coordinate(name)).to(x)
    centre = layer_energies(x * position, geometry) / (layers + 1e-16)
    square = layer_energies(x * position**2, geometry) / (layers + 1e-16)
    return centre, width_of(square, centre)


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


def quantities(x: Tensor, energy: Tensor, geometry: Geometry, *, empty: float) -> dict[str, Tensor]:
    """Return what the reference makes histograms of, (B,) by name, but the voxels; see `spectra`.

    Args:
        x: (B, n_voxels) in MeV, see `thresholded`.
        energy: (B,) of the incoming particles in MeV.
        geometry: of the voxels.
        empty: centre and width of a layer without energy: 0, or NaN to leave it out.
    """
    x = x.double()
    layers = layer_energies(x, geometry)
    known = COORDINATES if geometry.placed else ()
    found = {name: moments(x, layers, geometry, name) for name in known}
    without = sparsity(x, geometry)
    values = {"E_tot/E_inc": layers.sum(1) / energy.double()}
    for i, layer in enumerate(geometry.layers):
        values[f"E_layer_{layer.id}"] = layers[:, i]
        for name, pair in found.items():
            if name == "r" or layer.n_alpha > 1:
                for kind, moment in zip(("centre", "width"), pair, strict=True):
                    value = torch.where(layers[:, i] > 0, moment[:, i], empty)
                    values[f"{kind}_{name}_{layer.id}"] = value
        values[f"sparsity_{layer.id}"] = without[:, i]
    return values


def spectra(x: Tensor, geometry: Geometry) -> dict[str, Tensor]:
    """Return the voxels that are in one histogram, (B, k) by name."""
    parts = torch.split(x, [layer.n_voxels for layer in geometry.layers], 1)
    of_layers = zip(geometry.layers, parts, strict=True)
    return {"voxels": x, **{f"{_NEAR}, layer {layer.id}": part for layer, part in of_layers}}


def bins(name: str, geometry: Geometry, cut: float, truth: NDArray[float64]) -> Bins:
    """Return the bins of a histogram.

    Args:
        name: of `quantities` or `spectra`; or "E_tot/E_inc at 512 MeV".
        geometry: of the voxels.
        cut: the threshold in MeV.
        truth: values of the true sample.
    """
    if name.startswith(_NEAR):
        return Bins(_logarithmic(cut, 10 * cut, 21, truth), True, "log10 MeV")
    if name == "voxels" or name.startswith("E_layer"):
        n = 50 if name == "voxels" else 40
        return Bins(_logarithmic(cut, math.inf, n, truth), True, "log10 MeV")
    return Bins(_linear(name, geometry), False, "mm" if name[:5] in ("centr", "width") else "1")


def _linear(name: str, geometry: Geometry) -> NDArray[float64]:
    if name == "E_tot/E_inc":
        return np.linspace(0.5, 1.5, 101)
    if name.startswith("E_tot/E_inc at "):
        narrow = geometry.pid == 22 and float(name.split()[2]) >= 4096
        return np.linspace(0.9, 1.1, 21) if narrow else np.linspace(0.4, 1.4, 21)
    kind, *middle, number = name.split("_")
    if kind == "sparsity":
        return np.linspace(0.0, 1.0, 21)
    electron, radial = abs(geometry.pid) == 11, middle == ["r"]
    if radial:
        far = int(number) in (12, 13, 14)
        limits = (42.0, 20.0) if electron else (1500.0, 1500.0) if far else (500.0, 500.0)
    else:
        far = int(number) in (12, 13)
        limits = (30.0, 30.0) if electron else (500.0, 400.0) if far else (100.0, 100.0)
    limit = limits[kind == "width"]
    return np.linspace(-limit if kind == "centre" and not radial else 0.0, limit, 101)


def _logarithmic(low: float, high: float, n: int, truth: NDArray[float64]) -> NDArray[float64]:
    """Return n edges from the threshold, or without one the least energy, to the largest."""
    energies = truth[truth > 0]
    least = float(energies.min()) if len(energies) else 1.0
    low = low if low > 0 else least
    high = min(high if high > low else 10 * low, float(energies.max(initial=0.0)))
    result = np.geomspace(low, max(high, 1.001 * low), n)
    result[0] = low  # What has just the threshold is above it.
    return result
