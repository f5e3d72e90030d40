"""What calorimeters are made of, and the effective medium of a stack of absorber and active layers.

With mass fractions w of absorber and active material (Grindhammer and Peters, hep-ex/0001020):

    Z = sum w Z,   1/X0 = sum w/X0,   Ec = X0 sum w Ec/X0,   1/RM = (1/Es) sum w Ec/X0,
    Fs = X0/(d_absorber + d_active),   ehat = 1/(1 + 0.007 (Z_absorber - Z_active)),

X0 and RM in g/cm2, Es = 21.2 MeV and Ec = 2.66 (X0 Z/A)^1.1 MeV of each material.
"""

from __future__ import annotations

from dataclasses import dataclass

from physgen.errors import RecipeError, suggest
from physgen.systems.kernels.shower import Medium

_SCALE_ENERGY_MEV = 21.2


@dataclass(frozen=True)
class Material:
    """A material; mixtures have mean Z and A by mass.

    Attributes:
        z, a: atomic number and mass.
        x0: radiation length in g/cm2.
        density: in g/cm3.
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
        sampling=False,
    )


def sampling(
    absorber: Material, active: Material, absorber_mm: float, active_mm: float, resolution: float
) -> Medium:
    """Return the effective medium of a stack; `resolution` is a of a/sqrt(E/GeV)."""
    masses = absorber_mm * absorber.density, active_mm * active.density
    w, v = masses[0] / sum(masses), masses[1] / sum(masses)
    density = sum(masses) / (absorber_mm + active_mm)
    x0 = 1 / (w / absorber.x0 + v / active.x0)
    loss = w * absorber.critical_mev / absorber.x0 + v * active.critical_mev / active.x0
    x0_mm = 10 * x0 / density
    return Medium(
        z=w * absorber.z + v * active.z,
        x0_mm=x0_mm,
        moliere_mm=10 * _SCALE_ENERGY_MEV / loss / density,
        critical_gev=1e-3 * x0 * loss,
        inverse_frequency=(absorber_mm + active_mm) / x0_mm,
        ehat=1 / (1 + 0.007 * (absorber.z - active.z)),
        resolution=float(resolution),
        sampling=True,
    )
