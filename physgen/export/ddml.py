"""Showers of a surrogate as libraries that the `LoadHdf5` of key4hep's DDML plays back.

No model runs there, so that every surrogate of showers can be played back. DDML takes showers in
the order of the file whatever the energy of its particle, so that there is a file for each energy:
see `physgen.io.ddml` for what is in it, and docs/layouts.md for what it cannot represent.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from physgen.batch import Batch, Schema
from physgen.errors import InputError
from physgen.export.base import Trained
from physgen.generation import generate_blocks
from physgen.io.ddml import ddml_writer
from physgen.io.showers import DIRECTION, INCIDENT
from physgen.systems.voxelisation import Cells, Losses, to_cells, to_points
from physgen.version import __version__

AT_ONCE = 256
"""Showers that are in cells together, which bounds the memory: 45 MB in the default grid."""

POINT = ("x", "y", "layer", "energy")
"""Columns of a point that has a place in the cells."""


class DDML:
    """Export to libraries of DDML, one a particle's energy.

    Args:
        energies: of the incident particle, in MeV.
        n: showers of each.
        seed: of the showers, those of `physgen generate` with it.
        cells: how many: layers, rows in y, columns in x; NCellsZ, NCellsX and NCellsY of DDML.
        cell_mm: how large they are.

    Raises:
        InputError: an option is out of range.

    >>> DDML(energies=(10000.0,), n=100).cells
    Cells(layers=30, rows=30, columns=49, mm=5.088333)
    """

    def __init__(
        self,
        *,
        energies: tuple[float, ...],
        n: int = 1000,
        seed: int = 1,
        cells: tuple[int, int, int] = (30, 30, 49),
        cell_mm: float = 5.088333,
    ) -> None:
        if len({_file(energy) for energy in energies}) < len(energies):
            raise InputError(f"energies = {list(energies)}: each has a file, and may be named once")
        if not energies or n < 1 or min(*cells, cell_mm) <= 0:
            raise InputError(
                f"energies = {list(energies)}, n = {n}, cells = {list(cells)} of {cell_mm} mm: one "
                "energy and shower or more, and cells that are some and have a size, are wanted"
            )
        self.energies, self.n, self.seed = energies, n, seed
        self.cells = Cells(*cells, cell_mm)

    def write(self, trained: Trained, folder: Path) -> None:
        """Write a file `showers-ENERGYMeV.h5` for each energy; warn of what is lost in cells.

        Raises:
            InputError: it is no surrogate of showers.
            DomainError: an energy is outside the domain of the training.
        """
        if trained.correction != "none":
            raise InputError(
                f"{trained.recipe}: its samples are made exact by {trained.correction}, which a "
                "library does not do; pass --set sampling.correction=none"
            )
        _check(trained)
        for energy in self.energies:
            losses = Losses()
            facts = {"physgen_provenance": json.dumps(self._provenance(trained, energy))}
            path = folder / _file(energy)
            with (
                trained.step(f"showers of {energy:g} MeV"),
                ddml_writer(path, self.cells.mm, facts=facts) as append,
            ):
                for batch in self._showers(trained, energy):
                    append(to_cells(batch, self.cells, losses))
            if outside := self._outside(trained, energy):
                warnings.warn(f"{path.name}: {outside}", stacklevel=2)
            if lost := "; ".join(losses.sentences()):
                warnings.warn(f"{path.name}: {lost}", stacklevel=2)

    def _provenance(self, trained: Trained, energy: float) -> dict[str, object]:
        card = trained.scorecard
        outside = self._outside(trained, energy)
        return {
            "physgen": __version__,
            "recipe": trained.recipe,
            "verdict": "not scored" if card is None else card.verdict,
            "n": self.n,
            "seed": self.seed,
            INCIDENT: energy,
            **({"outside_domain": outside} if outside else {}),
        }

    def _outside(self, trained: Trained, energy: float) -> str:
        """Say that the energy is outside the trained domain, if it is and that was allowed."""
        prior = trained.surrogate.conditions
        return prior.outside(torch.tensor(self._condition(trained, energy)).expand(self.n, -1))

    def _condition(self, trained: Trained, energy: float) -> list[float]:
        """Return the conditions of a particle at a right angle, in their order."""
        given = {INCIDENT: energy} | dict(zip(DIRECTION, (0.0, 0.0, 1.0), strict=True))
        return [given[variable.name] for variable in trained.surrogate.schema.condition]

    def _showers(self, trained: Trained, energy: float) -> Iterator[Batch]:
        """Yield showers as points, some at a time, of particles at a right angle."""
        condition = self._condition(trained, energy)
        before = Losses()
        for block in generate_blocks(
            trained.surrogate, self.n, seed=self.seed, condition=condition
        ):
            for first in range(0, len(block), AT_ONCE):
                batch = block[first : first + AT_ONCE]
                if trained.geometry is not None:
                    batch = to_points(batch, trained.geometry, before)
                yield batch


def _file(energy: float) -> str:
    """Return the name of the file of an energy in MeV."""
    return f"showers-{energy:.10g}MeV.h5"


def _check(trained: Trained) -> None:
    """Refuse surrogates of other things than showers.

    Raises:
        InputError: what it is of has no voxels whose place is known, and no points in layers.
    """
    schema: Schema = trained.surrogate.schema
    given = {variable.name for variable in schema.condition}
    columns = tuple(variable.name for variable in schema.variables)
    placed = trained.geometry is not None and trained.geometry.placed
    if given not in ({INCIDENT}, {INCIDENT, *DIRECTION}) or not (
        placed or columns[: len(POINT)] == POINT
    ):
        raise InputError(
            f"{trained.recipe} is not exported to DDML: its samples are no showers, given the "
            "energy of a particle, of voxels whose place is known or of points in layers"
        )
