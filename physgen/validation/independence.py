"""Which rows of samples may be counted, and which of them hang together.

Scores of whole samples (classifiers, nearest neighbours, kernels, distances of moments) take rows
for independent. Not independent are

- the rows of one Markov chain: a chain is thinned to 2 tau_int of its slowest observable and cut
  into units of `LENGTH` such rows, of which the first is left out, so that units are 4 tau_int
  apart, and what little dependence is left stays within a unit;
- the rows of one group (candidates of one collision), which are a unit;
- the two rows of a pair, drawn at one and the same condition, which are a unit as well.

Units train or test a classifier as wholes, are resampled as wholes, and the rows of one unit are
not compared with each other: a configuration that a chain repeats would otherwise find itself
again, in the test of a classifier that learned it by heart or as its own nearest neighbour (the
window of Theiler, Phys. Rev. A 34 (1986) 2427).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from physgen.errors import InputError, NotMeasurable
from physgen.validation.comparison import Comparison, Measured, Role
from physgen.validation.estimates import effective_samples, estimate, usable

Rows = NDArray[np.int64]

LENGTH = 5
"""Rows of a thinned chain to a unit: 10 tau_int."""

FEWEST = 20
"""Units of each sample without which no score is worth its name."""


@dataclass(frozen=True)
class Selection:
    """The rows of one sample that are counted.

    Attributes:
        rows: (n,), their numbers.
        unit: (n,), equal for rows that are not independent; no two samples have one in common,
            unless they are paired.
        alone: whether every row is its own unit, so that all are exchangeable with others.
        correlated: of rows that follow one another, how they are correlated; else "".
    """

    rows: Rows
    unit: Rows
    alone: bool
    correlated: str = ""

    def __getitem__(self, chosen: Rows) -> Selection:
        return replace(self, rows=self.rows[chosen], unit=self.unit[chosen])


def select(
    comparison: Comparison, samples: Mapping[Role, Measured] | None = None
) -> dict[Role, Selection]:
    """Return the rows of all samples that are counted.

    Args:
        comparison: says which samples are paired.
        samples: others than those that are compared, without chains.

    Raises:
        NotMeasurable: a sample of Markov chains has less than `FEWEST` units, or the weights of
            truth or generated sample leave too few effective ones.
    """
    selections: dict[Role, Selection] = {}
    begin = 0
    samples = comparison.measured if samples is None else samples
    paired = comparison.paired & samples.keys()
    for role, measured in samples.items():
        if role in paired:
            continue
        if role in ("truth", "generated") and not usable(measured):
            raise NotMeasurable(
                f"no score without usable weights: {measured.n} rows of the {role} sample are "
                f"worth {effective_samples(measured):.3g}"
            )
        rows, correlated = np.arange(measured.n), ""
        if measured.chain is not None:
            rows, keys, correlated = _of_chains(comparison, role, measured.chain)
        else:
            keys = rows if measured.group is None else measured.group
        _, first, unit = np.unique(keys, return_index=True, return_inverse=True)
        alone = len(first) == len(rows)
        selections[role] = Selection(rows, begin + unit.astype(np.int64), alone, correlated)
        begin += len(first)
    if paired:
        selections |= dict.fromkeys(paired, selections["truth"])
    return selections


REMEDY = (
    "run longer chains, or more of them; shuffle a file that is only sorted; name what rows of one "
    "event have in common (data.group)"
)
"""Against rows that follow one another and are correlated."""


def _of_chains(comparison: Comparison, role: Role, chain: Rows) -> tuple[Rows, Rows, str]:
    """Return the rows that are kept of Markov chains, the keys of their units, and tau_int."""
    measured = comparison.measured[role]
    times = {name: estimate(comparison, measured, name).tau_int for name in measured.scalars}
    slowest = max(times, key=lambda name: times[name], default="")
    tau = times.get(slowest, 0.5)
    step = max(1, round(2 * tau))
    order = np.argsort(chain, kind="stable")
    begins = np.unique(chain[order], return_index=True)[1]
    lengths = np.diff(np.append(begins, len(order)))
    place = np.arange(len(order)) - np.repeat(begins, lengths)
    row, within = place // step, place % step
    # Chains too short to be cut are units as they are.
    cut = np.repeat(-(-lengths // step) >= 2 * LENGTH, lengths)
    chosen = (within == 0) & ~(cut & (row > 0) & (row % LENGTH == 0))
    number = np.repeat(np.arange(len(begins)), lengths)
    key = number * (len(order) + 1) + np.where(cut, row // LENGTH, 0)
    rows, keys = order[chosen], key[chosen]
    keys = _joined(comparison, role, rows, keys, chain[rows])
    units = len(np.unique(keys))
    if units < FEWEST:
        raise NotMeasurable(
            f"no score without independent samples: the Markov chains of the {role} sample "
            f"({len(order)} rows in {len(begins)}, tau_int {tau:.2g} of {slowest!r}) hold {units} "
            f"stretches of {2 * LENGTH} tau_int, and {FEWEST} are the fewest; {REMEDY}"
        )
    worth = len(order) / max(1.0, 2 * tau)
    return (
        rows,
        keys,
        (
            f"{len(order)} rows of the {role} sample (tau_int {tau:.2g} of {slowest!r}: worth "
            f"{worth:.3g} independent ones)"
        ),
    )


def _joined(comparison: Comparison, role: Role, rows: Rows, keys: Rows, chain: Rows) -> Rows:
    """Return keys of which neighbours are one where the chain stood still in between.

    A configuration that is improbable to be left outlasts tau_int, which is a mean over all.
    """
    batch = comparison.batch(role)
    edges = np.flatnonzero(keys[1:] != keys[:-1]) + 1
    if batch is None or not len(edges):
        return keys
    before, after = (batch.x[rows[edges + shift]].flatten(1) for shift in (-1, 0))
    still = (before == after).all(1).cpu().numpy() & (chain[edges - 1] == chain[edges])
    begins = np.zeros(len(keys), dtype=np.int64)
    begins[edges] = ~still
    return begins.cumsum()


def partition(keys: Rows, n_parts: int, generator: np.random.Generator) -> Rows:
    """Deal (N,) rows into parts of nearly equal size; rows with the same key share one.

    Args:
        keys: numbers of the units, from 0 without gaps.
        n_parts: how many.
        generator: of the order in which groups are dealt.

    Returns:
        (N,) part of each row.

    Raises:
        InputError: a part has no rows, because there are too few groups.

    >>> part = partition(np.array([0, 0, 1, 1, 2, 2]), 3, np.random.default_rng(0))
    >>> bool(part[0] == part[1]), sorted(part.tolist())
    (True, [0, 0, 1, 1, 2, 2])
    """
    sizes: Rows = np.bincount(keys)
    order = generator.permutation(len(sizes))
    ends = np.empty(len(sizes), dtype=np.int64)
    ends[order] = np.cumsum(sizes[order])
    # Where the middle of a group lies when all stand in a row.
    part: Rows = ((2 * ends - sizes) * n_parts // (2 * len(keys)))[keys]
    if len(np.unique(part)) < n_parts:
        raise InputError(
            f"{len(sizes)} groups of rows are too few to train and test a classifier (the largest "
            f"has {sizes.max()} of {len(keys)} rows): give more data, or leave out the classifier"
        )
    return part
