"""Samples of truth, more truth and generated, out of files.

Two samples of truth are drawn from one file: at random where rows are independent; whole chains of
several Markov chains, or the two ends of one. A file whose rows follow one another is a chain, also
if nobody wrote that down. A file made at the conditions of the truth, row by row, is paired with
it; then the second sample of truth has the conditions of the first, as nearly as there are any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from physgen.batch import Batch
from physgen.errors import InputError
from physgen.io.source import HasClasses, ReadsConditions, Source, blocks
from physgen.io.split import split
from physgen.io.stream import Stream
from physgen.systems.base import System
from physgen.validation.comparison import Measured, Role, evenly_spaced, measure, measure_parts
from physgen.validation.matching import nearest_rows
from physgen.validation.uncertainty import autocorrelation

Rows = NDArray[np.int64]

SEED = 1_000_003
"""Of what is drawn; far from the seeds that users give to training data."""

NEAR = 0.01
"""Standard deviations of a condition that two samples at the same conditions may differ by: half of
the rows at least, as far as it goes for what depends on them."""

LEAST = 0.1
"""A sum of the autocorrelations below it changes errors by less than a tenth."""

SIGMAS = 5.0
"""Standard deviations of that sum over t lags, (t / n)^1/2, by which it must differ from 0."""

ROWS_CHECKED = 20_000
"""Rows of a file that are looked at, from its middle."""


@dataclass(frozen=True)
class Samples:
    """What a comparison is made of; see `physgen.validation.comparison.Comparison`.

    Attributes:
        rows: of the file that the truth was drawn from.
        measured: observables of both samples of truth, where they are known.
    """

    truth: Batch
    floor: Batch
    rows: Rows
    groups: Mapping[Role, Rows] = field(default_factory=dict)
    paired: frozenset[Role] = frozenset()
    measured: Mapping[Role, Measured] = field(default_factory=dict)


def two_samples(
    source: Source,
    truth: Rows,
    floor: Rows,
    limit: int,
    *,
    matched: bool = False,
    chain: Rows | None = None,
) -> Samples:
    """Draw as many of the rows `truth` as of the rows `floor`, at most `limit`.

    Args:
        source: of both.
        truth, floor: rows to draw from, none in both.
        limit: rows of each at most.
        matched: choose the second sample by the conditions of the first, where rows have conditions
            and neither weights nor groups. Rows of Markov chains are no pairs all the same.
        chain: (N,) labels of Markov chains of all rows, where the file has none itself.

    Raises:
        InputError: there are too few rows.

    >>> from physgen.batch import Schema, Variable
    >>> from physgen.io.source import ArraySource
    >>> batch = Batch(torch.arange(10.0)[:, None])
    >>> source = ArraySource(batch, Schema((1,), (Variable("m"),)))
    >>> samples = two_samples(source, np.arange(6), np.arange(6, 10), limit=3)
    >>> len(samples.truth), len(samples.floor), bool(samples.rows.max() < 6)
    (3, 3, True)
    """
    n = min(len(truth), len(floor), limit)
    if n < 2:
        raise InputError(f"{source.name}: {len(source)} rows are too few for two samples of truth")
    # Drawn here, not by the stream, so that the keys are those of the rows that were drawn.
    generator = np.random.default_rng(SEED)
    first, second = (np.sort(generator.choice(rows, n, replace=False)) for rows in (truth, floor))
    keys = source.keys()
    if keys is not None and len(np.unique(keys)) == len(keys):
        keys = None  # Rows that stand alone.
    sample = _read(source, first)
    chained = chain is not None or sample.chain is not None
    if matched and keys is None and sample.weight is None and sample.condition is not None:
        pool = conditions_of(source)[floor]
        second = floor[nearest_rows(pool, sample.condition.double().numpy(), seed=SEED)]
        if not chained:
            order = np.argsort(second)
            other = _read(source, second[order])[torch.from_numpy(np.argsort(order))]
            near = _are_near(sample, other)
            return Samples(sample, other, first, paired=frozenset({"floor"} if near else ()))
        second = np.sort(second)  # The order of a chain is its time.
    groups: dict[Role, Rows] = {}
    if keys is not None:
        groups = {"truth": keys[first], "floor": keys[second]}
    other = _read(source, second)
    if chain is not None:
        sample, other = _labelled(sample, chain[first]), _labelled(other, chain[second])
    return Samples(sample, other, first, groups)


class TrueFile:
    """A file of true samples that others are set beside, one after the other.

    What is drawn from it, and its observables, are held: samples of one size are set beside the
    same true ones, which are measured once.

    Args:
        system: whose observables are measured, and tell whether rows follow one another.
        source: the file.
    """

    def __init__(self, system: System, source: Source) -> None:
        self.system, self.source = system, source
        self._drawn: dict[tuple[int, bool], Samples] = {}
        self._whole: dict[int, Measured] = {}

    @cached_property
    def chain(self) -> Rows | None:
        """(N,), the Markov chain of each row; `None` if rows are independent."""
        return chain_labels(self.system, self.source)

    def compared(self, generated: Source, limit: int) -> tuple[Batch, Samples]:
        """Return the sample of a file, and the two samples of truth with their observables.

        Of the truth each sample gets a half; rows of one group share one. Paired samples without
        weights count as often as the true ones at the same conditions. Rows of a Markov chain are
        no pairs: they owe more to their neighbours than to the condition.

        Args:
            generated: of which as many rows are taken as of the truth.
            limit: rows of each sample at most.

        Raises:
            InputError: there are too few rows.
        """
        limit = min(len(generated), limit)
        others = chain_labels(self.system, generated)
        paired = self.chain is None and others is None and _same_conditions(self.source, generated)
        samples = self._samples(limit, matched=paired)
        n = len(samples.truth)
        if paired:
            pairs = replace(samples, paired=samples.paired | {"generated"})
            batch = _read(generated, samples.rows)
            if batch.weight is None:
                batch = batch.replace(weight=samples.truth.weight)
            return batch, pairs
        if others is not None:
            rows = evenly_spaced(len(generated), n)
            return _labelled(_read(generated, rows), others[rows]), samples
        keys = generated.keys()
        if keys is None:
            return Stream(generated, batch_size=1).sample(n), samples
        rows = np.sort(np.random.default_rng(SEED).choice(len(generated), n, replace=False))
        groups: dict[Role, Rows] = {**samples.groups, "generated": keys[rows]}
        return _read(generated, rows), replace(samples, groups=groups)

    def _samples(self, limit: int, *, matched: bool) -> Samples:
        if (limit, matched) not in self._drawn:
            samples = self._draw(limit, matched=matched)
            sides: dict[Role, Batch] = {"truth": samples.truth, "floor": samples.floor}
            measured: dict[Role, Measured] = {
                role: measure(self.system, batch, group=samples.groups.get(role))
                for role, batch in sides.items()
            }
            # One at a time, for the memory.
            self._drawn = {(limit, matched): replace(samples, measured=measured)}
        return self._drawn[limit, matched]

    def _draw(self, limit: int, *, matched: bool) -> Samples:
        truth = self.source
        if self.chain is not None:
            return _halves_of_chains(truth, self.chain, limit)
        halves = (0.5, 0.5, 0.0)
        parts = split(len(truth), keys=truth.keys(), fractions=halves, seed=SEED, name=truth.name)
        return two_samples(truth, parts.train, parts.validation, limit, matched=matched)

    def whole(self, generated: Source, limit: int, *, paired: bool) -> dict[Role, Measured]:
        """Return the observables of both files, without chains, of at most `limit` rows each.

        Those are drawn at random, the same ones of both files if these are `paired`, which then
        count as often as the true ones, unless they have weights of their own. Of rows with weights
        or groups there are as many of both: unequal samples are skew, which random signs are not.
        """
        if not (_alone(self.source) and _alone(generated)):
            limit = min(limit, len(self.source), len(generated))
        if limit not in self._whole:
            self._whole = {limit: self._measured(self.source, limit)}
        truth, ours = self._whole[limit], self._measured(generated, limit)
        if paired and ours.weight is None:
            ours = replace(ours, weight=truth.weight)
        return {"truth": truth, "generated": ours}

    def _measured(self, source: Source, limit: int) -> Measured:
        rows = np.arange(len(source))
        if limit < len(rows):
            rows = np.sort(np.random.default_rng(SEED).choice(rows, limit, replace=False))
        parts = Stream(source, rows, batch_size=source.block).in_order()
        keys = source.keys()
        group = None if keys is None else keys[rows]
        return replace(measure_parts(self.system, parts, len(rows)), group=group)


def _alone(source: Source) -> bool:
    """Return whether rows have neither weights nor groups."""
    return source.read(0, 1).weight is None and source.keys() is None


def chain_labels(system: System, source: Source) -> Rows | None:
    """Return (N,), the Markov chain of each row of a file; `None` if rows are independent.

    Rows without labels are one chain if an observable is autocorrelated in the order of the file,
    be it slowly; or several that take turns, if rows are more like a later row than like the next.
    Rows with conditions are not looked at: files are often sorted by them; nor are images of known
    classes, which lie in the order of whoever collected them.
    """
    if source.read(0, 1).chain is not None:
        return np.concatenate([b.chain.numpy() for b in blocks(source) if b.chain is not None])
    if source.schema.condition or len(source) < 3:
        return None
    if isinstance(source, HasClasses) and source.has_labels():
        return None
    start = max(0, (len(source) - ROWS_CHECKED) // 2)
    part = source.read(start, min(start + ROWS_CHECKED, len(source)))
    # Rows of one group are correlated, and known to be: one of each shows whether groups are.
    keys = source.keys()
    alone = slice(None) if keys is None else _first_of_each(keys[start : start + len(part)])
    for measured in measure(system, part).scalars.values():
        values = measured[alone]
        finite = values[np.isfinite(values)]
        stride = _stride(finite) if len(finite) > 2 else 0
        if stride:
            return np.arange(len(source)) % stride
    return None


def _first_of_each(keys: Rows) -> Rows:
    """Return the first row of each group, in their order."""
    return np.sort(np.unique(keys, return_index=True)[1])


def _stride(values: NDArray[np.float64]) -> int:
    """Return how many chains take turns in (n,) values, 0 if these are independent.

    Of the ranks, which far outliers do not rule.
    """
    n = len(values)
    from scipy.stats import rankdata  # It takes a second to import.

    rho = autocorrelation(rankdata(values))[1 : max(2, n // 20)]
    chance = SIGMAS * np.sqrt(np.arange(1, len(rho) + 1) / n)
    if not (np.cumsum(rho) > np.maximum(LEAST, chance)).any():
        return 0
    nearest = int(rho.argmax())
    return 1 + nearest if rho[nearest] - rho[0] > chance[0] else 1


def _halves_of_chains(source: Source, labels: Rows, limit: int) -> Samples:
    """Return half of the chains of every condition as truth, and half as floor.

    Of a single chain that is its two ends.
    """
    names, starts, number = np.unique(labels, return_index=True, return_inverse=True)
    made_at = np.zeros(len(names), np.int64)
    if source.schema.condition:
        made_at = np.unique(conditions_of(source)[starts], axis=0, return_inverse=True)[1].ravel()
    first = np.zeros(len(labels), bool)
    for condition in np.unique(made_at):
        chains = np.flatnonzero(made_at == condition)
        here = np.flatnonzero(np.isin(number, chains))
        half = np.isin(number[here], chains[: len(chains) // 2])
        first[here] = half if len(chains) > 1 else np.arange(len(here)) < len(here) // 2
    parts = [np.flatnonzero(first), np.flatnonzero(~first)]
    n = min(limit, *map(len, parts))
    if n < 2:
        raise InputError(f"{source.name}: {len(source)} rows are too few for two samples of truth")
    rows = [part[evenly_spaced(len(part), n)] for part in parts]
    truth, floor = (_labelled(_read(source, chosen), labels[chosen]) for chosen in rows)
    return Samples(truth, floor, rows[0])


def _are_near(sample: Batch, other: Batch) -> bool:
    """Return whether conditions are the same, row by row, but for `NEAR` standard deviations."""
    if sample.condition is None or other.condition is None:
        return False
    wanted, result = sample.condition.double(), other.condition.double()
    width = wanted.std(0)
    distance = ((wanted - result).abs() / torch.where(width > 0, width, 1.0)).amax(1)
    return bool(distance.median() <= NEAR)


def _labelled(batch: Batch, labels: Rows) -> Batch:
    return batch.replace(chain=torch.from_numpy(labels))


def _read(source: Source, rows: Rows) -> Batch:
    """Return ascending rows."""
    return Stream(source, rows, batch_size=1).sample(len(rows))


def _same_conditions(truth: Source, generated: Source) -> bool:
    """Return whether the rows of both files have the same conditions, one by one."""
    if len(truth) != len(generated) or not (truth.schema.condition and generated.schema.condition):
        return False
    a, b = conditions_of(truth), conditions_of(generated)
    return a.shape == b.shape and np.allclose(a, b, rtol=1e-6, atol=0.0)


def conditions_of(source: Source) -> NDArray[np.float64]:
    """Return (N, C), those of all rows of a source that has conditions."""
    if isinstance(source, ReadsConditions):
        return source.conditions(0, len(source)).astype(np.float64)
    conditions = [b.condition.double().numpy() for b in blocks(source) if b.condition is not None]
    return np.concatenate([*conditions, np.empty((0, conditions[0].shape[1]))])
