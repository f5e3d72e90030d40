"""Jets in files laid out as JetClass (Qu, Li & Qian, arXiv:2202.03772): ROOT, Parquet or Arrow.

Jagged columns part_deta, part_dphi (relative to the jet's axis), part_px, part_py; flat ones
jet_pt, jet_eta, jet_energy (GeV), and label_QCD, label_Hbb, ..., of which that of the jet's class
is 1 and all others 0. They become what JetNet files hold: etarel, phirel and ptrel, the pT over
that of the jet, of the particles of largest pT, in that order.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physgen.batch import Batch, Schema
from physgen.errors import FormatError
from physgen.io.branches import BranchSource
from physgen.io.jetnet import CLASS, PARTICLE, hardest, jet_variables
from physgen.io.source import as_batch, blocks, digest_of

COLUMNS = ("part_deta", "part_dphi", "part_px", "part_py")
_JET = ("jet_pt", "jet_eta", "jet_energy")
LABELS = ("QCD", "Hbb", "Hcc", "Hgg", "H4q", "Hqql", "Zqq", "Wqq", "Tbqq", "Tbl")
"""Classes of JetClass, whose columns have the prefix `label_`."""
MOST = 128
"""Particles that are kept where nobody says how many: none of JetClass has more."""


class JetClassSource:
    """Jets of a JetClass-like file: particles (N, particles, 3) with a mask, as float32.

    Args:
        path: of the file.
        condition: which jet features are conditions, by their names in `physgen.io.jetnet`.
        particles: how many are kept of a jet.

    Raises:
        FormatError: columns are absent, or of other types.
    """

    def __init__(
        self, path: Path | str, condition: Sequence[str] = (), particles: int = MOST
    ) -> None:
        self.name = str(path)
        self._labels = [f"label_{name}" for name in LABELS] if CLASS in condition else []
        self._source = BranchSource(path, None, COLUMNS, condition=(*_JET, *self._labels))
        self._condition, self._particles = tuple(condition), particles
        given = jet_variables(condition, path, LABELS)
        self.schema = Schema((particles, len(PARTICLE)), PARTICLE, given, masked=True)
        self.block = self._source.block

    def __len__(self) -> int:
        return len(self._source)

    def read(self, start: int, stop: int) -> Batch:
        """Return rows [start, stop).

        Raises:
            FormatError: a value is not finite, the pT of a jet is not positive, or it has not one
                label.
        """
        return as_batch(self.arrays(start, stop))

    def arrays(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Return rows [start, stop) by their name in `Batch`, see `read`."""
        found = self._source.arrays(start, stop)
        jet = dict(
            zip((*_JET, *self._labels), found["condition"].astype(np.float64).T, strict=True)
        )
        if (jet["jet_pt"] <= 0).any():
            row = int((jet["jet_pt"] <= 0).argmax())
            raise FormatError(
                f"{self.name}: row {start + row} has jet_pt = {jet['jet_pt'][row]:g}; remove such "
                "rows: pT of particles is relative to that of their jet"
            )
        eta, phi, px, py = np.moveaxis(found["x"].astype(np.float64), 2, 0)
        pt = np.hypot(px, py) / jet["jet_pt"][:, None]
        every = np.stack([eta, phi, pt], 2).astype(np.float32)
        x, mask = hardest(every, found["mask"], self._particles)
        result = {"x": x, "mask": mask}
        if self._condition:
            energy, momentum = jet["jet_energy"], jet["jet_pt"] * np.cosh(jet["jet_eta"])
            features = {
                "pt": jet["jet_pt"],
                "eta": jet["jet_eta"],
                "mass": np.sqrt(np.maximum(energy**2 - momentum**2, 0.0)),
                "num_particles": mask.sum(1),
            }
            if self._labels:
                features[CLASS] = self._class(np.stack([jet[k] for k in self._labels], 1), start)
            given = [features[name] for name in self._condition]
            result["condition"] = np.stack(given, 1).astype(np.float32)
        return result

    def _class(self, labels: NDArray[np.float64], start: int) -> NDArray[np.int64]:
        """Return (n,) numbers of the label of each row that is 1."""
        wrong = ((labels != 0) & (labels != 1)).any(1) | (labels.sum(1) != 1)
        if wrong.any():
            row = int(wrong.argmax())
            said = ", ".join(f"{v:g}" for v in labels[row])
            raise FormatError(
                f"{self.name}: row {start + row} has {', '.join(self._labels)} = {said}; one of "
                "them must be 1 and all others 0: remove such rows"
            )
        return np.asarray(labels.argmax(1))

    def digest(self) -> str:
        """Return the SHA-256 of the samples."""
        return digest_of(blocks(self))

    def keys(self) -> None:
        """Return nothing: jets stand alone."""

    def notes(self) -> list[str]:
        """Return whether particles are left out."""
        if self._source.longest <= self._particles:
            return []
        return [
            f"{self.name}: there are jets of up to {self._source.longest} particles, of which "
            f"those of largest pT are kept; set system.particles={self._source.longest} to keep all"
        ]
