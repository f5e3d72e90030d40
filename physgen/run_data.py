"""The data of a run: its source, how the rows are split, and what the user should know of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from physgen.batch import Batch, Variable
from physgen.components import as_conditions, system_of_files
from physgen.data_sections import Data
from physgen.errors import RecipeError, printable
from physgen.io.paired import Paired
from physgen.io.source import Source
from physgen.io.split import Split, notes_of, pieces_of_chains, split
from physgen.io.stream import Stream
from physgen.recipe import Recipe
from physgen.systems.base import HasFiles, Simulates, System, open_files
from physgen.validation.sources import chain_labels, conditions_of

SIMULATED = "data.h5"
"""What is simulated for a run, in its directory."""
ROUNDING = 1e-6
"""Share of a stated bound by which data may exceed it."""


@dataclass(frozen=True)
class RunData:
    """A data section of a recipe, with the system that opens its files or simulates them.

    Attributes:
        section: of the recipe.
        system: whose samples they are.
        kind: the name of the system in the recipe.
        folder: of the run, for simulated samples.
        partner: the data whose rows are conditions of these.
        conditions: what their columns are called.

    >>> import tempfile
    >>> from physgen.systems.ising import Ising
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     data = RunData(Data(n=100), Ising(shape=(4, 4)), "ising", Path(folder))
    ...     len(data.source), len(data.parts.train), len(data.parts.validation)
    (100, 92, 8)
    """

    section: Data
    system: System
    kind: str
    folder: Path
    partner: RunData | None = None
    conditions: tuple[Variable, ...] = ()

    @cached_property
    def source(self) -> Source:
        """The user's files, or samples that are simulated once into the run directory.

        Raises:
            RecipeError: the section names neither, or the system can do neither.
            FormatError: a file is absent or unfit, or rows have no partners.
        """
        if self.partner is not None:
            return Paired(self._alone, self.partner.source, self.conditions)
        return self._alone

    @cached_property
    def _alone(self) -> Source:
        section, system = self.section, self.system
        if not isinstance(system, HasFiles):
            raise RecipeError(f"system {self.kind!r} has no files to read data from")
        if section.path is not None:
            return open_files(system, section.path)
        if section.n is None:
            raise RecipeError(
                "the data section needs `n` (how many to simulate) or `path` (a file)"
            )
        path = self.folder / SIMULATED
        if not path.exists():
            if not isinstance(system, Simulates):
                raise RecipeError(f"system {self.kind!r} cannot simulate: give it data.path=FILE")
            with system.writer(path, section.n) as append:
                append(system.simulate(section.n, section.seed))
        return system.open(path)

    @cached_property
    def chain(self) -> NDArray[np.int64] | None:
        """(N,), the Markov chain of each row of the user's file; `None` if rows are independent."""
        return None if self.section.path is None else chain_labels(self.system, self.source)

    @cached_property
    def parts(self) -> Split:
        """Rows of training, validation and test; of a Markov chain, stretches of its time.

        What is simulated is tested against fresh simulations, so it needs no test rows.

        Raises:
            RecipeError: rows are left out by a condition that they do not have, or nothing is left.
        """
        parts = self._split
        if self.section.left_out is None:
            return parts
        known = ~np.isin(np.arange(len(self.source)), self.left_out)
        train, validation = (rows[known[rows]] for rows in (parts.train, parts.validation))
        if not len(train):
            low, high = self.section.left_out
            raise RecipeError(f"data.left_out: no training row is outside of {low:g} to {high:g}")
        return Split(train, validation, parts.test)

    @cached_property
    def left_out(self) -> NDArray[np.int64]:
        """Rows that would train or validate but for `data.left_out`."""
        if self.section.left_out is None:
            return np.empty(0, dtype=np.int64)
        if not self.source.schema.condition:
            raise RecipeError("data.left_out: these samples have no condition to leave out by")
        low, high = self.section.left_out
        values = conditions_of(self.source)[:, 0]
        rows = np.union1d(self._split.train, self._split.validation)
        return rows[(values[rows] >= low) & (values[rows] < high)]

    @cached_property
    def _split(self) -> Split:
        section, source = self.section, self.source
        fractions, keys = section.split, source.keys()
        if section.path is None:
            fractions = (1 - section.split[1], section.split[1], 0.0)
        elif keys is None and self.chain is not None:
            keys = pieces_of_chains(self.chain)
        return split(
            len(source), keys=keys, fractions=fractions, seed=section.seed, name=source.name
        )

    @cached_property
    def notes(self) -> list[str]:
        """What the user should know: repeated keys and rows, what was left out, stated ranges."""
        # Names of columns and files stand in them.
        return [printable(note) for note in (*notes_of(self.source), *self._beyond_stated())]

    def _beyond_stated(self) -> list[str]:
        """Say which conditions of training rows exceed the range that the system states of them."""
        stated = {v.name: v for v in self.system.schema.condition if None not in (v.low, v.high)}
        columns = [(j, v.name) for j, v in enumerate(self.source.schema.condition)]
        columns = [(j, name) for j, name in columns if name in stated]
        if not columns:
            return []
        rows = np.sort(self.parts.train)
        values = conditions_of(self.source)[rows]
        notes = []
        for column, name in columns:
            (low, high), unit = stated[name].range, stated[name].unit
            # A bound may be written with fewer digits than the file has.
            slack = ROUNDING * max(abs(low), abs(high))
            given = values[:, column]
            beyond = np.flatnonzero((given < low - slack) | (given > high + slack))
            if len(beyond):
                notes.append(
                    f"{self.source.name}: {len(beyond)} of {len(rows)} training rows have {name} "
                    f"outside [{low:g}, {high:g}] {unit}, the range that the recipe states (row "
                    f"{rows[beyond[0]]}: {given[beyond[0]]:g}): they are trained on, and the "
                    f"domain covers {given.min():g} to {given.max():g}; state the range of the "
                    "file in the recipe, or leave these rows out (data.left_out)"
                )
        return notes

    def training_sample(self) -> Batch:
        """Return training rows for all that is fitted once: transforms, biases, baselines."""
        stream = Stream(self.source, self.parts.train, batch_size=1, seed=self.section.seed)
        return stream.sample(self.section.fit_rows)


def inputs_of(recipe: Recipe, system: System, folder: Path) -> dict[str, RunData]:
    """Return the data that the method of a recipe learns from, by its names for them.

    Args:
        recipe: has the data sections.
        system: of the samples that are modelled, which come last.
        folder: of the run.
    """
    kind = recipe.system.kind
    inputs: dict[str, RunData] = {}
    for name in recipe.inputs:
        section = recipe.sections[name]
        if section.paired_with is not None:
            other = section.paired_with
            partner = RunData(recipe.sections[other], system_of_files(recipe, other), kind, folder)
            conditions = as_conditions(other, partner.system.schema)
            own = system_of_files(recipe, name)
            inputs[name] = RunData(section, own, kind, folder, partner, conditions)
        elif name == recipe.inputs[-1]:
            inputs[name] = RunData(section, system, kind, folder)
        else:
            inputs[name] = RunData(section, system_of_files(recipe, name), kind, folder)
    return inputs if len(inputs) != 1 else {"data": inputs.popitem()[1]}
