"""What readers of calorimeter showers have in common, whatever their layout.

Inside physgen energies are MeV, lengths mm, times ns. A shower is a row of voxel energies, or a set
of points: x, y, the depth, energy, and possibly time. The depth of a point is the number of its
layer where all of a file are whole numbers ("layer"), else a length ("z").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from physgen.batch import Batch, Schema, Variable
from physgen.errors import FormatError, suggest

MEV = {"1": 1.0, "eV": 1e-6, "keV": 1e-3, "MeV": 1.0, "GeV": 1e3, "TeV": 1e6}
"""MeV in a unit; no unit is MeV, as in public files."""

Depth = Literal["layer", "z"]

DIRECTION = ("direction_x", "direction_y", "direction_z")
"""Cosines of the incoming particle's direction, conditions of showers of points."""

INCIDENT = "incident_energies"

SHARES = (0.002, 5.0)
"""Of the energy of its particle a shower deposits so much, as the median of a sample: between a
sampling fraction of 1/500 and a few times the energy, where units are not mixed up."""

ENERGY = 3
"""Column of a point's energy, after those of its place."""


def mev(where: str, unit: str) -> float:
    """Return the MeV in a unit; `FormatError` in the name of `where` if it is none of energy."""
    if unit not in MEV:
        raise FormatError(
            f"{where} is in {unit!r}; energies are read in {', '.join(list(MEV)[1:])}"
            f"{suggest(unit, MEV)}"
        )
    return MEV[unit]


def point_schema(n_points: int, depth: Depth, n_columns: int, directions: bool = True) -> Schema:
    """Return what a shower of at most `n_points` points is.

    Args:
        n_points: of the shower that has the most.
        depth: whether points know their layer or a length.
        n_columns: 4, or 5 with times.
        directions: whether the direction of the incoming particle is known.

    >>> schema = point_schema(100, "layer", 4)
    >>> schema.names, [variable.unit for variable in schema.variables]
    (('x', 'y', 'layer', 'energy'), ['mm', 'mm', '1', 'MeV'])
    """
    columns = (
        Variable("x", "mm"),
        Variable("y", "mm"),
        Variable("layer", domain="integer", low=0) if depth == "layer" else Variable("z", "mm"),
        Variable("energy", "MeV", "non-negative", low=0.0),
        Variable("time", "ns"),
    )
    return Schema((n_points, n_columns), columns[:n_columns], _given(directions), masked=True)


def voxel_schema(
    n_voxels: int, low: float | None = None, high: float | None = None, *, directions: bool = False
) -> Schema:
    """Return what a shower of voxels is: their energies, under that of the incoming particle.

    >>> schema = voxel_schema(368, low=1e3, high=256e3)
    >>> schema.shape, schema.condition[0].name, schema.condition[0].unit
    ((368,), 'incident_energies', 'MeV')
    """
    voxels = Variable("showers", "MeV", "non-negative", low=0.0)
    return Schema((n_voxels,), (voxels,), _given(directions, low, high))


def _given(
    directions: bool, low: float | None = None, high: float | None = None
) -> tuple[Variable, ...]:
    """Return the conditions: the energy of the particle, and possibly its direction."""
    incident = Variable(INCIDENT, "MeV", "non-negative", low=low, high=high)
    return (incident, *(Variable(name, low=-1.0, high=1.0) for name in DIRECTION * directions))


def cosines(theta: NDArray[np.floating], phi: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return (n, 3) directions of polar and azimuthal angles in radian."""
    across = np.sin(theta)
    return np.stack([across * np.cos(phi), across * np.sin(phi), np.cos(theta)], 1).astype(float)


def check_energies(
    where: str, values: NDArray[np.floating], start: int, *, positive: bool = False
) -> None:
    """Raise `FormatError` for the first row of (rows, ...) energies that is no energy.

    Args:
        where: names file and dataset.
        values: in the file's unit.
        start: the number of their first row.
        positive: whether 0 is none.
    """
    good = (values > 0) if positive else (values >= 0)
    if not good.all():
        row, *place = np.argwhere(~good)[0]
        wish = "positive" if positive else "not negative"
        raise FormatError(
            f"{where} row {start + row}{f', column {place[0]}' if place else ''} is "
            f"{values[(row, *place)]:g}; energies must be finite and {wish} (MeV): put the row "
            "right, or leave it out"
        )


def check_code(where: str, code: int) -> None:
    """Raise `FormatError` for a code that is no particle's which makes showers.

    Codes are those of the Particle Data Group, Phys. Rev. D 110 (2024) 030001, section 45; nuclei
    have ten digits, and 0 is a particle that is not known.

    Args:
        where: names the file and the place in it.
        code: as it stands there.
    """
    if abs(code) not in _CODES and not _NUCLEI <= abs(code) < 2 * _NUCLEI:
        raise FormatError(
            f"{where} is {code}, the code of no particle that makes showers (22 is a photon, 11 an "
            "electron, 211 a pion); put it right, or write 0 where it is not known"
        )


_LEPTONS, _MESONS = (11, 13, 15, 22), (111, 113, 130, 211, 221, 223, 310, 311, 321, 331, 333)
_CHARM_AND_BEAUTY = (411, 421, 431, 443, 511, 521, 531, 541, 553, 4122, 4132, 4232, 4332, 5122)
_BARYONS = (2112, 2212, 3112, 3122, 3212, 3222, 3312, 3322, 3334, 5132, 5232, 5332)
_CODES = (0, *_LEPTONS, *_MESONS, *_CHARM_AND_BEAUTY, *_BARYONS)
_NUCLEI = 1_000_000_000


def deposited(batch: Batch) -> NDArray[np.float64]:
    """Return (B,) the energy of showers of voxels or points."""
    energy = batch.x if batch.mask is None else batch.x[..., ENERGY] * batch.mask
    return np.asarray(energy.double().flatten(1).sum(1).numpy())


def packed(
    columns: NDArray[np.float32], counts: NDArray[np.int64], width: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return rows of points (n, F), one shower after the other, as (B, width, F) and their mask."""
    mask = np.arange(width) < counts[:, None]
    x = np.zeros((len(counts), width, columns.shape[1]), np.float32)
    x[mask] = columns
    return x, mask


def depth_of(samples: Sequence[NDArray[np.floating]]) -> Depth:
    """Return what depths are: numbers of layers if all are whole and none is negative."""
    whole = all((column >= 0).all() and (column == np.rint(column)).all() for column in samples)
    return "layer" if whole else "z"
