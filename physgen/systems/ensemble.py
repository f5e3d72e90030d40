"""Anybody's Markov chain of spins or of a real field on a periodic lattice, the action unknown.

Measured is what needs no action: the field's moments, and the link energy -sum_<xy> phi_x phi_y / V
with nearest neighbours counted once, which is E/N of an Ising model with J = 1. One number a
configuration is no lattice but a series of measurements, of which the mean is all there is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import FormatError, suggest
from physgen.io.arrays import AXES_REMEDY, ArraysSource, Axes, names_in, open_array
from physgen.io.joined import expand, joined
from physgen.io.source import Source, blocks
from physgen.io.spins import SpinSource, signed
from physgen.systems.base import Derived
from physgen.systems.real_field import magnetic, moments

FIELDS = ("samples", "configurations", "x", "spins", "phi")
"""Names of datasets that are taken for the field, in this order."""


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Configurations of a lattice, as a file holds them.

    Attributes:
        path: HDF5 or npz file, a pattern or a list of files, each of which is another chain; rows
            of one chain in the order of Monte Carlo time.
        dataset: name of the (N, *shape) field, or of a series (N,); `None` takes the usual names,
            or the only candidate.
        chain: name of the (N,) chain numbers; `None` takes "chain" if it is there, else one
            chain a file.
        shape: of one configuration; `None` is as the file has it.
        axes: what the first two axes are, where they are chains and time.

    >>> import tempfile
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/chain.npz", phi=np.zeros((100, 4, 4)))
    ...     Ensemble(path=f"{folder}/chain.npz").schema.shape
    (4, 4)
    """

    file_keys: ClassVar[frozenset[str]] = frozenset({"path", "axes"})

    path: str | Path | tuple[str, ...]
    dataset: str | None = None
    chain: str | None = None
    shape: tuple[int, ...] | None = None
    axes: Axes | None = None

    @cached_property
    def _sources(self) -> list[Source]:
        return [self._open(path) for path in expand(self.path)]

    @cached_property
    def source(self) -> Source:
        """The file, or the files as one.

        Raises:
            FormatError: there is no such file, no single candidate for the field in it, or no
                dataset of the chain's name; or files differ in layout.
        """
        return joined(self._sources)

    def _open(self, path: Path) -> Source:
        names = names_in(path)
        candidates = [name for name in names if name not in ("chain", self.chain)]
        only = candidates[0] if len(candidates) == 1 else None
        field = self.dataset or next((name for name in FIELDS if name in names), only)
        if field is None:
            raise FormatError(
                f"{path}: which dataset is the field?{suggest('', names)}; say it with "
                "--set system.dataset=NAME"
            )
        plain = open_array(path, field, chain=self.chain, axes=self.axes)
        stored = plain.schema.shape
        spins = _holds_spins(plain, field, declared="variable_type" in names)
        if spins and self.shape is None:
            # The file itself may say the shape of flat rows; they are then as many as the sites.
            stated = SpinSource(path, dataset=field, chain=self.chain, axes=self.axes).schema.shape
            wanted = stated if stated != stored else _as_stored(path, field, len(plain), stored)
        else:
            wanted = self.shape or _as_stored(path, field, len(plain), stored)
        if math.prod(wanted) != math.prod(stored):
            raise FormatError(
                f"{path}: {field!r} has rows of shape {stored}, which are no lattices of "
                f"{'x'.join(map(str, wanted))}"
                + (f"; if they are chains, say {AXES_REMEDY}" if stored[1:] == wanted else "")
            )
        if spins:
            return SpinSource(path, shape=wanted, dataset=field, chain=self.chain, axes=self.axes)
        plain.schema = Schema(wanted, plain.schema.variables)
        return plain

    @property
    def schema(self) -> Schema:
        """That of the file."""
        return self.source.schema

    @property
    def derived(self) -> Mapping[str, Derived]:
        """chi2, U4 and xi2 as `physgen.systems.scalar` defines them; of a series nothing."""
        return {} if self._is_series else magnetic(self.schema.shape)

    def observables(self, batch: Batch) -> dict[str, Tensor]:
        """Return (B,) each: the link energy and the moments, or the "value" of a series."""
        x = batch.x.double()
        if self._is_series:
            return {"value": x.flatten()}
        links = torch.stack([x * x.roll(-1, axis) for axis in range(1, x.ndim)]).sum(0)
        energy = -links.flatten(1).sum(1) / math.prod(x.shape[1:])
        return {"link energy": energy, **moments(x)}

    @property
    def _is_series(self) -> bool:
        return math.prod(self.schema.shape) == 1

    def parts(self) -> Iterator[Batch]:
        """Yield all configurations in their order, with `chain`, as many at once as fit."""
        ends = np.cumsum([len(source) for source in self._sources])
        at = 0
        for batch in blocks(self.source):
            whole = batch.replace(x=batch.x.reshape(-1, *self.schema.shape))
            if whole.chain is None:
                rows = np.arange(at, at + len(whole))
                file = np.searchsorted(ends, rows, side="right")
                whole = whole.replace(chain=torch.from_numpy(file))
            yield whole
            at += len(whole)


def _holds_spins(source: ArraysSource, field: str, *, declared: bool) -> bool:
    """Return whether rows of several numbers are spins: called so, or whole numbers of two kinds.

    Whole numbers called `samples`, and those of which the file says so, are spins (see
    `physgen.io.spins`), and it is said what is wrong if not.
    """
    if math.prod(source.schema.shape) == 1:
        return False
    values = signed(source.arrays(0, min(len(source), 1000))["x"])
    if field == "samples":
        return declared or bool((values == np.round(values)).all())
    two = np.isin(values, (0, 1)).all() or np.isin(values, (-1, 1)).all()
    return bool(two and (values.dtype.kind != "f" or field == "spins"))


def _as_stored(path: Path, field: str, rows: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of rows if it can only be that of a lattice.

    Raises:
        FormatError: it may as well be that of chains, or of an array that is transposed.
    """
    if len(shape) == 1 and 1 < shape[0] <= rows:
        raise FormatError(
            f"{path}: rows of {field!r} are {shape[0]} numbers: a lattice in one dimension, or a "
            f"table? Say --set system.shape=[{shape[0]}] (or the shape of flat rows); a table is "
            "judged beside another one, with --against FILE --system RECIPE"
        )
    chains = len(shape) > 2 and len(set(shape)) > 1
    if chains or (len(shape) == 1 and rows < shape[0]):
        lattice = "x".join(map(str, shape))
        chain = "x".join(map(str, shape[1:])) or "one number"
        stated = ",".join(map(str, shape))
        raise FormatError(
            f"{path}: {field!r} has shape {(rows, *shape)}: {rows} lattices of {lattice}, several "
            f"chains of {chain}, or transposed? Say --set system.shape=[{stated}], or --set "
            f"{AXES_REMEDY}, or write it with configurations as rows"
        )
    return shape
