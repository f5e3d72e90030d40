"""Were training rows learned by heart, and do rows of the sample nearly repeat each other?

**Nearer to training rows.** Put training rows and rows that were never trained on (the truth's)
together. Which of them were trained on is of no consequence for a generator that learned their
distribution only: the row that is next to a generated one is a training row with the probability of
their share, whatever the generator's faults. Generated rows are put in the order of their distance
to the next one; among the first k of them, the different training rows that are next are
hypergeometric. The p-value is the least of those of k = 8, 16, ..., times their number. What there
is beyond the expected, at twice that k, is the share of the sample that copies training rows.

**Near copies.** The distance to the nearest row over that to the tenth, r = d_1 / d_10, does not
depend on the density; r < c has a probability of about 9 c^D in D dimensions. Rows with r below
c = 1/2, 1/4, ... are counted, of generated and of true ones: r of their distances to training rows,
and to the other rows of their own sample (pairs that are mutually nearest count once). Given both
numbers, that of the generated rows is binomial; where these lie in fewer dimensions, with the odds
that follow from those.

Distances are between the system's features of high level, in standard deviations of the training
rows, or of the true ones. Rows count once each, whatever their weights. Rows that belong together
(candidates of one collision, a pair at one condition) are no neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy import float64
from numpy.typing import NDArray
from scipy.special import bdtrc
from scipy.stats import hypergeom
from torch import Tensor

from physgen.validation.classifiers import Scale
from physgen.validation.comparison import Comparison, Role, random_rows
from physgen.validation.copies import learned
from physgen.validation.independence import select
from physgen.validation.scorecard import ALARM, Row

Array = NDArray[float64]
Rows = NDArray[np.int64]

CELLS = 2**23
"""Distances held at once."""

FIRST = 8
"""Generated rows that are looked at first; then twice as many, and so on."""

TENTH = 10
"""Which neighbour says what distances are usual."""

HALVINGS = 12
"""Thresholds of r, down to 2^-12."""


@dataclass(frozen=True, kw_only=True)
class Memorisation:
    """Copies of training rows, where these are known, and near copies within the sample.

    Attributes:
        n: at most so many rows of each sample; the cost grows with n (n + number of training rows).

    >>> from physgen.batch import Batch
    >>> from physgen.systems.scalar import Phi4
    >>> x = torch.randn(2, 500, 4, generator=torch.Generator().manual_seed(0))
    >>> x[0, :50] = x[0, 50:100] + 1e-4
    >>> row, = Memorisation().rows(Comparison(Phi4(shape=(4,)), Batch(x[0]), Batch(x[1])))
    >>> row.name, bool(row.warning)
    ('near copies in the sample', True)
    """

    n: int = 10_000

    def rows(self, comparison: Comparison) -> list[Row]:
        """Return one row or two; none for Markov chains, whose rows repeat by right.

        Raises:
            InputError: there is no truth.
            NotMeasurable: weights leave too few rows.
        """
        comparison.measured_truth  # noqa: B018 (raises if there is none)
        roles: tuple[Role, Role] = ("truth", "generated")
        if any(comparison.measured[role].chain is not None for role in roles):
            return []
        known = comparison.once(learned)
        selected = comparison.once(select)
        samples: list[tuple[Array, Rows]] = []
        for role in roles:
            chosen = selected[role][random_rows(len(selected[role].rows), self.n, comparison.seed)]
            batch = comparison.samples[role][torch.from_numpy(chosen.rows)]
            samples.append((comparison.features(batch, "high").astype(float64), chosen.unit))
        reference = samples[0][0] if known is None else known.features
        scale = Scale.of(reference, np.arange(len(reference)))
        truth, ours = (_Points(torch.from_numpy(scale(x)), unit) for x, unit in samples)
        alone = [one.to(one, TENTH) for one in (ours, truth)]
        rows = [
            _near_copies(
                "near copies in the sample",
                (alone[0].once, alone[1].once),
                [one.dimension for one in alone],
                "nearly repeat each other: the sample holds fewer independent rows than it seems; "
                "see why copies are made",
            )
        ]
        if known is None:
            return rows
        trained = _Points(torch.from_numpy(scale(known.features)), None)
        first, usual = (one.to(trained, TENTH) for one in (ours, truth))
        part = f"{len(trained.x)} of {len(known.keys)} training rows"
        return [
            _nearer(first, usual, ours.to(truth, 1), part, len(trained.x), len(truth.x)),
            _near_copies(
                "near copies of training rows",
                (first.ratios, usual.ratios),
                [one.dimension for one in (first, usual)],
                "are next to training rows, far nearer than these lie: they were learned by heart, "
                "or copied; train for a shorter time or on more rows, and leave copies out",
            ),
            *rows,
        ]


@dataclass(frozen=True)
class _Neighbours:
    """The rows that are nearest to each of (n,) rows.

    Attributes:
        distance: (n, k), rising.
        place: (n,), the number of the nearest one.
        again: (n,), whether a row is at no distance from another, as one before it that is the same
            is: of discrete data these count together, or not at all.
    """

    distance: Array
    place: Rows
    again: NDArray[np.bool_]

    @property
    def ratios(self) -> Array:
        """(n,), of the first to the last distance; 1 of rows that were counted before."""
        ratio = _ratio(self.distance[:, 0], self.distance[:, -1])
        return np.where(self.again, 1.0, ratio)

    @property
    def once(self) -> Array:
        """The same among the rows of one sample; 1 for one of two that are mutually nearest."""
        own, ratio = np.arange(len(self.place)), self.ratios
        ratio[(self.place[self.place] == own) & (self.place < own)] = 1.0
        return ratio

    @property
    def dimension(self) -> float:
        """D, by the median of (d_5 / d_10)^D, which is 1/2; blind to copies that are fewer."""
        middle = self.distance[:, self.distance.shape[1] // 2 - 1]
        median = float(np.median(_ratio(middle, self.distance[:, -1])))
        return math.log(0.5) / math.log(median) if 0 < median < 1 else math.inf


def _ratio(first: Array, last: Array) -> Array:
    known = (last > 0) & np.isfinite(last)
    return np.where(known, first / np.where(known, last, 1.0), 1.0)


@dataclass(frozen=True)
class _Points:
    """Rows of features.

    Attributes:
        x: (n, F), float32.
        unit: (n,), rows that share one are no neighbours; `None` is no two rows.
    """

    x: Tensor
    unit: Rows | None

    def to(self, others: _Points, count: int) -> _Neighbours:
        """Return the `count` nearest of the others, or as many as there are."""
        count = max(1, min(count, len(others.x) - 1))
        found = np.empty((len(self.x), count), dtype=np.int64)
        distance = np.empty((len(self.x), count))
        squares = others.x.square().sum(1)[None, :]
        step = max(1, CELLS // len(others.x))
        for start in range(0, len(self.x), step):
            rows = slice(start, start + step)
            part = self.x[rows]
            # Without the square of the row itself, which is the same for all others.
            far = torch.addmm(squares, part, others.x.T, alpha=-2.0)
            if self.unit is not None and others.unit is not None:
                together = np.isin(others.unit, self.unit[rows])
                columns = torch.from_numpy(np.flatnonzero(together))
                units = torch.from_numpy(others.unit[together])
                same = torch.from_numpy(self.unit[rows])[:, None] == units
                far[:, columns] = far[:, columns].masked_fill(same, math.inf)
            nearest = far.argmin(1)[:, None] if count == 1 else far.topk(count, 1, largest=False)[1]
            found[rows] = nearest.numpy()
            # Not from the product, which rounds away what is small.
            difference = part[:, None].double() - others.x[nearest].double()
            exact = difference.square().sum(2).sqrt()
            exact[far.gather(1, nearest).isinf()] = math.inf
            distance[rows] = exact.numpy()
        order = np.argsort(distance, axis=1)
        place = np.take_along_axis(found, order, 1)[:, 0]
        distance = np.take_along_axis(distance, order, 1)
        again = distance[:, 0] == 0
        _, first = np.unique(self.x.numpy()[again], axis=0, return_index=True)
        again[np.flatnonzero(again)[first]] = False
        return _Neighbours(distance, place, again)


def _nearer(
    trained: _Neighbours, usual: _Neighbours, held: _Neighbours, part: str, m: int, n_held: int
) -> Row:
    """Return the row about generated rows that are nearer to training rows than to others.

    Args:
        trained, held: the nearest of both kinds, to generated rows.
        usual: the nearest training rows of those that were never trained on.
        part: how many training rows are looked at, of how many.
        m, n_held: how many rows of both kinds there are.
    """
    to_trained, to_held = trained.distance[:, 0], held.distance[:, 0]
    is_trained = to_trained < to_held
    order = np.argsort(np.minimum(to_trained, to_held), kind="stable")
    labels = is_trained[order]
    places = np.where(is_trained, trained.place, m + held.place)[order]
    n, odds = len(order), m / n_held
    sizes = [k for i in range(64) if (k := FIRST << i) < n] + [n]
    tails = []
    for k in sizes:
        distinct = np.unique(places[:k])
        hits = int((distinct < m).sum())
        tails.append(float(hypergeom.sf(hits - 1, m + n_held, m, len(distinct))))
    best = int(np.argmin(tails))
    k = sizes[min(best + 1, len(sizes) - 1)]
    near, far = int(labels[:k].sum()), int((~labels[:k]).sum())
    excess, error = (near - far * odds) / n, math.sqrt(near + far * odds**2) / n
    p_value = min(1.0, tails[best] * len(sizes))
    return Row(
        name="nearer to training rows",
        metric="memorisation",
        value=excess,
        error=error,
        exact=0.0,
        exact_error=0.0,
        exact_source="exact",
        p_value=p_value,
        note=f"of the {k} generated rows that are nearest to any, {near} are nearest to a training "
        f"row, {k * m / (m + n_held):.0f} expected; {part}; medians of the distance to these "
        f"{np.median(to_trained):.3g}, and {np.median(usual.distance[:, 0]):.3g} of true rows",
        warning=f"{excess:.2%} of the rows (error {error:.2%}) are nearer to training rows than a "
        "generator that knows only their distribution can be: they were learned by heart, or copied"
        if p_value < ALARM
        else "",
    )


def _near_copies(
    name: str, ratios: tuple[Array, Array], dimensions: Sequence[float], remedy: str
) -> Row:
    """Return the row about ratios r that are too small too often.

    Args:
        name: of the row.
        ratios: of the generated rows, and of true ones.
        dimensions: in which both lie. Where the generated ones lie in fewer, small r are not rare.
        remedy: what is wrong if there are too many, and what to do.
    """
    n, m = map(len, ratios)
    tails, counted = [], []
    for i in range(1, HALVINGS + 1):
        found, usual = (int((one < 2.0**-i).sum()) for one in ratios)
        ours_usually, usually = (_below(2.0**-i, d) for d in _at_least_half(dimensions))
        odds = n / m * (max(1.0, ours_usually / usually) if usually > 0 else 1.0)
        tails.append(float(bdtrc(found - 1, found + usual, odds / (1 + odds))) if found else 1.0)
        counted.append((found, usual))
    best = int(np.argmin(tails))
    found, usual = counted[best]
    p_value = min(1.0, tails[best] * HALVINGS)
    return Row(
        name=name,
        metric="memorisation",
        value=found / n,
        error=math.sqrt(max(found, 1)) / n,
        floor=usual / m,
        floor_error=math.sqrt(max(usual, 1)) / m,
        p_value=p_value,
        note=f"nearer than {2.0 ** -(best + 1):.2g} times the tenth neighbour; in "
        f"{dimensions[0]:.2g} dimensions, true ones in {dimensions[1]:.2g}",
        warning=f"{found} of {n} rows ({found / n:.2%}; {usual} of {m} true ones) {remedy}"
        if p_value < ALARM
        else "",
    )


def _below(c: float, dimension: float) -> float:
    """Return the probability of r < c for a density that is constant as far as ten neighbours."""
    return -math.expm1((TENTH - 1) * math.log1p(-(c**dimension)))


def _at_least_half(dimensions: Sequence[float]) -> tuple[float, float]:
    """Return both dimensions, that of the sample at least half of the other.

    Where rows are copied five times, the fifth neighbour is a copy as well. (Where they are copied
    ten times, so is the tenth, and nothing is seen.)
    """
    ours, truth = dimensions
    return (truth, truth) if math.isinf(truth) else (max(ours, truth / 2), truth)
