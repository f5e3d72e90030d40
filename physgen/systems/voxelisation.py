"""Showers of voxels as points, and of points as voxels, by a geometry; and what that loses.

The layer of a point is the `id` of the voxel's layer. A voxel becomes a point in its middle; a
whole ring (one sector) has no angle, so that of its point is spread evenly over the circle from
voxel to voxel and shower to shower. Points become voxels by their layer, radius and angle: those of
one voxel are added up, and those in none are lost.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from physgen.batch import Batch
from physgen.io.ddml import INCIDENCE
from physgen.io.showers import ENERGY, packed
from physgen.systems.geometry import Geometry

_GOLDEN = (np.sqrt(5) - 1) / 2
"""Steps of this part of a circle cover it evenly."""


@dataclass
class Losses:
    """What conversions of batches have lost so far, energies in MeV.

    Attributes:
        showers, points, energy: before.
        places: of points, or of occupied voxels, after.
        by_layer: energy in layers that the geometry does not have, by their number.
        beyond: energy beyond the outermost ring of its layer.
        outside: points in no voxel.
        oblique: showers that came at an angle, in cells that lie as if they had not.
    """

    showers: int = 0
    points: int = 0
    places: int = 0
    energy: float = 0.0
    beyond: float = 0.0
    outside: int = 0
    oblique: int = 0
    by_layer: dict[int, float] = field(default_factory=dict)

    def sentences(self) -> list[str]:
        """Return what was lost, a sentence each; none if nothing was."""
        result = []
        missing = sum(self.by_layer.values())
        if missing + self.beyond > 0:
            share = 100 / self.energy
            parts = [f"{self.beyond * share:.3g}% beyond the outermost voxels"] * bool(self.beyond)
            if missing:
                layers = ", ".join(map(str, sorted(self.by_layer)))
                parts.append(f"{missing * share:.3g}% in layers without voxels ({layers})")
            result.append(f"energy: {' and '.join(parts)}")
        merged = self.points - self.outside - self.places
        if self.outside or merged:
            result.append(
                f"points: {self.outside} of {self.points} lie in no voxel, {merged} were added to "
                "others of their voxel"
            )
        if self.oblique:
            result.append(
                f"angles of incidence: {self.oblique} of {self.showers} showers came at an angle, "
                "and are placed as if at a right one"
            )
        return result


def to_points(batch: Batch, geometry: Geometry, losses: Losses) -> Batch:
    """Return showers of voxels (B, n_voxels) as masked points: x, y, layer, energy.

    Args:
        batch: energies in MeV and conditions, whose first column is the incident energy.
        geometry: of the voxels.
        losses: is told of these showers.

    >>> from physgen.systems.geometry import Layer
    >>> geometry = Geometry((Layer(3, (0.0, 10.0), 2),))
    >>> points = to_points(Batch(torch.tensor([[0.0, 5.0]])), geometry, Losses())
    >>> points.x.round(decimals=3).tolist(), points.mask.tolist()
    ([[[0.0, 5.0, 3.0, 5.0]]], [[True]])
    """
    x = batch.x.numpy()
    rows, voxels = np.nonzero(x)
    number, radius = np.array([layer.id for layer in geometry.layers]), geometry.radius[voxels]
    ring = np.array([layer.n_alpha for layer in geometry.layers])[geometry.layer[voxels]] == 1
    spread = 2 * np.pi * np.modf((losses.showers + rows + voxels * np.pi) * _GOLDEN)[0] - np.pi
    alpha = np.where(ring, spread, geometry.alpha[voxels])
    place = radius * np.cos(alpha), radius * np.sin(alpha)
    columns = [*place, number[geometry.layer[voxels]], x[rows, voxels]]
    counts = np.bincount(rows, minlength=len(x))
    points, mask = packed(
        np.stack(columns, 1).astype(np.float32), counts, max(1, int(counts.max(initial=0)))
    )
    losses.showers += len(x)
    losses.points += len(rows)
    losses.places += len(rows)
    losses.energy += float(x.sum(dtype=np.float64))
    return batch.replace(x=torch.from_numpy(points), mask=torch.from_numpy(mask))


def to_voxels(batch: Batch, geometry: Geometry, losses: Losses) -> Batch:
    """Return showers of points as voxels (B, n_voxels) in MeV.

    Args:
        batch: masked, with columns x, y in mm, layer, energy in MeV.
        geometry: of the voxels.
        losses: is told of these showers.

    >>> from physgen.systems.geometry import Layer
    >>> geometry, losses = Geometry((Layer(3, (0.0, 10.0), 2),)), Losses()
    >>> x = torch.tensor([[[0.0, 5.0, 3.0, 5.0], [1.0, 1.0, 3.0, 2.0], [0.0, 20.0, 3.0, 1.0]]])
    >>> to_voxels(Batch(x, mask=torch.ones(1, 3, dtype=torch.bool)), geometry, losses).x.tolist()
    [[0.0, 7.0]]
    >>> losses.sentences()[0]
    'energy: 12.5% beyond the outermost voxels'
    """
    rows, points = _points(batch)
    place = voxel_of(points, geometry)
    x = _summed(batch, rows, points, place, geometry.n_voxels, losses)
    return batch.replace(x=torch.from_numpy(x), mask=None)


class Cells(NamedTuple):
    """A grid of square cells, of which `physgen.io.ddml` says where they lie.

    Attributes:
        layers: how many; DDML's NCellsZ.
        rows: how many in y; DDML's NCellsX.
        columns: how many in x; DDML's NCellsY.
        mm: how large they are.
    """

    layers: int
    rows: int
    columns: int
    mm: float


def to_cells(batch: Batch, cells: Cells, losses: Losses) -> Batch:
    """Return showers of points in rectangular cells (B, layers, rows, columns), in MeV.

    The cell (l, i, j) holds layer l, y from (i - a) cells on and x from (j - b) cells on, a and b
    being those of `physgen.io.ddml.INCIDENCE`.

    Args:
        batch: masked, with columns x, y in mm, layer, energy in MeV.
        cells: the grid.
        losses: is told of these showers.

    >>> x = torch.tensor([[[40.0, 2.0, 1.0, 5.0], [999.0, 0.0, 1.0, 2.0]]])
    >>> batch = Batch(x, mask=torch.ones(1, 2, dtype=torch.bool))
    >>> to_cells(batch, Cells(2, 30, 49, 5.0), losses := Losses()).x.nonzero().tolist()
    [[0, 1, 15, 34]]
    >>> losses.outside
    1
    """
    n_layers, n_rows, n_columns, size = cells
    rows, points = _points(batch)
    x, y, number = points[:, :3].T
    i, j = (
        np.floor(c / size + before).astype(np.int64)
        for c, before in zip((y, x), INCIDENCE, strict=True)
    )
    layer = number.astype(np.int64)
    within = (i >= 0) & (i < n_rows) & (j >= 0) & (j < n_columns)
    cell = (layer * n_rows + i) * n_columns + j
    place = np.where(layer < n_layers, np.where(within, cell, _BEYOND), _NO_LAYER)
    sums = _summed(batch, rows, points, place, n_layers * n_rows * n_columns, losses)
    if batch.condition is not None and batch.condition.shape[1] >= 4:
        along = batch.condition[:, 1:4]
        losses.oblique += int((along[:, :2].norm(dim=1) > _ALONG * along[:, 2]).sum())
    x_cells = sums.reshape(-1, n_layers, n_rows, n_columns)
    return batch.replace(x=torch.from_numpy(x_cells), mask=None)


_BEYOND, _NO_LAYER = -1, -2

_ALONG = 1e-3
"""Tangent of the angle up to which a particle comes at a right angle: 0.2 mm in 20 cm of depth."""


def _points(batch: Batch) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the points (n, F) of all showers, and the number (n,) of the shower of each."""
    mask = batch.mask.numpy() if batch.mask is not None else np.zeros(batch.x.shape[:2], bool)
    return np.nonzero(mask)[0], batch.x.numpy()[mask].astype(np.float64)


def _summed(
    batch: Batch,
    rows: NDArray[np.int64],
    points: NDArray[np.float64],
    place: NDArray[np.int64],
    n_places: int,
    losses: Losses,
) -> NDArray[np.float32]:
    """Add up the energies of points in the places (n,) of their shower: (B, n_places)."""
    energy, inside = points[:, ENERGY], place >= 0
    where = rows[inside] * n_places + place[inside]
    sums = np.bincount(where, energy[inside], len(batch) * n_places)
    x = sums.reshape(len(batch), -1).astype(np.float32)
    losses.showers += len(batch)
    losses.points += len(points)
    losses.places += int(np.count_nonzero(x))
    losses.energy += float(energy.sum())
    losses.outside += int((~inside).sum())
    losses.beyond += float(energy[place == _BEYOND].sum())
    for number in np.unique(points[place == _NO_LAYER, 2]):
        here = (place == _NO_LAYER) & (points[:, 2] == number)
        missing = losses.by_layer.get(int(number), 0.0)
        losses.by_layer[int(number)] = missing + float(energy[here].sum())
    return x


def voxel_of(points: NDArray[np.float64], geometry: Geometry) -> NDArray[np.int64]:
    """Return (n,) the voxel of each point (x, y, layer), -1 beyond all rings, -2 in no layer."""
    x, y, number = points[:, :3].T
    radius = np.hypot(x, y)
    turn = (np.arctan2(y, x) + np.pi) / (2 * np.pi)
    voxel = np.full(len(points), _NO_LAYER, np.int64)
    for layer, offset in zip(geometry.layers, geometry.offsets[:-1], strict=True):
        here = number == layer.id
        ring = np.searchsorted(layer.r_edges, radius[here], "right") - 1
        # An angle of pi is -pi, where the first sector begins.
        sector = np.floor(turn[here] * layer.n_alpha).astype(np.int64) % layer.n_alpha
        inside = offset + sector * layer.n_r + ring
        voxel[here] = np.where(ring < layer.n_r, inside, _BEYOND)
    return voxel
