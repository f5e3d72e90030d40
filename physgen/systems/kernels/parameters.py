"""What the kernel of showers is given: a detector of voxels, medium, beam and readout."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Voxels(NamedTuple):
    """Where the layers of a calorimeter are, and how each is divided.

    Attributes:
        depths: (n_layers + 1,) where the layers begin and end, in radiation lengths.
        edges: radii in mm, those of all layers one after the other.
        first_edge: (n_layers + 1,) where each layer's edges begin in `edges`.
        n_alpha: (n_layers,) sectors.
        first_voxel: (n_layers + 1,) flat index of each layer's first voxel.
    """

    depths: NDArray[np.float64]
    edges: NDArray[np.float64]
    first_edge: NDArray[np.int64]
    n_alpha: NDArray[np.int64]
    first_voxel: NDArray[np.int64]


class Medium(NamedTuple):
    """What the parametrisation needs of a calorimeter.

    Attributes:
        z: (effective) atomic number.
        x0_mm: radiation length.
        moliere_mm: Moliere radius.
        critical_gev: critical energy.
        inverse_frequency: 1/Fs = (d1 + d2)/X0, 0 in homogeneous media.
        ehat: ratio of the responses to electrons and to minimum ionising particles; 1 if
            homogeneous.
        resolution: a of the sampling fluctuations a/sqrt(E/GeV); 0 switches them off.
        constant: c of a response that differs by c from shower to shower at all energies, so that
            (sigma/E)^2 = a^2/E + c^2.
        sampling: whether the corrections for sampling media apply.
    """

    z: float
    x0_mm: float
    moliere_mm: float
    critical_gev: float
    inverse_frequency: float
    ehat: float
    resolution: float
    constant: float
    sampling: bool


class Beam(NamedTuple):
    """How particles enter, and what of the parametrisation is switched on.

    Attributes:
        converts: whether the shower starts at an exponential depth (photons).
        cell_mm: side of the square in which the axis enters, uniformly.
        angle: largest polar angle of the axis in radian; angle and azimuth are uniform.
        fluctuates: whether ln T and ln alpha are drawn or set to their means.
        max_spots: largest number of spots in a shower; 0 is no limit.
        least_angle: smallest polar angle of the axis in radian.
    """

    converts: bool
    cell_mm: float
    angle: float
    fluctuates: bool
    max_spots: int
    least_angle: float = 0.0


class Readout(NamedTuple):
    """What the electronics does to a voxel, in this order; energies in MeV.

    Attributes:
        cross_talk: share of a voxel's energy that goes to its four neighbours.
        noise_mev: standard deviation of Gaussian noise.
        cut_mev: voxels below it are set to zero.
    """

    cross_talk: float
    noise_mev: float
    cut_mev: float


class Detector(NamedTuple):
    """All that decides how particles shower, but for their energies; see the parts."""

    voxels: Voxels
    medium: Medium
    beam: Beam
    readout: Readout
