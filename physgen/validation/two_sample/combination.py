"""One p-value of many statistics, valid whatever their dependence.

From draws of the statistics under the hypothesis (relabelled rows) each is mapped to a p-value p_k
with a smooth tail: ranks below the quantile u at 1 - `TAIL`, above it

    TAIL exp(-(T - u) ln 2 / median excess),

since tests that tie at one over the number of draws would hide which of them sees more. The p-value
of all is that of the least p_k. The maps are made from draws of their own; min_k p_k of what was
observed and of further draws are then exchangeable under the hypothesis, and the p-value is exact
if relabelling is. That of a single test, adjusted for there being many, is the share of the draws
in which any of them has as small a p_k (Westfall & Young 1993).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from physgen.validation.permutation import Relabelling, sequential
from physgen.validation.two_sample.pool import Family

Array = NDArray[float64]

TAIL = 0.2
MOST = 10_000
"""Relabellings at most: smaller p-values are extrapolated, and said to be."""

LEARNED = 400
"""Draws at least from which the maps are made."""

LEARNED_SHARE = 0.2
"""Of the level, that of the classifier, which is relabelled on its own."""

_LEARNING = 100_000
"""The number of the first block of these draws; no other is as high."""


@dataclass(frozen=True)
class Finding:
    """What one test found.

    Attributes:
        test: its name.
        p_value: adjusted for the number of tests.
        cause: what differs most.
    """

    test: str
    p_value: float
    cause: str


@dataclass(frozen=True)
class Combined:
    """The tests together.

    Attributes:
        p_value: of all, at least 1 / (`MOST` + 1).
        extrapolated: of all, by the tails of the statistics; the same where draws tell it.
        findings: of every test, the least probable first.
    """

    p_value: float
    extrapolated: float
    findings: tuple[Finding, ...]


def combine(families: Sequence[Family], relabelling: Relabelling) -> Combined:
    """Combine the statistics of all families, whose sums are of one relabelling.

    >>> x = np.random.default_rng(0).normal(size=(2000, 1))
    >>> x[1000:] += 0.2
    >>> relabelling = Relabelling(1000, 1000, seed=0)
    >>> mean = Family(("mean",), relabelling.sums(x), np.square, lambda a, b: ["x"])
    >>> combine([mean], relabelling).p_value < 0.01
    True
    """
    draws = [relabelling.draw(family.sums) for family in families]

    def statistics(index: int) -> Array:
        return np.concatenate(
            [family.statistics(draw(index)) for family, draw in zip(families, draws, strict=True)],
            1,
        )

    means = [relabelling.means(family.sums) for family in families]
    observed = np.concatenate(
        [
            family.statistics((truth - ours)[None])
            for family, (truth, ours) in zip(families, means, strict=True)
        ],
        1,
    )
    learned: list[Array] = []
    while sum(map(len, learned)) < LEARNED:
        learned.append(statistics(_LEARNING + len(learned)))
    tails = Tails.of(np.concatenate(learned))
    logs = tails.log_p(observed)[0]

    def least(index: int) -> Array:
        drawn = -tails.log_p(statistics(index)).min(1, keepdims=True)
        return np.broadcast_to(drawn, (len(drawn), len(logs)))

    p_values = sequential(-logs, least, most=MOST)
    causes = [
        cause
        for family, (truth, ours) in zip(families, means, strict=True)
        for cause in family.causes(truth, ours)
    ]
    names = [name for family in families for name in family.names]
    order = np.argsort(logs, kind="stable")
    findings = tuple(Finding(names[k], float(p_values[k]), causes[k]) for k in order)
    p_value = findings[0].p_value
    if relabelling.exact and p_value * MOST < 2:
        return Combined(p_value, min(p_value, tails.extrapolate(observed[0])), findings)
    return Combined(p_value, p_value, findings)


def either(tests: Combined, learned: Combined) -> Combined:
    """Combine two that were relabelled each on its own: the least p over its share of the level.

    This is Bonferroni's inequality with weights. What a classifier alone sees is mostly seen with
    certainty, so that the smaller share is its own.
    """
    shares = ((tests, 1 - LEARNED_SHARE), (learned, LEARNED_SHARE))
    findings = sorted(
        (
            replace(finding, p_value=min(1.0, finding.p_value / share))
            for one, share in shares
            for finding in one.findings
        ),
        key=lambda finding: finding.p_value,
    )
    return Combined(
        min(1.0, *(one.p_value / share for one, share in shares)),
        min(1.0, *(one.extrapolated / share for one, share in shares)),
        tuple(findings),
    )


@dataclass(frozen=True)
class Tails:
    """How improbable statistics are, from (n, k) draws of them.

    Attributes:
        ordered: (n, k) draws, sorted.
        begins: (k,), where the tails begin.
        excess: (k,), the median of what exceeds that; infinite of statistics that do not vary.
        independent: how many independent tests have as small a least p-value as these k.
    """

    ordered: Array
    begins: Array
    excess: Array
    independent: float = 1.0

    @classmethod
    def of(cls, draws: Array) -> Tails:
        """Learn the tails from draws of the statistics under the hypothesis."""
        ordered = np.sort(draws, axis=0)
        begins = np.quantile(ordered, 1 - TAIL, axis=0)
        beyond = ordered[-int(TAIL * len(ordered)) :] - begins
        # Discrete statistics repeat their values.
        excess = np.where(np.median(beyond, 0) > 0, np.median(beyond, 0), beyond.mean(0))
        tails = cls(ordered, begins, np.where(excess > 0, excess, np.inf))
        smallest = np.quantile(tails.log_p(draws).min(1), 0.1)
        independent = float(np.clip(0.1 / np.exp(smallest), 1.0, draws.shape[1]))
        return replace(tails, independent=independent)

    def log_p(self, statistics: Array) -> Array:
        """Return (n, k), ln p of (n, k) statistics."""
        n = len(self.ordered)
        ranks = np.stack(
            [
                n + 1 - np.searchsorted(column, values * (1 - 1e-9), side="left")
                for column, values in zip(self.ordered.T, statistics.T, strict=True)
            ],
            1,
        )
        steps = np.clip((statistics - self.begins) * np.log(2) / self.excess, 0.0, 600.0)
        by_rank = np.log(np.maximum(ranks / (n + 1), TAIL))
        return np.where(steps > 0, np.log(TAIL) - steps, by_rank)

    def extrapolate(self, observed: Array) -> float:
        """Return the least p-value of (k,) statistics, times the independent tests there are."""
        return float(min(1.0, self.independent * np.exp(self.log_p(observed[None]).min())))
