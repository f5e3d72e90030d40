"""Density and coverage: do the generated samples lie where the truth lies, and everywhere there?

With balls around the N true rows x_i that reach to their k-th nearest true neighbour (Naeem et al.,
arXiv 2002.09797), and M generated rows y_j,

    density  = 1 / (k M) sum_j #{i : y_j in ball i}          (1 where the distributions agree),
    coverage = 1 / N #{i : some y_j in ball i}                (at most 1 - 2^-k for N = M large),

the ceiling being the probability that of the rows of both kinds around x_i, those nearest are not k
true ones in a row: 0.97 for k = 5, as the floor shows. Forgotten modes lower coverage; samples
off the truth lower density, and in many dimensions, samples huddled in its middle raise it. Where
there are classes, their shares say which mode is missing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from physgen.validation.classes import ADVICE, share_rows
from physgen.validation.comparison import Comparison, Role
from physgen.validation.features import Embedded, embed
from physgen.validation.half_sampling import HalfSampled, apart, half_sampling
from physgen.validation.neighbours import CHUNK, squared_distances
from physgen.validation.scorecard import Row, at_least, row_by_role

Array = NDArray[float64]
Rows = NDArray[np.int64]

COLLAPSED = 0.5
"""Coverage below this share of its ceiling is said to be a collapse."""


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Density, coverage and class shares on features.

    Attributes:
        k: neighbours that a ball reaches to.
        n: at most so many rows of each sample; the cost grows as n^2.
        minimum: fail below this coverage.
        minimum_share: fail where a class has less than this share of the samples.
    """

    k: int = 5
    n: int = 5000
    minimum: float | None = None
    minimum_share: float | None = None

    def rows(self, comparison: Comparison) -> list[Row]:
        """Return coverage and density, and where there are classes, their shares.

        Raises:
            InputError: as `physgen.validation.features.embed` says.
        """
        embedded = comparison.once(embed).first(self.n)
        both = {role: self._scores(embedded, role, comparison.seed) for role in embedded.others}
        covered, density = (
            {role: scores.estimate(i) for role, scores in both.items()} for i in range(2)
        )
        share, ceiling = covered["generated"].value, 1 - 0.5**self.k
        note = f"{embedded.note}; {self.k} neighbours, ceiling {ceiling:.2f}"
        if self.minimum is not None:
            note += "; the limit is a minimum"
        warning = ""
        if share < COLLAPSED * ceiling:
            warning = (
                f"samples leave {1 - share / ceiling:.0%} of the truth uncovered: modes are "
                f"missing or samples lie elsewhere (see density); {ADVICE}"
            )
        rows = [
            row_by_role(
                "coverage",
                "coverage",
                covered,
                tolerance=self.minimum,
                verdict=at_least(share, covered["generated"].error, self.minimum),
                note=note,
                warning=warning,
            ),
            row_by_role(
                "density",
                "coverage",
                density,
                note="1 where samples agree, less off the truth, more in its middle",
            ),
        ]
        if embedded.probabilities is not None:
            rows += share_rows(comparison.once(embed), self.minimum_share)
        return rows

    def _scores(self, embedded: Embedded, role: Role, seed: int) -> HalfSampled:
        truth, ours = embedded.values["truth"], embedded.values[role]
        unit, others = units = embedded.unit["truth"], embedded.unit[role]

        def statistic(i: Rows, j: Rows) -> Array:
            return np.array(coverage(truth[i], ours[j], self.k, (unit[i], others[j])))

        return half_sampling(
            statistic, (np.arange(len(truth)), np.arange(len(ours))), units, seed=seed
        )


def coverage(
    truth: Array, generated: Array, k: int, units: tuple[Rows, Rows] | None = None
) -> tuple[float, float]:
    """Return coverage and density of (M, F) rows in the balls of (N, F) true ones, k < N.

    Rows that share a number of `units`, (N,) and (M,), are not compared.

    >>> x = np.arange(10.0)[:, None]
    >>> coverage(x, x[:5], k=1)[0]  # half of the truth, and one more ball that reaches there
    0.6
    """
    unit, others = units or apart(len(truth), len(generated))
    covered, inside = 0, 0
    for start in range(0, len(truth), CHUNK):
        centres, mine = truth[start : start + CHUNK], unit[start : start + CHUNK, None]
        squares = np.where(mine == unit, np.inf, squared_distances(centres, truth))
        radii = np.partition(squares, k - 1, axis=1)[:, k - 1 : k]
        within = (squared_distances(centres, generated) <= radii) & (mine != others)
        covered += int(within.any(1).sum())
        inside += int(within.sum())
    return covered / len(truth), inside / (k * len(generated))
