"""Jets of tracks whose momenta are in ROOT files as four-vectors, relative to their jets.

A row of a tree is an event; a collection of it, a branch such as `jet1TrksP4`, is one jet, so that
an event with two collections is two jets, one behind the other. A collection has the type
`std::vector<TLorentzVector>`, or is the jagged branches NAME_pt, NAME_eta, NAME_phi and NAME_mass
that physgen writes; the four-momentum of its jet is a `TLorentzVector`, or flat branches of the
same names. Energies and momenta are in one unit, which such files do not say. A flat branch
`weight` is the weight of an event, and of each of its jets.

Tracks become eta - eta_jet, phi - phi_jet in [-pi, pi), and pT / pT_jet, those of largest pT first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from physgen.batch import Batch, Schema, Variable
from physgen.errors import FormatError
from physgen.io.branches import BranchSource, open_branches
from physgen.io.jetnet import PARTICLE, hardest
from physgen.io.parquet import Table
from physgen.io.source import as_batch, blocks, digest_of
from physgen.io.trees import Tree
from physgen.io.writer import COMPANIONS

JET4 = (
    Variable("pt", "GeV", "non-negative"),
    Variable("eta"),
    Variable("phi", "rad", "angle"),
    Variable("mass", "GeV", "non-negative"),
)
"""The four-momentum of a jet, whose columns may be conditions."""
POLAR = tuple(variable.name for variable in JET4)
CARTESIAN = ("fP.fX", "fP.fY", "fP.fZ", "fE")
"""Members of a `TLorentzVector`."""


@dataclass(frozen=True)
class Collections:
    """Where the four-momenta of a file are.

    Attributes:
        tracks: names of the collections.
        jets: of the four-momenta of their jets; none if these are the sums of their tracks.
        tree: of a ROOT file; `None` takes the only one.
        gev: a unit of the file in GeV.
    """

    tracks: tuple[str, ...]
    jets: tuple[str, ...] = ()
    tree: str | None = None
    gev: float = 1.0


class FourMomentaSource:
    """Jets of a file of four-momenta: tracks (N, most, 3) with a mask, as float32.

    Args:
        path: of the file.
        collections: what is read.
        condition: which columns of the jets' four-momenta are conditions.
        most: how many tracks are kept of a jet, those of largest pT; `None` keeps all.

    Attributes:
        longest: tracks of the jet that has most.

    Raises:
        FormatError: branches are absent (near misses are named) or of other types; or there are
            rows, and no track.

    >>> import tempfile
    >>> import awkward, uproot
    >>> tracks = {f"track_{name}": awkward.Array([[2.0, 3.0], [5.0]]) for name in POLAR}
    >>> jets = {f"jet_{name}": np.array([10.0, 10.0]) for name in POLAR}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with uproot.recreate(f"{folder}/a.root") as file:
    ...         file["events"] = tracks | jets
    ...     source = FourMomentaSource(f"{folder}/a.root", Collections(("track",), ("jet",)))
    ...     (10 * source.read(0, 2).x[..., 2]).round().tolist()
    [[3.0, 2.0], [5.0, 0.0]]
    """

    def __init__(
        self,
        path: Path | str,
        collections: Collections,
        condition: Sequence[str] = (),
        most: int | None = None,
    ) -> None:
        self.name, self._collections = str(path), collections
        opened = open_branches(Path(path), collections.tree)
        names, weight = opened.names, _weight(opened)
        self._sources = []
        jets: Sequence[str | None] = collections.jets or [None] * len(collections.tracks)
        for tracks, jet in zip(collections.tracks, jets, strict=True):
            fields = _branches(tracks, names)
            given = [] if jet is None else _branches(jet, names, needed=condition)
            self._sources.append(
                BranchSource(path, collections.tree, fields, condition=given, weight=weight)
            )
            if not self._sources[-1].jagged:
                raise FormatError(
                    f"{path}: {tracks!r} is one four-momentum a row; name a collection of them"
                )
        self.longest = max(source.longest for source in self._sources)
        if len(self) and not self.longest:
            raise FormatError(
                f"{path}: none of the {len(self)} jets has a track in "
                f"{', '.join(collections.tracks)}; name other collections, or a file with tracks"
            )
        self._given = [POLAR.index(name) for name in condition]
        self._most = self.longest if most is None else most
        variables = tuple(JET4[index] for index in self._given)
        self.schema = Schema((self._most, len(PARTICLE)), PARTICLE, variables, masked=True)
        self.block = min(source.block for source in self._sources)

    def __len__(self) -> int:
        return len(self._sources) * len(self._sources[0])

    def read(self, start: int, stop: int) -> Batch:
        """Return jets [start, stop).

        Raises:
            FormatError: a value is not finite, a pT is not positive, or a jet without a
                four-momentum of its own has no tracks.
        """
        return as_batch(self.arrays(start, stop))

    def arrays(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Return jets [start, stop) by their name in `Batch`, see `read`."""
        n = len(self._sources)
        first, last = start // n, -(-min(stop, len(self)) // n)
        parts = [self._relative(number, first, last) for number in range(n)]
        return {
            # One collection behind the other in each event.
            name: np.concatenate(np.stack([part[name] for part in parts], 1))[
                start - n * first : stop - n * first
            ]
            if len(array)
            else array
            for name, array in parts[0].items()
        }

    def digest(self) -> str:
        """Return the SHA-256 of the samples."""
        return digest_of(blocks(self))

    def keys(self) -> NDArray[np.int64] | None:
        """Return (N,) the events of the jets; `None` if each has one jet."""
        n = len(self._sources)
        return None if n == 1 else np.repeat(np.arange(len(self) // n), n)

    def notes(self) -> list[str]:
        """Return whether tracks are left out."""
        if self.longest <= self._most:
            return []
        return [
            f"{self.name}: there are jets of up to {self.longest} tracks, of which the "
            f"{self._most} of largest pT stay (system.particles)"
        ]

    def _relative(self, number: int, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Return the jets of one collection in events [start, stop)."""
        tracks = self._collections.tracks[number]
        found = self._sources[number].arrays(start, stop)
        mask, polar = found["mask"], _in_polar(found["x"], self._sources[number].fields)
        self._refuse(mask & (polar[..., 0] <= 0), start, tracks, "has a track without pT;")
        if "condition" in found:
            jet = _in_polar(found["condition"], self._sources[number].condition)
            name = self._collections.jets[number]
            self._refuse(jet[:, 0] <= 0, start, name, "has a pT that is not positive;")
        else:
            self._refuse(
                mask.sum(1) == 0,
                start,
                tracks,
                "has no tracks, and so no axis: name the jets (system.jets), or",
            )
            jet = as_polar(np.where(mask[..., None], as_cartesian(polar), 0.0).sum(1))
        eta, phi = polar[..., 1] - jet[:, None, 1], polar[..., 2] - jet[:, None, 2]
        columns = [eta, _wrapped(phi), polar[..., 0] / jet[:, None, 0]]
        every = np.where(mask[..., None], np.stack(columns, 2), 0.0).astype(np.float32)
        ordered, mask = hardest(every, mask, self._most)
        result: dict[str, NDArray[Any]] = {"x": ordered, "mask": mask}
        result |= {name: found[name] for name in COMPANIONS if name in found}
        if self._given:
            units = np.array([self._collections.gev, 1.0, 1.0, self._collections.gev])
            result["condition"] = (jet * units)[:, self._given].astype(np.float32)
        return result

    def _refuse(self, bad: NDArray[np.bool_], start: int, branch: str, fault: str) -> None:
        if bad.any():
            row = start + int(np.argwhere(bad)[0, 0])
            raise FormatError(f"{self.name}: row {row} of {branch!r} {fault} leave such rows out")


def as_polar(momenta: NDArray[float64]) -> NDArray[float64]:
    """Return (..., 4) pT, eta, phi and mass of px, py, pz and E; all 0 where there is no pT.

    Space-like momenta, by rounding or by resolution, have mass 0.

    >>> as_polar(np.array([3.0, 4.0, 0.0, 13.0])).round(4).tolist()
    [5.0, 0.0, 0.9273, 12.0]
    """
    px, py, pz, energy = np.moveaxis(momenta, -1, 0)
    pt = np.hypot(px, py)
    eta = np.arcsinh(np.divide(pz, pt, out=np.zeros_like(pt), where=pt > 0))
    mass = np.sqrt(np.maximum(energy**2 - pt**2 - pz**2, 0.0))
    return np.stack([pt, eta, np.arctan2(py, px), mass], -1)


def as_cartesian(polar: NDArray[float64]) -> NDArray[float64]:
    """Return (..., 4) px, py, pz and E of pT, eta, phi and mass.

    >>> as_cartesian(np.array([5.0, 0.0, 0.0, 12.0])).tolist()
    [5.0, 0.0, 0.0, 13.0]
    """
    pt, eta, phi, mass = np.moveaxis(polar, -1, 0)
    px, py, pz = pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)
    return np.stack([px, py, pz, np.sqrt(px**2 + py**2 + pz**2 + mass**2)], -1)


def absolute(tracks: NDArray[float64], jet: NDArray[float64], mass: float) -> NDArray[float64]:
    """Return (..., 4) pT, eta, phi and mass of tracks relative to their jets.

    Args:
        tracks: (..., 3) etarel, phirel, ptrel.
        jet: (..., 3) pT, eta and phi, which broadcast.
        mass: of a track.

    >>> absolute(np.array([0.1, 0.2, 0.5]), np.array([10.0, 1.0, 3.0]), 0.0).round(4).tolist()
    [5.0, 1.1, -3.0832, 0.0]
    """
    eta, phi, pt = np.moveaxis(tracks, -1, 0)
    jet_pt, jet_eta, jet_phi = np.moveaxis(jet, -1, 0)
    momenta = [pt * jet_pt, eta + jet_eta, _wrapped(phi + jet_phi), np.full(pt.shape, mass)]
    return np.stack(momenta, -1)


def _wrapped(angle: NDArray[float64]) -> NDArray[float64]:
    """Return angles in [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def _in_polar(values: NDArray[Any], branches: Sequence[str]) -> NDArray[float64]:
    """Return (..., 4) pT, eta, phi and mass of what is in branches; the mass is 0 if in none."""
    wide = values.astype(float64)
    if branches[0].endswith(CARTESIAN[0]):
        return as_polar(wide)
    return np.concatenate([wide, np.zeros((*wide.shape[:-1], 4 - wide.shape[-1]))], -1)


def _branches(name: str, known: Sequence[str], needed: Sequence[str] = ()) -> list[str]:
    """Return the branches of a four-momentum, or a collection; the mass if there or needed."""
    if name in known or f"{name}_pt" not in known:
        return [f"{name}.{member}" for member in CARTESIAN]
    branches = [f"{name}_{column}" for column in POLAR]
    return branches if branches[-1] in known or "mass" in needed else branches[:-1]


def _weight(tree: Tree | Table) -> str | None:
    """Return the name of the branch of event weights, `None` without one of flat numbers."""
    try:
        return "weight" if "weight" in tree.names and tree.kind("weight")[1] == 0 else None
    except FormatError:
        return None
