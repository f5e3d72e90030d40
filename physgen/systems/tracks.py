"""Jets of tracks in files of four-momenta, as sets of tracks relative to their jet, with a mask.

Read are collections of `TLorentzVector` of ROOT files, see `physgen.io.four_momenta`. Generated
tracks are written as jagged branches track_pt, track_eta, track_phi and track_mass with the counter
ntrack, beside jet_pt, jet_eta, ... of the jets that they were generated for, in double precision
and in the unit of the file that was learned from; such files are read again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from physgen.batch import Batch, Schema, Variable
from physgen.errors import FormatError, RecipeError, suggest
from physgen.io.branches import open_branches
from physgen.io.four_momenta import JET4, POLAR, Collections, FourMomentaSource, absolute
from physgen.io.jetnet import PARTICLE
from physgen.io.joined import expand
from physgen.io.source import Source
from physgen.io.writer import Append
from physgen.systems.event_files import branch_writer, located
from physgen.systems.jet_sets import JetSets, mask_of

PION = 0.13957039
"""Mass of a charged pion in GeV (R. L. Workman et al., PTEP 2022, 083C01), that of most tracks."""
TRACK, JET = "track", "jet"
"""Begin the names of branches that are written."""


@dataclass(frozen=True, kw_only=True)
class Tracks(JetSets):
    """Tracks of jets, relative to the four-momentum of their jet, and a mask.

    Args:
        path: of a ROOT file, a pattern, or a list of them; `skhep-testdata:NAME` is a file of the
            package scikit-hep-testdata.
        tree: of the file; `None` takes the only one.
        collections: branches of tracks, each a jet an event.
        jets: branches of the four-momenta of these jets, as many; none for the sums of the tracks.
        condition: what tracks are generated for, of pt, eta, phi and mass of the jet.
        particles: how many tracks a jet has at most, of more those of largest pT; `None` is as many
            as in the files at `path`, and files with more are refused.
        unit: of energies and momenta in the file.
        mass: of a track in GeV, as generated files have it; what is measured takes it for 0.

    Raises:
        RecipeError: a condition is no column of a four-momentum, or a number is out of range.

    >>> system = Tracks(collections=("Trk",), jets=("Jet",), condition=("pt",), particles=6)
    >>> system.schema.shape, system.schema.names, system.schema.condition[0].unit
    ((6, 3), ('etarel', 'phirel', 'ptrel'), 'GeV')
    """

    file_keys: ClassVar[frozenset[str]] = frozenset({"path", "tree", "condition"})

    collections: tuple[str, ...]
    path: str | tuple[str, ...] | None = None
    tree: str | None = None
    jets: tuple[str, ...] = ()
    condition: tuple[str | dict[str, Any], ...] = ()
    particles: int | None = None
    unit: Literal["GeV", "MeV"] = "GeV"
    mass: float = PION

    def __post_init__(self) -> None:
        """Refuse what is no column of a four-momentum, and numbers out of range."""
        for name in self.condition:
            if name not in POLAR:
                raise RecipeError(
                    f"data.condition: {name!r} is no column of the jet's four-momentum"
                    f"{suggest(str(name), POLAR)}"
                )
        if self.particles is not None and self.particles < 1:
            raise RecipeError(f"system.particles must be 1 or more, not {self.particles}")
        if not 0 <= self.mass < np.inf:
            raise RecipeError(f"system.mass must be 0 GeV or more, not {self.mass:g}")
        if twice := sorted(set(self.jets) & set(self.collections)):
            raise RecipeError(f"system.jets: {twice[0]} is one of system.collections; name its jet")
        if not self.collections or len(self.jets) not in (0, len(self.collections)):
            raise RecipeError(
                f"system.jets names {len(self.jets)} jets, and system.collections "
                f"{len(self.collections)} collections of tracks; name a jet for each of them, or "
                "none, for the sums of the tracks"
            )

    @cached_property
    def schema(self) -> Schema:
        """(tracks, 3), masked: etarel, phirel, ptrel."""
        given = tuple(JET4[POLAR.index(name)] for name in self._names)
        return Schema((self._most, len(PARTICLE)), PARTICLE, given, masked=True)

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(str(name) for name in self.condition)

    @cached_property
    def _most(self) -> int:
        """How many tracks a jet has, in every file: as in the ones described."""
        if self.particles is not None:
            return self.particles
        if self.path is None:
            raise RecipeError(
                "system tracks: say which file to read in data.path, or how many tracks a jet has "
                "at most in system.particles"
            )
        return max(self._opened(path, None).longest for path in expand(self.path))

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Suffixes of the files that `writer` makes."""
        return (".root", ".parquet")

    def open(self, path: Path) -> Source:
        """Open a file of four-momenta, those that physgen wrote included.

        Raises:
            FormatError: it is none, or has jets of more tracks than the files described.
        """
        source = self._opened(path, self._most)
        if self.particles is None and source.longest > self._most:
            raise FormatError(
                f"{path}: there are jets of {source.longest} tracks, and none of more than "
                f"{self._most} in {self.path}; set system.particles={self._most} to keep those of "
                f"largest pT, or train with system.particles={source.longest}"
            )
        return source

    @contextmanager
    def writer(
        self, path: Path, n: int, facts: Mapping[str, Any] | None = None
    ) -> Iterator[Append]:
        """Write jets of tracks as a tree or table with a collection, and columns of the jet.

        Raises:
            RecipeError: pt, eta and phi of the jets are not among the conditions.
        """
        axis = [name for name in ("pt", "eta", "phi") if name not in self._names]
        if axis:
            raise RecipeError(
                f"{path}: momenta of tracks need {', '.join(axis)} of the jet: train with "
                "data.condition=[pt,eta,phi], or write .h5, which holds tracks relative to the jet"
            )
        schema = Schema(
            (self._most, len(POLAR)),
            tuple(self._written(TRACK, variable) for variable in JET4),
            tuple(self._written(JET, JET4[POLAR.index(name)]) for name in self._names),
            masked=True,
        )
        given = [self._names.index(name) for name in ("pt", "eta", "phi")]
        scale = [1 / self._gev if v.unit == "GeV" else 1.0 for v in self.schema.condition]
        with branch_writer(path, schema, self.tree, None, facts) as append:

            def put(batch: Batch) -> None:
                mask_of(batch)
                assert batch.condition is not None  # They are generated for jets.
                jet = batch.condition.double().numpy() * np.array(scale)
                x = absolute(batch.x.double().numpy(), jet[:, None, given], self.mass / self._gev)
                condition = torch.from_numpy(jet)
                append(batch.replace(x=torch.from_numpy(x), condition=condition))

            yield put

    @property
    def _gev(self) -> float:
        """The unit of the file in GeV."""
        return 1e-3 if self.unit == "MeV" else 1.0

    def _written(self, prefix: str, variable: Variable) -> Variable:
        unit = self.unit if variable.unit == "GeV" else variable.unit
        return replace(variable, name=f"{prefix}_{variable.name}", unit=unit, dtype="float64")

    def _opened(self, path: Path, most: int | None) -> FourMomentaSource:
        path = located(str(path))
        names = open_branches(path, self.tree).names
        where = Collections(self.collections, self.jets, self.tree, self._gev)
        described = {column for one in self.collections for column in (one, f"{one}_pt")}
        if f"{TRACK}_pt" in names and described.isdisjoint(names):
            where = replace(where, tracks=(TRACK,), jets=(JET,))
        return FourMomentaSource(path, where, self._names, most)
