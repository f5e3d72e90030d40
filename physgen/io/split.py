"""Deterministic split into training, validation and test rows.

A row goes where the hash of its key sends it: u = mix(key, seed) / 2^64 is compared with the
cumulated fractions. So a row's part depends neither on how many rows there are nor on their order,
and rows that share a key (several candidates of one collision) stay together. The mixing function
is the finaliser of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physgen.errors import InputError
from physgen.io.source import HasNotes, Source, blocks

Bits = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)

PIECES = 100
"""Stretches of Markov chains that are assigned as wholes."""

_AT_ONCE = 2**18
"""Rows that are assigned at once: memory is that of the row numbers, however many there are."""


@dataclass(frozen=True)
class Split:
    """Row numbers of each part, ascending.

    >>> parts = split(1000, fractions=(0.8, 0.1, 0.1))
    >>> len(parts.train) + len(parts.validation) + len(parts.test)
    1000
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


@dataclass(frozen=True)
class Repeats:
    """What rows have in common.

    Attributes:
        rows: of the source.
        groups: distinct group keys; `None` if the source has no keys.
        largest_group: rows of the commonest key.
        rows_compared: how many rows were compared with each other.
        repeated_rows: how many of those equal an earlier one in every value, though two samples
            would not by chance: a real number in them is not the one that many rows have there.
    """

    rows: int
    groups: int | None
    largest_group: int
    rows_compared: int
    repeated_rows: int

    @property
    def complete(self) -> bool:
        """Whether all rows were compared."""
        return self.rows_compared == self.rows


def split(
    n: int,
    *,
    keys: NDArray[np.int64] | None = None,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    name: str = "the source",
) -> Split:
    """Assign rows 0..n-1 to training, validation and test.

    Args:
        n: number of rows.
        keys: (n,), rows with the same key stay together; `None` takes each row alone.
        fractions: of training, validation and test; they sum to 1.
        seed: another seed is another split.
        name: of the rows' file, for messages.

    Raises:
        InputError: the fractions are not probabilities, there are no rows, or a part that should
            have rows has none.

    >>> parts = split(1000, seed=1)
    >>> len(parts.train), len(parts.validation), len(parts.test)
    (806, 97, 97)
    >>> more = split(2000, seed=1)  # the first rows stay where they were
    >>> bool((more.train[: len(parts.train)] == parts.train).all())
    True
    """
    if n == 0:
        raise InputError(
            f"{name} holds no rows: the file, or the tree named in it, is empty; name others"
        )
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
        raise InputError(f"split fractions {fractions} must be non-negative and sum to 1")
    if keys is not None and keys.shape != (n,):
        raise InputError(f"{keys.shape[0]} group keys for {n} rows: there must be one a row")
    start = _mix(np.array([seed], dtype=np.int64).view(np.uint64) + _GOLDEN)
    edges = np.cumsum(fractions)[:2]
    part = np.empty(n, dtype=np.uint8)
    for first in range(0, n, _AT_ONCE):
        chosen = slice(first, min(first + _AT_ONCE, n))
        identity = np.arange(chosen.start, chosen.stop) if keys is None else keys[chosen]
        uniform = _mix(identity.astype(np.int64).view(np.uint64) ^ start) / 2.0**64
        part[chosen] = np.searchsorted(edges, uniform, side="right")
    names = ("training", "validation", "test")
    parts = [np.flatnonzero(part == index) for index in range(3)]
    for role, fraction, members in zip(names, fractions, parts, strict=True):
        if fraction > 0 and len(members) == 0:
            groups = n if keys is None else len(np.unique(keys))
            raise InputError(
                f"the {role} part ({fraction:g} of {n} rows in {groups} groups) came out empty: "
                "give more data, larger fractions or another seed"
            )
    return Split(*parts)


def pieces_of_chains(chain: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (n,) keys of stretches of Markov time, given the chain of each row.

    Neighbours in a chain are alike: rows that are drawn one by one would be tested by what was
    learned from the rows beside them. There are `PIECES` stretches or more, at most whole chains.
    """
    names, number, lengths = np.unique(chain, return_inverse=True, return_counts=True)
    time = np.empty(len(chain), dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    time[np.argsort(number, kind="stable")] = np.arange(len(chain)) - np.repeat(starts, lengths)
    pieces = -(-PIECES // len(names))
    return np.asarray(number * pieces + time * pieces // lengths[number], dtype=np.int64)


def repeats(source: Source, limit: int = 1_000_000) -> Repeats:
    """Count repeated keys, and repeated rows among at most about `limit` rows.

    Of a larger source, evenly spaced blocks are compared. Rows that may well be alike are no
    repetitions: events without the objects that are looked at, showers without a hit, spins, and
    configurations of a Markov chain whose proposals were rejected.
    """
    keys = source.keys()
    groups, largest = None, 1
    if keys is not None:
        counts = np.unique(keys, return_counts=True)[1]
        groups, largest = len(counts), int(counts.max(initial=1))
    hashed = _row_hashes(source, limit)
    hashes = np.concatenate([np.zeros(0, np.uint64), *(rows for rows, _ in hashed)])
    telling = np.concatenate([np.zeros(0, bool), *(telling for _, telling in hashed)])
    return Repeats(
        rows=len(source),
        groups=groups,
        largest_group=largest,
        rows_compared=len(hashes),
        repeated_rows=int(telling.sum()) - len(np.unique(hashes[telling])),
    )


def hash_columns(columns: Sequence[NDArray[Any]]) -> NDArray[np.int64]:
    """Hash each row of several columns (n,) to an int64; the order of columns matters."""
    state = np.zeros(len(columns[0]), dtype=np.uint64)
    for column in columns:
        state = _mix((state + _GOLDEN) ^ _mix(_bits(column)))
    return state.view(np.int64)


_REAL = ("real", "non-negative", "angle")
_ROWS_SEARCHED = 512
"""Rows in which the commonest value of each column is looked for."""
_COMMON = 0.01
"""Share of the rows above which a value of a real column is no chance."""


def _commonest(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return (columns,), the value that many of the rows have in a column, NaN if none does."""
    ordered = np.sort(values, axis=0)
    begins = np.ones(ordered.shape, bool)
    begins[1:] = ordered[1:] != ordered[:-1]
    # How many equal values have come so far, in each column.
    place = np.arange(len(ordered))[:, None]
    run = place - np.maximum.accumulate(np.where(begins, place, 0), axis=0)
    last = run.argmax(0)
    columns = np.arange(ordered.shape[1])
    often = run[last, columns] + 1 > max(1.0, _COMMON * len(ordered))
    return np.where(often, ordered[last, columns], np.nan)


def _row_hashes(source: Source, limit: int) -> list[tuple[Bits, NDArray[np.bool_]]]:
    """Return hashes of the rows of some blocks, and whether a row differs from others by chance."""
    stride = max(1, -(-len(source) // limit))
    chosen = (
        blocks(source)
        if stride == 1
        else (
            source.read(start, min(start + source.block, len(source)))
            for start in range(0, len(source), source.block * stride)
        )
    )
    real = np.array([variable.domain in _REAL for variable in source.schema.variables])
    common: NDArray[np.float64] | None = None
    hashes = []
    for batch in chosen:
        flat = batch.x.numpy().reshape(len(batch), -1)
        if common is None:
            common = _commonest(flat[:_ROWS_SEARCHED].astype(np.float64))
        varies = np.resize(real, flat.shape[1])
        telling = ((flat != common) & varies).any(1) & (batch.chain is None)
        state = np.zeros(len(batch), dtype=np.uint64)
        for _, value in sorted(batch.fields().items()):
            array = value.numpy().reshape(len(batch), -1)
            place = _mix(np.arange(1, array.shape[1] + 1, dtype=np.uint64) * _GOLDEN)
            state = _mix(state + _GOLDEN + _mix(_bits(array) + place).sum(1, dtype=np.uint64))
        hashes.append((state, telling))
    return hashes


def _bits(values: NDArray[Any]) -> Bits:
    """Return 64 bits that are equal for equal numbers (both zeros are one)."""
    if values.dtype.kind == "f":
        return (values.astype(np.float64) + 0.0).view(np.uint64)
    if values.dtype.kind == "u":
        return values.astype(np.uint64)
    return values.astype(np.int64).view(np.uint64)


def _mix(bits: Bits) -> Bits:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def notes_of(source: Source) -> list[str]:
    """Return what the user should know of the data: repeated keys and rows, what was left out."""
    notes = source.notes() if isinstance(source, HasNotes) else []
    result = repeats(source)
    if result.groups is not None and result.groups < result.rows:
        notes.append(
            f"{source.name}: {result.rows} rows share {result.groups} group keys (up to "
            f"{result.largest_group} rows each); rows of one key stay in one part of the split"
        )
    if result.repeated_rows:
        compared = "" if result.complete else f" of {result.rows_compared} compared"
        notes.append(
            f"{source.name}: {result.repeated_rows} rows{compared} repeat an earlier one exactly; "
            "unless they are meant to, remove them: they make every test too good"
        )
    return notes
