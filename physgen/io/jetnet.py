"""Jets in JetNet files (Kansal et al., arXiv:2106.11535).

An HDF5 file with `particle_features` (N, particles, 4), of which the last axis is eta, phi and pT
relative to the jet (etarel, phirel, ptrel = pT / jet pT) and the mask, 1 where there is a particle;
and `jet_features` (N, 4): pt (GeV), eta, mass (GeV) and num_particles. Jets may have `weight`,
`chain` and `log_weight` (N,), which physgen writes beside them, and `jet_type` (N,), numbers of the
classes that the attribute `jet_classes` of the file names, or else of those of JetNet. Files of
JetNet themselves have jets of one class, which is the first letter of their name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physgen.batch import Batch, Schema, Variable
from physgen.errors import FormatError, suggest
from physgen.io.attributes import attribute
from physgen.io.hdf5 import dataset, has, open_hdf5
from physgen.io.hdf5_source import HDF5Source
from physgen.io.source import as_batch, blocks, digest_of
from physgen.io.writer import COMPANIONS, companions

PARTICLES, JETS, TYPE = "particle_features", "jet_features", "jet_type"
PARTICLE = (
    Variable("etarel"),
    Variable("phirel", "rad"),
    Variable("ptrel", domain="non-negative"),
)
"""The columns of a particle."""
JET = (
    Variable("pt", "GeV", "non-negative"),
    Variable("eta"),
    Variable("mass", "GeV", "non-negative"),
    Variable("num_particles", domain="non-negative"),
)
"""The columns of a jet, which may be conditions."""
_NUMBER = 3
CLASS = "class"
"""Name of the condition that says what a jet is."""
CLASSES = ("gluon", "light-quark", "top", "w", "z")
"""Classes of jets in the order of JetNet, whose files are named by the letters below."""
_LETTERS = "gqtwz"
NAMED = "jet_classes"
"""Attribute of a file with the names of its classes, separated by commas."""


class JetNetSource:
    """Jets of a JetNet file: particles (N, particles, 3) with a mask, as float32.

    Args:
        path: of the file.
        condition: which jet features are conditions, "class" being one of them.
        particles: how many are kept of a jet, those of largest pT; `None` is as many as there are.

    Raises:
        FormatError: datasets are absent or of other shapes, or classes are unknown.
    """

    def __init__(
        self, path: Path | str, condition: Sequence[str] = (), particles: int | None = None
    ) -> None:
        self.path, self.name = Path(path), str(path)
        self._names = tuple(condition)
        features = any(name != CLASS for name in condition)
        self._source = HDF5Source(
            path,
            x=PARTICLES,
            condition=JETS if features else None,
            companions={name: name for name in COMPANIONS},
        )
        self._classes: NDArray[np.float64] | None = None
        names: tuple[str, ...] = CLASSES
        if CLASS in condition:
            self._classes, names = _classes_of(self.path, len(self._source))
        given = jet_variables(condition, path, names)
        shape = self._source.schema.shape
        if len(shape) != 2 or shape[1] != 4:
            raise FormatError(
                f"{path}: {PARTICLES!r} has rows of shape {shape}; expected (particles, 4), which "
                "are etarel, phirel, ptrel and the mask (1 where there is a particle, else 0)"
            )
        if features and len(self._source.schema.condition) != len(JET):
            raise FormatError(
                f"{path}: {JETS!r} has {len(self._source.schema.condition)} columns; expected "
                f"{len(JET)}: {', '.join(v.name for v in JET)}; leave data.condition out to read "
                "particles alone"
            )
        self._stored, self._particles = shape[0], particles or shape[0]
        self.schema = Schema((self._particles, len(PARTICLE)), PARTICLE, given, masked=True)
        self.block = self._source.block

    def __len__(self) -> int:
        return len(self._source)

    def read(self, start: int, stop: int) -> Batch:
        """Return rows [start, stop).

        Raises:
            FormatError: a value is not finite, or the mask is neither 0 nor 1 or contradicts the
                features; the row is named.
        """
        return as_batch(self.arrays(start, stop))

    def arrays(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Return rows [start, stop) by their name in `Batch`, see `read`."""
        found = self._source.arrays(start, stop)
        where = f"{self.path}: dataset {PARTICLES!r}"
        x, mask = np.split(found["x"].astype(np.float32, copy=False), [3], axis=2)
        present = mask[..., 0] == 1
        _refuse((mask[..., 0] != 0) & ~present, start, where, "has a mask that is not 0 or 1")
        _refuse(
            ~present & (x != 0).any(2),
            start,
            where,
            "has features where its mask (the last column) is 0",
        )
        _refuse(
            present & (x == 0).all(2),
            start,
            where,
            "has only zeros where its mask (the last column) is 1",
        )
        if self._particles != self._stored:
            x, present = hardest(x, present, self._particles)
        others = {name: found[name] for name in COMPANIONS if name in found}
        result = {"x": x, "mask": present, **others}
        columns: dict[str, NDArray[Any]] = {}
        if "condition" in found:
            columns = dict(zip((v.name for v in JET), found["condition"].T, strict=True))
            if self._particles < self._stored:
                columns["num_particles"] = present.sum(1)
        if self._classes is not None:
            columns[CLASS] = self._classes[start : start + len(x)]
        if self._names:
            given = [columns[name] for name in self._names]
            result["condition"] = np.stack(given, 1).astype(np.float32)
        return result

    def digest(self) -> str:
        """Return the SHA-256 of the samples."""
        return digest_of(blocks(self))

    def keys(self) -> None:
        """Return nothing: jets stand alone."""

    def notes(self) -> list[str]:
        """Return how many particles have a negative pT, and what `faults` says."""
        negative = sum(int((batch.x[..., 2] < 0).sum()) for batch in blocks(self))
        if not negative:
            return list(self.faults().values())
        return [
            *self.faults().values(),
            f"{self.path}: {negative} particles have a negative ptrel; set their features and mask "
            "to 0 if they are padding",
        ]

    def faults(self) -> dict[str, str]:
        """Return which jets have particles without pT, or another number of them than is said."""
        found: dict[str, list[int]] = {"particles without pT": [], "num_particles": []}
        said = self._stated_numbers()
        for start in range(0, len(self), self.block):
            stored = self._source.arrays(start, start + self.block, ("x",))["x"]
            there = stored[..., 3] == 1
            dark = there.any(1) & ~(there & (stored[..., 2] != 0)).any(1)
            found["particles without pT"] += (start + np.flatnonzero(dark)).tolist()
            if said is not None:
                wrong = there.sum(1) != said[start : start + self.block]
                found["num_particles"] += (start + np.flatnonzero(wrong)).tolist()
        sentences = {
            "particles without pT": "have particles (mask 1) whose ptrel is 0 throughout, the "
            "first being row {row}: write their ptrel, or 0 in the mask",
            "num_particles": "have another num_particles than particles in their mask, the first "
            "being row {row}: correct it, unless jets were cut to their leading particles",
        }
        return {
            what: f"{self.path}: {len(rows)} of {len(self)} jets {sentences[what]}".format(
                row=rows[0]
            )
            for what, rows in found.items()
            if rows
        }

    def _stated_numbers(self) -> NDArray[np.float64] | None:
        """Return (N,) num_particles, `None` where there are no features of the jets."""
        with open_hdf5(self.path) as file:
            if not has(file, JETS) or file[JETS].shape != (len(self), len(JET)):
                return None
            return np.asarray(dataset(file, JETS, 2)[:, _NUMBER], np.float64)


def hardest(
    x: NDArray[np.float32], mask: NDArray[np.bool_], most: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the `most` particles of largest pT of each jet, in that order, or padded to as many.

    Args:
        x: (N, particles, 3), pT last.
        mask: (N, particles) which of them are there.
        most: how many.
    """
    order = np.argsort(np.where(mask, -x[..., 2], np.inf), axis=1, kind="stable")[:, :most]
    x, mask = np.take_along_axis(x, order[..., None], 1), np.take_along_axis(mask, order, 1)
    padding = most - x.shape[1]
    x = np.pad(np.where(mask[..., None], x, 0), ((0, 0), (0, padding), (0, 0)))
    return x, np.pad(mask, ((0, 0), (0, padding)))


def jet_variables(
    names: Sequence[str], path: Path | str, classes: Sequence[str] = CLASSES
) -> tuple[Variable, ...]:
    """Return jet features by name; `FormatError` for one that is neither in `JET` nor the class."""
    kind = Variable(CLASS, domain="integer", low=0, high=len(classes) - 1, classes=tuple(classes))
    known = {variable.name: variable for variable in (*JET, kind)}
    for name in names:
        if name not in known:
            raise FormatError(f"{path}: jets have no feature {name!r}{suggest(name, known)}")
    return tuple(known[name] for name in names)


def _classes_of(path: Path, n: int) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Return (n,) numbers of the classes of a file's jets, and the names of the classes."""
    with open_hdf5(path) as file:
        if not has(file, TYPE):
            return np.full(n, float(_LETTERS.index(_letter(path)))), CLASSES
        numbers = np.asarray(dataset(file, TYPE, 1)[:], np.float64)
        said = attribute(file, NAMED)
    names = CLASSES if said is None else tuple(str(said).replace(" ", "").split(","))
    where = f"{path}: dataset {TYPE!r}"
    if len(numbers) != n:
        raise FormatError(f"{where} has {len(numbers)} rows, the jets {n}")
    bad = ~np.isin(numbers, np.arange(len(names)))
    if bad.any():
        row = int(bad.argmax())
        raise FormatError(
            f"{where}: row {row} is {numbers[row]:g}, and classes are numbers from 0 to "
            f"{len(names) - 1}: {', '.join(names)}; name others in the attribute {NAMED!r} of the "
            "file"
        )
    return numbers, names


def _letter(path: Path) -> str:
    """Return the letter of the class of a file of JetNet; `FormatError` for another name."""
    named = re.fullmatch(rf"([{_LETTERS}])\d*", path.stem)
    if named is None:
        raise FormatError(
            f"{path}: what class its jets are is not known: write it as dataset {TYPE!r} (N,), "
            f"numbers of {', '.join(CLASSES)} from 0 (others by the attribute {NAMED!r} of the "
            f"file, names separated by commas), or call a file of one class {_LETTERS[0]}.hdf5, "
            f"{_LETTERS[1]}.hdf5, ... as JetNet does"
        )
    return named[1]


def _refuse(bad: NDArray[np.bool_], start: int, where: str, fault: str) -> None:
    """Raise `FormatError` naming the first particle of which `bad` (rows, particles) is true."""
    if bad.any():
        row, particle = np.argwhere(bad)[0]
        raise FormatError(
            f"{where}: row {start + row}, particle {particle} {fault}; write 1 for particles and 0 "
            "with all features 0 for padding"
        )


def jetnet_layout(
    batch: Batch, mass: NDArray[np.float64], given: Sequence[str]
) -> dict[str, NDArray[Any]]:
    """Lay jets out as the datasets of a JetNet file.

    Args:
        batch: particles (B, particles, 3) with a mask; weights of jets are written too.
        mass: (B,) of the jets relative to their pT.
        given: names of the conditions, which are written as they are. What else jets have is
            measured; where pT and eta are not known, 1 and 0 stand for them.
    """
    if batch.mask is None:
        raise FormatError("jets without a mask: pass Batch(x, mask=...)")
    x, mask = batch.x.detach().cpu().numpy(), batch.mask.cpu().numpy()[..., None]
    known: dict[str, NDArray[Any]] = {}
    if batch.condition is not None:
        columns = batch.condition.detach().cpu().double().numpy().T
        known = dict(zip(given, columns, strict=True))
    pt = known.get("pt", np.ones(len(x)))
    measured = {"pt": pt, "eta": 0 * pt, "mass": mass * pt, "num_particles": mask.sum((1, 2))}
    features = measured | known
    return {
        PARTICLES: np.concatenate([np.where(mask, x, 0.0), mask], 2).astype(np.float32),
        JETS: np.stack([features[v.name] for v in JET], 1).astype(np.float32),
        **({TYPE: known[CLASS].round().astype(np.int8)} if CLASS in known else {}),
        **companions(batch),
    }
