"""How deep the layers of a calorimeter lie, where a binning file does not say it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from physgen.errors import RecipeError
from physgen.systems.geometry import Geometry
from physgen.systems.kernels.parameters import Voxels

DEPTHS = (0.0, 2.0, 7.0, 20.0, 25.0, 40.0)
"""Where the layers of calo-368.xml begin and end, in radiation lengths."""


def voxels_of(geometry: Geometry, depths: Sequence[float] | None) -> Voxels:
    """Return a geometry as arrays.

    Args:
        geometry: of the calorimeter.
        depths: ends of the layers in radiation lengths; empty for equal layers up to 25; `None` for
            `DEPTHS` if there are five layers, else for equal ones.

    Raises:
        RecipeError: there are not as many depths as layers have ends.

    >>> from physgen.systems.geometry import Layer
    >>> voxels_of(Geometry((Layer(0, (0.0, 10.0), 1), Layer(1, (0.0, 10.0), 4))), None).depths
    array([ 0. , 12.5, 25. ])
    """
    layers = geometry.layers
    if depths is None:
        depths = DEPTHS if len(layers) == len(DEPTHS) - 1 else ()
    ends = tuple(depths) or tuple(np.linspace(0, 25, len(layers) + 1))
    if len(ends) != len(layers) + 1:
        raise RecipeError(
            f"{len(layers)} layers need {len(layers) + 1} depths, not {len(ends)}; set "
            "system.depths=[] for equal layers"
        )
    return Voxels(
        depths=np.array(ends, np.float64),
        edges=np.concatenate([np.array(layer.r_edges) for layer in layers]),
        first_edge=np.cumsum([0, *(len(layer.r_edges) for layer in layers)]),
        n_alpha=np.array([layer.n_alpha for layer in layers]),
        first_voxel=geometry.offsets,
    )
