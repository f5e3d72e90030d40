"""Observables of showers of points.

With energies e of the points of a shower, E_tot = sum e, d their depths (layers, or z in mm) and
r^2 = x^2 + y^2, they are

    E_tot, E_tot/E_inc, the number of points,
    E_layer_i and points_layer_i (of slices in z where there are no layers: E_slice_i, ...),
    centre_c = sum e c / E_tot for c = x, y and the depth, mm or layers,
    width_r = sqrt(sum e r^2 / E_tot), and the same of the depth about its centre,
    the radial profile: the share of the energy in each ring,
    the spectrum: the share of the points in each bin of their energy,
    mean_time = sum e t / E_tot where times are known, ns.

Of each calorimeter, where a layout says which layers are whose (ecal and hcal of CaloHadronic):

    E_ecal, points_ecal, fraction_ecal = E_ecal / E_tot (but for the last calorimeter),
    start_layer_ecal: the first layer up to which a tenth of E_ecal lies,
    centre_layer_ecal = sum e d / E_ecal, width_r_ecal = sqrt(sum e r^2 / E_ecal), sums over ecal,
    the radial profile ecal: the share of E_ecal in each of its own rings.

What depends on the energy is not defined (NaN) of showers without any, there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from physgen.batch import Batch
from physgen.io.showers import ENERGY, Depth
from physgen.io.source import Source

N_BINS = 10
"""Rings, and slices where there are no layers; each has the same share of a file's energy."""
SPECTRUM_BINS = 20
START = 0.1
"""Share of the energy in a calorimeter that lies up to where a shower starts."""
_CELLS = 2**22
"""Points of a file that bins are chosen by."""


@dataclass(frozen=True)
class Part:
    """A calorimeter of several.

    Attributes:
        name: as observables are named by it.
        layers: which are its.
        rings: (n + 1,) edges in mm, the outermost bins are open.
    """

    name: str
    layers: range
    rings: NDArray[np.float64]


@dataclass(frozen=True)
class Bins:
    """In what the energy of a shower is summed.

    Attributes:
        depth: what depths are.
        slices: (n + 1,) edges of layers (i - 1/2, ...) or of slices in mm.
        rings: (n + 1,) edges in mm.
        spectrum: (n + 1,) edges in MeV. The outermost bins of all three are open.
        parts: the calorimeters, where there are several.
    """

    depth: Depth
    slices: NDArray[np.float64]
    rings: NDArray[np.float64]
    spectrum: NDArray[np.float64]
    parts: tuple[Part, ...] = ()


def bins_of(source: Source, calorimeters: Mapping[str, range] = MappingProxyType({})) -> Bins:
    """Return bins that suit the showers of a file, evenly spaced blocks of which are read.

    Args:
        source: the file.
        calorimeters: their layers, by name. Those in which the file has no energy are left out.
    """
    schema = source.schema
    cells = len(source) * schema.shape[0]
    stride = max(1, round(cells / _CELLS))
    parts = []
    for number, start in enumerate(range(0, len(source), source.block)):
        if number % stride == 0:
            batch = source.read(start, min(start + source.block, len(source)))
            parts.append(batch.x[batch.mask].double().numpy())
    points = np.concatenate(parts)
    depth: Depth = "layer" if schema.names[2] == "layer" else "z"
    x, y, z, energy = points[:, : ENERGY + 1].T if len(points) else np.zeros((4, 1))
    slices = np.arange(z.max() + 2) - 0.5 if depth == "layer" else _shares(z, energy)
    radius = np.hypot(x, y)
    rings = _rings(radius, energy)
    inside = {name: np.isin(z, layers) for name, layers in calorimeters.items()}
    found = tuple(
        Part(name, calorimeters[name], _rings(radius[of], energy[of]))
        for name, of in inside.items()
        if energy[of].any()
    )
    low, high = np.log10(np.quantile(energy[energy > 0], (0.001, 1.0))) if energy.any() else (0, 1)
    spectrum = np.logspace(low, max(high, low + 0.1), SPECTRUM_BINS + 1)
    return Bins(depth, slices, rings, spectrum, found)


def _rings(radius: NDArray[np.float64], energy: NDArray[np.float64]) -> NDArray[np.float64]:
    edges = _shares(radius, energy)
    edges[0] = 0.0
    return edges


def _shares(values: NDArray[np.float64], energy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (n + 1,) ascending edges between which equal shares of the energy lie.

    They lie between values that differ by more than rounding: cells have the same ones.
    """
    known, number = np.unique(np.round(values, 3), return_inverse=True)
    below = np.cumsum(np.bincount(number, energy))
    places = np.searchsorted(below, np.arange(1, N_BINS) / N_BINS * below[-1])
    inner = np.unique((known[places] + known[np.minimum(places + 1, len(known) - 1)]) / 2)
    return np.array([known[0], *inner[(inner > known[0]) & (inner < known[-1])], known[-1] + 1e-3])


def observables(batch: Batch, bins: Bins) -> dict[str, Tensor]:
    """Return the observables of the module's description, by name.

    The radial profiles and the "spectrum" are (B, bins); all others are (B,).

    Args:
        batch: masked samples (B, n, 4 or 5) and conditions, of which the first is E_inc in MeV.
        bins: see `bins_of`.

    >>> x = torch.tensor([[[3.0, 4.0, 0.0, 60.0], [0.0, 1.0, 1.0, 20.0]]])
    >>> batch = Batch(x, condition=torch.tensor([[100.0]]), mask=torch.ones(1, 2, dtype=torch.bool))
    >>> bins = Bins("layer", np.array([-0.5, 0.5, 1.5]), np.array([0, 2, 9]), np.array([1, 30, 90]))
    >>> values = observables(batch, bins)
    >>> [values[name].item() for name in ("E_tot/E_inc", "E_layer_1", "centre_x", "centre_layer")]
    [0.8, 20.0, 2.25, 0.25]
    >>> values["radial profile"].tolist()
    [[0.25, 0.75]]
    """
    if batch.mask is None or batch.condition is None:
        raise ValueError("showers of points need a mask and the energies of their particles")
    mask, incident = batch.mask, batch.condition[:, 0].double()
    points = batch.x.double() * mask[..., None]
    x, y, depth, energy = points[..., : ENERGY + 1].unbind(-1)
    radius = torch.hypot(x, y)
    total = energy.sum(1)
    share = energy / total[:, None]

    def mean(values: Tensor) -> Tensor:
        return (share * values).sum(1)

    layer, kind = _bin(depth, bins.slices), "layer" if bins.depth == "layer" else "slice"
    n_slices = len(bins.slices) - 1
    sums, counts = _sum(energy, layer, n_slices), _sum(mask.double(), layer, n_slices)
    centre = mean(depth)
    values = {
        "E_tot/E_inc": total / incident,
        "(E_tot/E_inc)^2": (total / incident) ** 2,
        "E_tot": total,
        "number of points": mask.sum(1).double(),
        "centre_x": mean(x),
        "centre_y": mean(y),
        f"centre_{bins.depth}": centre,
        "width_r": mean(radius**2).sqrt(),
        f"width_{bins.depth}": mean((depth - centre[:, None]) ** 2).sqrt(),
    }
    if points.shape[-1] > ENERGY + 1:
        values["mean_time"] = mean(points[..., ENERGY + 1])
    for i in range(n_slices):
        values[f"E_{kind}_{i}"] = sums[:, i]
        values[f"points_{kind}_{i}"] = counts[:, i]
    values["radial profile"] = _profile(energy, radius, bins.rings)
    values["spectrum"] = _profile(mask.double(), energy, bins.spectrum)
    for part in bins.parts:
        inside = (layer >= part.layers.start) & (layer < part.layers.stop)
        values |= _of_part(
            energy * inside, radius, sums[:, part.layers.start : part.layers.stop], part
        )
        values[f"points_{part.name}"] = (mask & inside).sum(1).double()
    for part in bins.parts[:-1]:
        values[f"fraction_{part.name}"] = values[f"E_{part.name}"] / total
    return values


def _of_part(energy: Tensor, radius: Tensor, layers: Tensor, part: Part) -> dict[str, Tensor]:
    """Return the observables of a calorimeter, of energies (B, points) that are 0 elsewhere.

    Args:
        energy: of points.
        radius: of points, (B, points).
        layers: (B, L) energies of the layers.
        part: the calorimeter.
    """
    total = energy.sum(1)
    share = energy / total[:, None]
    along = layers / total[:, None]
    number = part.layers.start + torch.arange(
        layers.shape[1], dtype=torch.double, device=total.device
    )
    start = number[(along.cumsum(1) >= START).double().argmax(1)]
    return {
        f"E_{part.name}": total,
        f"start_layer_{part.name}": torch.where(total > 0, start, torch.nan),
        f"centre_layer_{part.name}": along @ number,
        f"width_r_{part.name}": (share * radius**2).sum(1).sqrt(),
        f"radial profile {part.name}": _profile(energy, radius, part.rings),
    }


def _profile(weight: Tensor, values: Tensor, edges: NDArray[np.float64]) -> Tensor:
    """Return (B, bins) the shares of weights (B, points) in bins of values; NaN without any."""
    return _sum(weight, _bin(values, edges), len(edges) - 1) / weight.sum(1, keepdim=True)


def _bin(values: Tensor, edges: NDArray[np.float64]) -> Tensor:
    inner = torch.from_numpy(np.asarray(edges[1:-1], np.float64)).to(values.device)
    return torch.bucketize(values.contiguous(), inner, right=True)


def _sum(values: Tensor, bins: Tensor, n: int) -> Tensor:
    """Sum (B, points) in bins: (B, n)."""
    result = values.new_zeros(len(values), n)
    return result.scatter_add_(1, bins, values)
