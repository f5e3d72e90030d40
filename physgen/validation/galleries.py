"""Samples to look at, truth beside generated: lattices, images, mean showers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy import float64
from numpy.typing import NDArray
from torch import Tensor

from physgen.systems.base import System
from physgen.systems.geometry import Layer
from physgen.validation.canvas import new_figure
from physgen.validation.comparison import Comparison

_IMAGES = 8
_SHEET = (4, 9)


def samples(comparison: Comparison) -> Iterator[tuple[Any, str, str]]:
    """Two-dimensional lattices and images, truth above, generated below."""
    if len(comparison.system.schema.shape) != 2 or len(comparison.system.schema.variables) != 1:
        return
    rows = [r for r in ("truth", "generated") if getattr(comparison, r) is not None]
    figure = new_figure(1.5 * _IMAGES, 1.6 * len(rows) + 0.3)
    axes = figure.subplots(len(rows), _IMAGES, squeeze=False)
    limit = float(np.quantile(np.abs(getattr(comparison, rows[0]).x.double().cpu().numpy()), 0.999))
    variable = comparison.system.schema.variables[0]
    image = None
    for line, role in zip(axes, rows, strict=True):
        batch = getattr(comparison, role)
        chosen = np.linspace(0, len(batch) - 1, _IMAGES).astype(int)
        for axis, i in zip(line, chosen, strict=True):
            image = axis.imshow(
                batch.x[int(i)].double().cpu().numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit
            )
            axis.set_xticks([], minor=False)
            axis.set_yticks([], minor=False)
            axis.minorticks_off()
        line[0].set_ylabel(role)
    unit = "" if variable.unit == "1" else f" [{variable.unit}]"
    figure.colorbar(image, ax=axes, label=variable.name + unit, shrink=0.8, pad=0.01)
    yield (
        figure,
        "Samples beside truth",
        ("Configurations, evenly spaced through both samples, on one colour scale."),
    )


def sheet(figure: Any, system: System, samples: Tensor) -> None:
    """Draw the first few of (n, *shape) samples into a figure: images, or one layer of showers.

    Of a calorimeter it is the layer with the most voxels. Samples of another kind are not drawn.
    """
    geometry = getattr(system, "geometry", None)
    rows = samples.double().cpu().numpy()
    if len(system.schema.shape) == 2 and len(system.schema.variables) == 1:
        axis = figure.subplots()
        colours = "RdBu_r" if rows.min() < 0 else "gray"
        axis.imshow(_tiles(rows[: _SHEET[0] * _SHEET[1]]), cmap=colours)
        axis.set_axis_off()
    elif geometry is not None and geometry.placed:
        widest = max(range(len(geometry.layers)), key=lambda i: geometry.layers[i].n_voxels)
        layer, start = geometry.layers[widest], int(geometry.offsets[widest])
        axes = figure.subplots(2, 6, subplot_kw={"projection": "polar"})
        for axis, row in zip(axes.ravel(), rows, strict=False):
            energy = row[start : start + layer.n_voxels]
            _polar(axis, layer, energy, max(float(energy.max()), 1e-9))


def _tiles(rows: NDArray[float64]) -> NDArray[float64]:
    """Return one picture of (n, H, W) images, a frame of one pixel around each."""
    height, width = rows.shape[1:]
    lines, columns = _SHEET
    picture = np.full((lines * (height + 1) + 1, columns * (width + 1) + 1), np.nan)
    for i, row in enumerate(rows):
        y, x = (i // columns) * (height + 1) + 1, (i % columns) * (width + 1) + 1
        picture[y : y + height, x : x + width] = row
    return picture


def voxels(comparison: Comparison) -> Iterator[tuple[Any, str, str]]:
    """Mean energy of voxels in the transverse plane, by layers, where their places are known."""
    geometry = getattr(comparison.system, "geometry", None)
    if geometry is None or not geometry.placed or comparison.truth is None:
        return
    layers = geometry.layers
    wanted = sorted({int(i) for i in np.linspace(0, len(layers) - 1, min(5, len(layers)))})
    ends = np.cumsum([layer.n_voxels for layer in layers])
    figure = new_figure(2.3 * len(wanted) + 0.8, 4.9)
    grid = figure.subplots(2, len(wanted), squeeze=False, subplot_kw={"projection": "polar"})
    for column, i in enumerate(wanted):
        layer, piece = layers[i], slice(int(ends[i]) - layers[i].n_voxels, int(ends[i]))
        means = [
            _mean_voxels(b.x, b.weight, piece) for b in (comparison.truth, comparison.generated)
        ]
        top = max(float(means[0].max()), 1e-9)
        for axis, mean, role in zip(grid[:, column], means, ("truth", "generated"), strict=True):
            mesh = _polar(axis, layer, mean, top)
            axis.set_title(f"layer {layer.id}" if role == "truth" else "")
            if column == 0:
                axis.set_ylabel(role, labelpad=12)
        figure.colorbar(
            mesh,
            ax=grid[:, column],
            orientation="horizontal",
            shrink=0.8,
            pad=0.03,
            label="log10 of mean energy [MeV]" if column == len(wanted) // 2 else None,
        )
    yield (
        figure,
        "Mean showers",
        (
            "Mean energy of each voxel in the transverse plane; drawn is the root of the radius, "
            "and both rows of a layer share their scale."
        ),
    )


def _polar(axis: Any, layer: Layer, energy: NDArray[float64], top: float) -> Any:
    """Draw the voxels of a layer, (n_alpha * n_r,) MeV, on four decades below `top`."""
    radii = np.asarray(layer.r_edges, dtype=float64)
    repeat = -(-60 // layer.n_alpha)  # Sectors in steps small enough to look round.
    angles = np.linspace(0, 2 * math.pi, layer.n_alpha * repeat + 1)
    tile = energy.reshape(layer.n_alpha, len(radii) - 1).T.repeat(repeat, axis=1)
    mesh = axis.pcolormesh(
        angles,
        np.sqrt(radii),
        np.log10(np.maximum(tile, top * 1e-4)),
        cmap="magma",
        vmin=math.log10(top) - 4,
        vmax=math.log10(top),
    )
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(visible=False)
    return mesh


def _mean_voxels(x: Any, weight: Any, piece: slice) -> NDArray[float64]:
    values = x[:, piece].double()
    mean = values.mean(0) if weight is None else (weight.double() @ values) / weight.double().sum()
    return np.asarray(mean.cpu().numpy())
