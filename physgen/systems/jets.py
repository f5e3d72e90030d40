"""Jets as sets of particles: eta, phi and pT relative to the jet, and a mask.

They are read from JetNet HDF5 files, and from ROOT or Parquet files with the columns of JetClass,
or simulated by `physgen.systems.jet_simulation`.

What is measured of them is in `physgen.systems.jet_sets`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import DomainError, RecipeError, suggest
from physgen.io.formats import TABLES, format_of
from physgen.io.jetclass import MOST, JetClassSource
from physgen.io.jetnet import (
    CLASS,
    CLASSES,
    JET,
    NAMED,
    PARTICLE,
    JetNetSource,
    jet_variables,
    jetnet_layout,
)
from physgen.io.joined import expand
from physgen.io.source import Source
from physgen.io.writer import Append, hdf5_writer
from physgen.systems.jet_observables import relative_mass
from physgen.systems.jet_sets import JetSets, mask_of

Process = Literal["gluon", "light-quark", "top", "w"]

N_PARTICLES = 30
"""Particles a jet of the usual JetNet file."""


@dataclass(frozen=True, kw_only=True)
class Jets(JetSets):
    """Jets: particles of which `ptrel` is relative to the jet's pT, and a mask.

    Args:
        path: of a file, a pattern, or a list of them.
        condition: features of the jet that it is generated for, of class, pt, eta, mass,
            num_particles.
        particles: how many a jet has at most, of more those of largest pT; `None` is as many as in
            the files at `path` (of JetClass 128), or 30.
        process: what is simulated, one class of jets or several in equal numbers.
        multiparton: whether other partons of the protons collide too in what is simulated.

    Raises:
        RecipeError: a condition is no jet feature, or a process is there twice.

    >>> x = torch.tensor([[[0.0, 0.1, 0.5], [0.0, -0.1, 0.5], [0.0, 0.0, 0.0]]])
    >>> values = Jets(particles=3).observables(Batch(x, mask=x[..., 2] > 0))
    >>> int(values["number of particles"]), round(float(values["relative mass"]), 4)
    (2, 0.0998)
    """

    file_keys: ClassVar[frozenset[str]] = frozenset({"path", "condition"})

    path: str | tuple[str, ...] | None = None
    condition: tuple[str | dict[str, Any], ...] = ()
    particles: int | None = None
    process: Process | tuple[Process, ...] = "gluon"
    multiparton: bool = True

    def __post_init__(self) -> None:
        """Refuse what is no feature of a jet."""
        known = [CLASS, *(variable.name for variable in JET)]
        for name in self.condition:
            if name not in known:
                raise RecipeError(
                    f"data.condition: {name!r} is no feature of a jet in JetNet files"
                    f"{suggest(str(name), known)}"
                )
        if not self._processes or len(set(self._processes)) < len(self._processes):
            raise RecipeError(f"system.process: name each class once, not {list(self._processes)}")
        if self.particles is not None and self.particles < 1:
            raise RecipeError(f"system.particles must be 1 or more, not {self.particles}")

    @cached_property
    def schema(self) -> Schema:
        """(particles, 3), masked: etarel, phirel, ptrel."""
        given = jet_variables(self._names, "jets")
        if CLASS in self._names and self.path is not None:  # Files have classes of their own.
            given = self.open(expand(self.path)[0]).schema.condition
        return Schema((self._n_particles, len(PARTICLE)), PARTICLE, given, masked=True)

    @property
    def _n_particles(self) -> int:
        if self.particles is not None:
            return self.particles
        if self.path is None:
            return N_PARTICLES
        return self.open(expand(self.path)[0]).schema.shape[0]

    @property
    def _processes(self) -> tuple[Process, ...]:
        return (self.process,) if isinstance(self.process, str) else self.process

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(str(name) for name in self.condition)

    @property
    def plausible(self) -> Mapping[str, tuple[float, float]]:
        """The particles of a jet carry its pT, but for those that were cut."""
        return {"relative pT sum": (0.1, 3.0)}

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Suffixes of the files that `writer` makes."""
        return (".h5", ".hdf5")

    def open(self, path: Path) -> Source:
        """Open a JetNet or JetClass-like file.

        Raises:
            FormatError: it is neither.
        """
        if format_of(path) in ("ROOT", *TABLES):
            return JetClassSource(path, self._names, self.particles or MOST)
        return JetNetSource(path, self._names, self.particles)

    def writer(
        self, path: Path, n: int, facts: Mapping[str, Any] | None = None
    ) -> AbstractContextManager[Append]:
        """Write jets as a JetNet HDF5 file piece by piece.

        Where pT and eta of the jets are no conditions, `jet_features` are relative to a pT of 1,
        and an attribute of the file says so.
        """

        def layout(batch: Batch) -> dict[str, Any]:
            mass = relative_mass(batch.x, mask_of(batch))
            return jetnet_layout(batch, mass.cpu().numpy(), self._names)

        stated = dict(facts or {})
        if "pt" not in self._names:
            stated["jet_features"] = "pT is not known: 1 stands for it, and mass is relative to it"
        for variable in self.schema.condition:
            if variable.name == CLASS:
                stated[NAMED] = ", ".join(variable.classes)
        return hdf5_writer(path, layout, attributes=stated, compression="gzip")

    def simulate(self, n: int, seed: int, condition: Tensor | None = None) -> Batch:
        """Simulate `n` jets with Pythia 8, in blocks with a seed each, on all cores.

        See `physgen.systems.jet_simulation`; about 130 jets a second and core. Of several processes
        jets take turns, or are of the classes given, (n, 1).

        Raises:
            InputError: Pythia or FastJet are not installed.
            DomainError: other conditions than classes are given: jets are as they come.
        """
        if condition is not None and self._names != (CLASS,):
            raise DomainError("jets are not simulated at given pT, eta or mass; leave them out")
        from physgen.systems import jet_simulation

        codes = torch.tensor([float(CLASSES.index(process)) for process in self._processes])
        turns = codes.repeat(1 + n // len(codes))[:n]
        kinds = turns if condition is None else condition[:, 0]
        if not bool(torch.isin(kinds, codes).all()):
            raise DomainError(f"simulated are jets of {', '.join(self._processes)}, no others")
        parts, places = [], []
        for code, process in zip(codes, self._processes, strict=True):
            places.append((kinds == code).nonzero()[:, 0])
            made = jet_simulation.simulate(
                process,
                len(places[-1]),
                seed,
                self._n_particles,
                torch.get_num_threads(),
                multiparton=self.multiparton,
            )
            x, mask, jet = (torch.from_numpy(made[name]) for name in ("x", "mask", "jet"))
            columns = dict(zip((v.name for v in JET), jet.unbind(1), strict=True))
            columns[CLASS] = code.expand(len(x))
            given = [columns[name] for name in self._names]
            parts.append(Batch(x, torch.stack(given, 1) if given else None, mask=mask))
        return Batch.concatenate(parts)[torch.cat(places).argsort()]

    def with_all_conditions(self) -> Jets:
        """Return the same jets, of which all features are conditions."""
        return dataclasses.replace(self, condition=(*(variable.name for variable in JET), CLASS))
