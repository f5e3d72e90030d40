"""What calorimeters are made of, and the effective medium of a stack of absorber and active layers.

With mass fractions w of absorber and active material (Grindhammer and Peters, hep-ex/0001020):

    Z = sum w Z,   1/X0 = sum w/X0,   Ec = X0 sum w Ec/X0,   1/RM = (1/Es) sum w Ec/X0,
    Fs = X0/(d_absorber + d_active),   ehat = 1/(1 + 0.007 (Z_absorber - Z_active)),

X0 and RM in g/cm2, Es = 21.2 MeV and Ec = 2.66 (X0 Z/A)^1.1 MeV of each material.

Sampling fluctuations are those of the number of crossings of active layers (Rossi's approximation B
with Amaldi's correction for multiple scattering, Phys. Scripta 23 (1981) 409): a track of length
(E/Ec) X0 in all, inclined by theta, crosses N = (E/Ec) Fs <cos theta> of them, and

    sigma/E = 1/sqrt(N) = a/sqrt(E),   a = sqrt(Ec / (Fs <cos theta>)),
    <cos theta> = cos(Es/(pi Ec)).

For 1.5 mm of lead and 4.2 mm of liquid argon that is 6.1%/sqrt(E/GeV); Geant4 11.4 gives 5.8%.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from physgen.errors import RecipeError, suggest
from physgen.systems.kernels.parameters import Medium

_SCALE_ENERGY_MEV = 21.2


@dataclass(frozen=True)
class Material:
    """A material; mixtures have mean Z and A by mass.

    Attributes:
        z, a: atomic number and mass.
        x0: radiation length in g/cm2.
        density: in g/cm3.

    >>> round(MATERIALS["lead"].critical_mev, 1)  # The Particle Data Group has 7.43.
    7.4
    """

    z: float
    a: float
    x0: float
    density: float

    @property
    def critical_mev(self) -> float:
        """Critical energy."""
        return 2.66 * float((self.x0 * self.z / self.a) ** 1.1)


MATERIALS = {
    "lead": Material(82, 207.2, 6.37, 11.35),
    "tungsten": Material(74, 183.84, 6.76, 19.30),
    "iron": Material(26, 55.845, 13.84, 7.874),
    "copper": Material(29, 63.546, 12.86, 8.96),
    "liquid-argon": Material(18, 39.948, 19.55, 1.396),
    "silicon": Material(14, 28.0855, 21.82, 2.329),
    "polystyrene": Material(5.61, 11.16, 43.79, 1.06),
    "lead-tungstate": Material(68.36, 170.9, 7.39, 8.30),
}
"""By name; radiation lengths and densities as tabulated by the Particle Data Group."""


def material(name: str) -> Material:
    """Return a material.

    Raises:
        RecipeError: it is not known.
    """
    if name not in MATERIALS:
        raise RecipeError(f"unknown material {name!r}{suggest(name, MATERIALS)}")
    return MATERIALS[name]


def homogeneous(active: Material) -> Medium:
    """Return a medium that is all active, without sampling fluctuations."""
    x0_mm = 10 * active.x0 / active.density
    return Medium(
        z=float(active.z),
        x0_mm=x0_mm,
        moliere_mm=x0_mm * _SCALE_ENERGY_MEV / active.critical_mev,
        critical_gev=1e-3 * active.critical_mev,
        inverse_frequency=0.0,
        ehat=1.0,
        resolution=0.0,
        constant=0.0,
        sampling=False,
    )


def sampling(
    absorber: Material,
    active: Material,
    absorber_mm: float,
    active_mm: float,
    resolution: float | None = None,
    constant: float = 0.0,
) -> Medium:
    """Return the effective medium of a stack.

    Args:
        absorber, active: materials of the layers.
        absorber_mm, active_mm: their thickness.
        resolution: a of the sampling fluctuations a/sqrt(E/GeV); `None` is that of the stack.
        constant: relative fluctuation of the response from shower to shower.

    >>> stack = sampling(MATERIALS["lead"], MATERIALS["liquid-argon"], 1.5, 4.2)
    >>> round(stack.x0_mm, 1), round(stack.resolution, 3)  # sigma/E = 6.1%/sqrt(E/GeV)
    (19.2, 0.061)
    """
    masses = absorber_mm * absorber.density, active_mm * active.density
    w, v = masses[0] / sum(masses), masses[1] / sum(masses)
    density = sum(masses) / (absorber_mm + active_mm)
    x0 = 1 / (w / absorber.x0 + v / active.x0)
    loss = w * absorber.critical_mev / absorber.x0 + v * active.critical_mev / active.x0
    x0_mm = 10 * x0 / density
    critical_mev = x0 * loss
    inverse_frequency = (absorber_mm + active_mm) / x0_mm
    if resolution is None:
        cosine = math.cos(_SCALE_ENERGY_MEV / (math.pi * critical_mev))
        resolution = math.sqrt(1e-3 * critical_mev * inverse_frequency / cosine)
    return Medium(
        z=w * absorber.z + v * active.z,
        x0_mm=x0_mm,
        moliere_mm=10 * _SCALE_ENERGY_MEV / loss / density,
        critical_gev=1e-3 * critical_mev,
        inverse_frequency=inverse_frequency,
        ehat=1 / (1 + 0.007 * (absorber.z - active.z)),
        resolution=float(resolution),
        constant=float(constant),
        sampling=True,
    )
