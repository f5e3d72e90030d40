"""One calibrated p-value for the question whether two samples are of one distribution.

No single test sees everything: a shift, a lost mode, a broken correlation, a cut, a change in one
bin of the condition. Here those of `physgen.validation.two_sample` are combined to one p-value that
is right whatever their dependence (`two_sample.combination`), and the tests that see a difference
are named, with what they see. Rows with weights, negative ones too, and rows of one unit are
relabelled as `physgen.validation.permutation` does; p is then asymptotic, and said to be.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from physgen.errors import NotMeasurable
from physgen.validation.comparison import Comparison
from physgen.validation.scorecard import Row
from physgen.validation.two_sample import conditional, kernels, moments, thresholds
from physgen.validation.two_sample.combination import Combined, Finding, combine, either
from physgen.validation.two_sample.learned import of_classifier
from physgen.validation.two_sample.pool import Family, Pool

NAMED = 4
"""Causes that a note names at most."""

SEEN = 0.01
"""Tests whose adjusted p-value is below are named."""


@dataclass(frozen=True, kw_only=True)
class CombinedTest:
    """The p-value of all two-sample tests of the observables together.

    >>> import torch
    >>> from physgen.batch import Batch
    >>> from physgen.systems.scalar import Phi4
    >>> x = torch.randn(2, 1000, 4, generator=torch.Generator().manual_seed(0))
    >>> same, moved = (Comparison(Phi4(shape=(4,)), Batch(x[0] + a), Batch(x[1])) for a in (0, 0.1))
    >>> CombinedTest().rows(same)[0].p_value > 0.01, CombinedTest().rows(moved)[0].p_value < 0.01
    (True, True)
    """

    def rows(self, comparison: Comparison) -> list[Row]:
        """Return one row.

        Raises:
            InputError: there is no truth.
            NotMeasurable: too few rows are independent, or no observable varies.
        """
        pool = Pool.of(comparison)
        pool.refuse_few()
        if not pool.names:
            raise NotMeasurable("no observable varies: there is nothing to be tested")
        result = combine(families(pool), pool.relabelling)
        learned = of_classifier(pool)
        if learned is not None:
            result = either(result, combine([learned[0]], learned[1]))
        return [_row(result, pool)]


def families(pool: Pool) -> list[Family]:
    """Return the families of tests that need no training."""
    generator = np.random.default_rng([pool.seed, 4])
    result = [
        thresholds.of_observables(pool),
        conditional.of_bins(pool),
        moments.of_moments(pool),
        moments.of_products(pool),
    ]
    for name, columns in (("standardised", pool.standardised), ("whitened", pool.whitened)):
        result.append(thresholds.of_projections(name, columns.rows, pool, generator))
        result += kernels.of_kernels(name, columns.rows, pool, generator)
    return [family for family in result if family is not None]


def _row(combined: Combined, pool: Pool) -> Row:
    n, m = pool.sizes
    notes = [
        f"{len(combined.findings)} tests of {len(pool.names)} observables, {n} rows against {m}"
    ]
    if combined.extrapolated < combined.p_value:
        notes.append(f"extrapolated p {combined.extrapolated:.1g}")
    if not pool.relabelling.exact:
        notes.append("p is asymptotic")
    if pool.left_out:
        notes.append(pool.left_out)
    notes += _causes(combined.findings)
    return Row(
        name="combined test",
        metric="combined-test",
        value=float(f"{combined.p_value:.1g}"),
        p_value=combined.p_value,
        note="; ".join(notes),
    )


def _causes(findings: tuple[Finding, ...]) -> list[str]:
    """Return what the tests saw, each thing once, with the adjusted p-value of its test."""
    seen: dict[str, Finding] = {}
    for finding in findings:
        if finding.p_value < SEEN:
            seen.setdefault(finding.cause.partition(":")[0], finding)
    return [f"{f.cause} ({f.test}, p {f.p_value:.1g})" for f in seen.values()][:NAMED]
