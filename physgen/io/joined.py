"""Several files of the same layout as one source, one after the other."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from physgen.batch import Batch, Schema
from physgen.errors import FormatError
from physgen.io.lattice.folders import configurations_in
from physgen.io.shards import of_one_folder, shards_in
from physgen.io.source import HasFaults, HasNotes, Source, blocks, digest_of

_CHAINS = 2**40
"""Chains of one file are fewer: those of the next one are numbered from there."""


def expand(path: str | Path | Iterable[str | Path]) -> list[Path]:
    """Return the files that a path, a pattern (`part_*.root`) or a list of both stands for.

    A file whose name looks like a pattern is that file. Files of a pattern are in alphabetical
    order. A folder of gauge configurations, or of shards, stands for all of them.

    Raises:
        FormatError: no file matches a pattern, a file stands there twice, or shards are missing.
    """
    given = [path] if isinstance(path, str | Path) else list(path)
    result: list[Path] = []
    for one in map(str, given):
        if Path(one).is_dir() and (inside := shards_in(Path(one)) or configurations_in(Path(one))):
            result += inside
            continue
        if Path(one).exists() or not glob.has_magic(one):
            result.append(Path(one))
            continue
        matches = sorted(glob.glob(one))  # noqa: PTH207 (patterns may be absolute)
        if not matches:
            raise FormatError(f"{one}: no file matches this pattern")
        result += map(Path, matches)
    twice = {str(file) for file in result if result.count(file) > 1}
    if twice:
        raise FormatError(f"{min(twice)} is named twice; its rows would count twice")
    return result


def joined(sources: Sequence[Source]) -> Source:
    """Return one source of all rows; a lone source is returned as it is.

    Raises:
        FormatError: the files differ in layout, or in what their rows carry.

    >>> from physgen.batch import Schema, Variable
    >>> from physgen.io.source import ArraySource, as_batch
    >>> schema = Schema((1,), (Variable("x", dtype="float64"),))
    >>> files = [ArraySource(as_batch({"x": np.full(2, i)}), schema) for i in (1.0, 2.0)]
    >>> joined(files).read(1, 4).x.flatten().tolist()
    [1.0, 2.0, 2.0]
    """
    return sources[0] if len(sources) == 1 else Joined(sources)


class Joined:
    """Rows of several sources, in their order.

    Chains of different files are different ones, except in shards of one generation.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        first = sources[0]
        for source in sources[1:]:
            _same(first, source)
        self._sources = tuple(sources)
        # Masked samples have as many places as the largest one of all files needs.
        widest = max(source.schema.shape for source in sources)
        self.schema = replace(first.schema, shape=widest)
        self.name = f"{first.name} and {len(sources) - 1} more"
        self.block = min(source.block for source in sources)
        self._starts = np.cumsum([0, *map(len, sources)])
        self._chains = 0 if of_one_folder(source.name for source in sources) else _CHAINS

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, start: int, stop: int) -> Batch:
        """Return rows [start, stop)."""
        pieces = []
        for number, source in enumerate(self._sources):
            low = int(self._starts[number])
            a, b = max(start - low, 0), min(stop - low, len(source))
            if a < b or (number == 0 and start >= stop):
                batch = _padded(source.read(a, max(a, b)), self.schema)
                if batch.chain is not None:
                    batch = batch.replace(chain=batch.chain.long() + number * self._chains)
                pieces.append(batch)
        return pieces[0] if len(pieces) == 1 else Batch.concatenate(pieces)

    def digest(self) -> str:
        """Return the SHA-256 of the samples of all files."""
        return digest_of(blocks(self))

    def keys(self) -> NDArray[np.int64] | None:
        """Return the group keys of all files; rows of one key may lie in several."""
        keys = [source.keys() for source in self._sources]
        known = [key for key in keys if key is not None]
        return np.concatenate(known) if len(known) == len(keys) else None

    def notes(self) -> list[str]:
        """Return what the readers of the files have to say."""
        return [stated for s in self._sources if isinstance(s, HasNotes) for stated in s.notes()]

    def faults(self) -> dict[str, str]:
        """Return what looks wrong in the files."""
        found: dict[str, str] = {}
        for source in self._sources:
            for what, said in source.faults().items() if isinstance(source, HasFaults) else ():
                found[what] = f"{found[what]}; {said}" if what in found else said
        return found


def _padded(batch: Batch, schema: Schema) -> Batch:
    """Return masked samples with as many places as the schema says; others as they are."""
    if batch.mask is None or batch.mask.shape[1] == schema.shape[0]:
        return batch
    more = schema.shape[0] - batch.mask.shape[1]
    empty = batch.x.new_zeros(len(batch), more, *batch.x.shape[2:])
    absent = batch.mask.new_zeros(len(batch), more)
    # Schemas are read without torch, which takes long to import.
    import torch

    return batch.replace(x=torch.cat([batch.x, empty], 1), mask=torch.cat([batch.mask, absent], 1))


def _same(first: Source, other: Source) -> None:
    def layout(source: Source) -> tuple[object, ...]:
        schema = source.schema
        every = (*schema.variables, *schema.condition)
        shape = schema.shape[1:] if schema.masked else schema.shape
        return (shape, *((v.name, v.unit, v.dtype, *v.classes) for v in every))

    def carried(source: Source) -> set[str]:
        return set(source.read(0, 1).fields())

    for what, of in (("rows of", layout), ("samples with", carried)):
        if of(first) != of(other):
            raise FormatError(
                f"{other.name} holds {what} {of(other)}, and {first.name} {of(first)}; read files "
                "of different layouts separately"
            )
