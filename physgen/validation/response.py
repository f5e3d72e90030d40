"""How samples respond to their condition: mean and width of every observable in bins of it.

The statistic is the largest deviation, in standard deviations, of the means and widths of residuals
in bins of the conditions (`physgen.validation.two_sample.conditional`); its p-value, which counts
that it is the largest of all, is that of `physgen.validation.permutation`. Of files up to twice
`sampling.n` rows count: there is no floor that would have to be of the same size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from physgen.errors import InputError
from physgen.validation.comparison import Comparison
from physgen.validation.scorecard import Row
from physgen.validation.two_sample import conditional
from physgen.validation.two_sample.pool import Pool


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
            NotMeasurable: too few rows are independent, or weights leave too few.
        """
        if comparison.truth is None:
            raise InputError("the response needs a sample of the truth: leave the metric out")
        pair = (comparison.truth, comparison.generated)
        if any(batch.condition is None or batch.chain is not None for batch in pair):
            return []
        pool = Pool.of(comparison)
        family = conditional.of_bins(pool)
        if family is None:
            return []
        pool.refuse_few()
        truth, ours = pool.relabelling.means(family.sums)
        p_value = pool.relabelling.p_values(family.sums, lambda d: family.statistics(d)[:, :1])
        n, m = pool.sizes
        return [
            Row(
                name="response in bins of the condition",
                metric="response",
                value=math.sqrt(family.statistics((truth - ours)[None])[0, 0]),
                p_value=float(p_value[0]),
                note=f"{family.causes(truth, ours)[0]}; {n} rows against {m}"
                + ("" if pool.relabelling.exact else "; p is asymptotic"),
            )
        ]
