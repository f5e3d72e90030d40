"""How samples respond to their condition: mean and width of every observable in bins of it.

A scale that is .3% off is lost in a histogram over three decades of energy, and seen in residuals.
From the pooled rows, without looking at labels, for each condition t and observable y

    r = (y - mu(t)) / sigma(t),     mu of degree 5, log sigma of degree 3, in t or log t

(by value of t where there are few), clipped at 6. The statistic is the largest studentised
difference of the means of r and of r^2 between the samples, over all observables, in `N_BINS` bins
of equal content of t and in all of them together; its p-value, which counts that it is the largest
of all, is that of `physgen.validation.permutation`. Of files up to twice
`sampling.n` rows count: there is no floor that would have to be of the same size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from physgen.errors import InputError
from physgen.validation.comparison import Comparison, Role, varies
from physgen.validation.independence import select
from physgen.validation.permutation import Relabelling
from physgen.validation.scorecard import Row

Array = NDArray[float64]

N_BINS = 5
"""Bins of a condition with many values."""

FEW_VALUES = 12
"""A condition with at most so many values has a bin for each."""

_ROUNDING = 1e-12
"""Differences of features, whose variance is 1, are rounding below."""
_CLIP = 6.0


@dataclass(frozen=True, kw_only=True)
class Response:
    """Largest deviation of any observable's mean or width in bins of the conditions.

    >>> import torch
    >>> from physgen.batch import Batch
    >>> from physgen.systems.scalar import Phi4
    >>> x = torch.randn(3, 500, 4, generator=torch.Generator().manual_seed(0))
    >>> samples = Comparison(Phi4(shape=(4,)), *map(Batch, x))
    >>> Response().rows(samples)  # there are no conditions to respond to
    []
    """

    def rows(self, comparison: Comparison) -> list[Row]:
        """Return one row; none where samples have no conditions, or are Markov chains.

        Raises:
            InputError: there is no truth.
        """
        if comparison.truth is None:
            raise InputError("the response needs a sample of the truth: leave the metric out")
        pair = (comparison.truth, comparison.generated)
        if any(batch.condition is None or batch.chain is not None for batch in pair):
            return []
        samples = comparison.measured if comparison.whole is None else comparison.whole()
        both: tuple[Role, Role] = ("truth", "generated")
        measured = [samples[role] for role in both]
        selected = select(comparison, {role: samples[role] for role in both})
        truth, ours = (selected[role] for role in both)
        paired = "generated" in comparison.paired
        relabelling = Relabelling(
            len(truth.rows),
            len(ours.rows),
            weights=(
                None if measured[0].weight is None else measured[0].weight[truth.rows],
                None if measured[1].weight is None else measured[1].weight[ours.rows],
            ),
            groups=(truth.unit, ours.unit)
            if paired or not (truth.alone and ours.alone)
            else (None, None),
            seed=comparison.seed,
        )
        given = [one.condition for one in measured if one.condition is not None]
        conditions = np.concatenate([given[0][truth.rows], given[1][ours.rows]])
        names = comparison.system.schema.condition
        sums, labels = [], []
        for name, column in measured[0].scalars.items():
            values = np.concatenate([column[truth.rows], measured[1].values[name][ours.rows]])
            for number, t in enumerate(conditions.T):
                about = names[number].name if number < len(names) else f"condition {number + 1}"
                for feature, what in _features(values, t):
                    sums.append(relabelling.sums(feature[:, None]))
                    labels.append(f"{what[0]} of {name}" + what[1].format(about))
        if not sums or not relabelling.usable:
            return []
        n, m = len(truth.rows), len(ours.rows)
        together = np.concatenate(sums, axis=1)
        spread = np.full(len(labels), math.sqrt(1 / n + 1 / m))
        if paired or not relabelling.exact:
            spread = relabelling.deviations(together)
        known = spread > _ROUNDING
        together *= np.where(known, 1 / np.where(known, spread, 1.0), 0.0)
        first, second = relabelling.means(together)
        off = second - first
        worst = int(np.argmax(np.abs(off)))
        p_value = relabelling.p_values(together, lambda d: np.abs(d).max(1, keepdims=True))
        return [
            Row(
                name="response in bins of the condition",
                metric="response",
                value=float(np.abs(off[worst])),
                p_value=float(p_value[0]),
                note=f"{labels[worst]}: {off[worst]:+.1f} standard deviations, the largest of "
                f"{len(labels)} deviations; {m} rows against {n}"
                + ("" if relabelling.exact else "; p is asymptotic"),
            )
        ]


def _features(values: Array, t: Array) -> Iterator[tuple[Array, tuple[str, str]]]:
    """Yield (N,) features of variance 1 from pooled values and condition, and what they are."""
    if not varies(values) or not np.isfinite(t).all():
        return
    kinds = np.unique(t)
    if len(kinds) <= FEW_VALUES:
        bins = np.searchsorted(kinds, t)
        ranges = [f" at {{}} = {kind:.4g}" for kind in kinds]
    else:
        edges = np.quantile(t, np.linspace(0, 1, N_BINS + 1))
        bins = np.searchsorted(edges[1:-1], t, side="right")
        ranges = [f" at {{}} {a:.4g} to {b:.4g}" for a, b in pairwise(edges)]
    residuals = _residuals(values, t, bins if len(kinds) <= FEW_VALUES else None)
    squares = residuals**2
    squares[residuals != 0] -= squares[residuals != 0].mean()
    for feature, what in ((residuals, "mean"), (squares, "width")):
        yield from _scaled(feature, (what, ""))
        if len(ranges) > 1:
            for number, text in enumerate(ranges):
                yield from _scaled(np.where(bins == number, feature, 0.0), (what, text))


def _scaled(feature: Array, what: tuple[str, str]) -> Iterator[tuple[Array, tuple[str, str]]]:
    deviation = feature.std()
    if deviation > 0:
        yield feature / deviation, what


def _residuals(values: Array, t: Array, kinds: NDArray[np.int64] | None) -> Array:
    """Return (N,) clipped residuals of the regression on t, 0 where a value is not finite."""
    keep = np.isfinite(values)
    y = values[keep]
    if kinds is not None:
        design = wide = np.eye(int(kinds.max()) + 1)[kinds[keep]]
    else:
        u = np.log(t[keep]) if t.min() > 0 and t.max() > 10 * t.min() else t[keep]
        u = 2 * (u - u.min()) / max(u.max() - u.min(), 1e-300) - 1
        design = np.polynomial.legendre.legvander(u, 5)
        wide = design[:, :4]
    r = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    floor = 1e-12 * float((r**2).mean()) + 1e-300
    log_square = np.log(r**2 + floor)
    r = r * np.exp(-0.5 * (wide @ np.linalg.lstsq(wide, log_square, rcond=None)[0]))
    residuals = np.zeros(len(values))
    residuals[keep] = np.clip(r / max(float(r.std()), 1e-300), -_CLIP, _CLIP)
    return residuals
