"""Precision, recall, density and coverage: do samples lie where the truth lies, and everywhere?

With balls around the N true rows x_i that reach to their k-th nearest true neighbour (Naeem et al.,
arXiv 2002.09797), and M generated rows y_j,

    density  = 1 / (k M) sum_j #{i : y_j in ball i}          (1 where the distributions agree),
    coverage = 1 / N #{i : some y_j in ball i}                (at most 1 - 2^-k for N = M large),
    precision = 1 / M #{j : y_j in some ball i},
    recall = 1 / N #{i : x_i in the ball of some y_j to its k-th generated neighbour}

the ceiling being the probability that of the rows of both kinds around x_i, those nearest are not k
true ones in a row: 0.97 for k = 5, as the floor shows. Forgotten modes lower coverage; samples
off the truth lower density, and in many dimensions, samples huddled in its middle raise it.
Precision and recall (Kynkaanniemi et al., 1904.06991) fall with the number of dimensions, of true
samples too: read them beside their floor. Where there are classes, their shares say which mode is
missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from physgen.validation.classes import ADVICE, share_rows
from physgen.validation.comparison import Comparison, Role
from physgen.validation.features import Embedded, embed
from physgen.validation.half_sampling import HalfSampled, apart, half_sampling
from physgen.validation.neighbours import CHUNK, squared_distances
from physgen.validation.reference import reference_features
from physgen.validation.scorecard import Row, at_least, row_by_role
from physgen.validation.threshold import cut_in_words

Array = NDArray[float64]
Rows = NDArray[np.int64]

COLLAPSED = 0.5
"""Coverage below this share of its ceiling is said to be a collapse."""


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Coverage, density, precision, recall and class shares.

    Attributes:
        level: "own", features as in `physgen.validation.features`; or "voxels", what the reference
            evaluation of CaloChallenge takes: log10 of the voxels in MeV, -1 where they are 0.
        k: neighbours that a ball reaches to.
        n: at most so many rows of each sample; the cost grows as n^2.
        minimum: fail below this coverage.
        minimum_share: fail where a class has less than this share of the samples.

    >>> import torch
    >>> from physgen.batch import Batch
    >>> from physgen.systems.scalar import Phi4
    >>> x = torch.randn(3, 500, 4, generator=torch.Generator().manual_seed(0))
    >>> samples = Comparison(Phi4(shape=(4,)), *map(Batch, x))
    >>> [row.name for row in Coverage().rows(samples)]
    ['coverage', 'density', 'precision', 'recall']
    """

    level: Literal["own", "voxels"] = "own"
    k: int = 5
    n: int = 5000
    minimum: float | None = None
    minimum_share: float | None = None

    def rows(self, comparison: Comparison) -> list[Row]:
        """Return coverage, density, precision, recall, and where there are classes, their shares.

        Raises:
            InputError: as `physgen.validation.features.embed` says.
        """
        embedded = self._embedded(comparison)
        both = {role: self._scores(embedded, role, comparison.seed) for role in embedded.others}
        covered, density, precision, recall = (
            {role: scores.estimate(i) for role, scores in both.items()} for i in range(4)
        )
        cut = cut_in_words(comparison) if self.level == "voxels" else ""
        also = f"; {cut}" if cut else ""
        share, ceiling = covered["generated"].value, 1 - 0.5**self.k
        note = f"{embedded.note}{also}; {self.k} neighbours, ceiling {ceiling:.2f}"
        if self.minimum is not None:
            note += "; the limit is a minimum"
        warning = ""
        if share < COLLAPSED * ceiling:
            warning = (
                f"samples leave {1 - share / ceiling:.0%} of the truth uncovered: modes are "
                f"missing or samples lie elsewhere (see density); {ADVICE}"
            )
        of = "" if self.level == "own" else " of voxels"
        unlike_one = f"beside the floor, which is not 1{also}"
        rows = [
            row_by_role(
                f"coverage{of}",
                "coverage",
                covered,
                tolerance=self.minimum,
                verdict=at_least(share, covered["generated"].error, self.minimum),
                note=note,
                warning=warning,
            ),
            row_by_role(
                f"density{of}",
                "coverage",
                density,
                note=f"1 where samples agree, less off the truth, more in its middle{also}",
            ),
            row_by_role(f"precision{of}", "coverage", precision, note=unlike_one),
            row_by_role(f"recall{of}", "coverage", recall, note=unlike_one),
        ]
        if embedded.probabilities is not None:
            rows += share_rows(comparison.once(embed), self.minimum_share)
        return rows

    def _embedded(self, comparison: Comparison) -> Embedded:
        if self.level == "own":
            return comparison.once(embed).first(self.n)
        given = reference_features(comparison, "voxels", self.n)
        note = f"log10 of {given.values['truth'].shape[1]} voxels, {self.n} rows of each at most"
        return Embedded(given.values, given.unit, None, comparison.paired, False, note)

    def _scores(self, embedded: Embedded, role: Role, seed: int) -> HalfSampled:
        truth, ours = embedded.values["truth"], embedded.values[role]
        unit, others = units = embedded.unit["truth"], embedded.unit[role]

        def statistic(i: Rows, j: Rows) -> Array:
            return np.array(coverage(truth[i], ours[j], self.k, (unit[i], others[j])))

        return half_sampling(
            statistic, (np.arange(len(truth)), np.arange(len(ours))), units, seed=seed
        )


class Scores(NamedTuple):
    """What `coverage` finds; see the module."""

    coverage: float
    density: float
    precision: float
    recall: float


def coverage(
    truth: Array, generated: Array, k: int, units: tuple[Rows, Rows] | None = None
) -> Scores:
    """Return the scores of (M, F) rows and (N, F) true ones, k < N and k < M.

    Rows that share a number of `units`, (N,) and (M,), are not compared.

    >>> x = np.arange(10.0)[:, None]
    >>> coverage(x, x[:5], k=1)  # half of the truth, and one more ball that reaches there
    Scores(coverage=0.6, density=2.8, precision=1.0, recall=0.6)
    """
    unit, others = units or apart(len(truth), len(generated))
    radii, reach = _radii(truth, unit, k), _radii(generated, others, k)
    covered, inside, recalled = 0, 0, 0
    precise = np.zeros(len(generated), dtype=bool)
    for start in range(0, len(truth), CHUNK):
        chunk = slice(start, start + CHUNK)
        squares = squared_distances(truth[chunk], generated)
        apart_from = unit[chunk, None] != others
        within = (squares <= radii[chunk, None]) & apart_from
        covered += int(within.any(1).sum())
        inside += int(within.sum())
        precise |= within.any(0)
        recalled += int(((squares <= reach) & apart_from).any(1).sum())
    n, m = len(truth), len(generated)
    return Scores(covered / n, inside / (k * m), float(precise.mean()), recalled / n)


def _radii(rows: Array, unit: Rows, k: int) -> Array:
    """Return (N,) squared distances to the k-th nearest row of another unit."""
    radii = np.empty(len(rows))
    for start in range(0, len(rows), CHUNK):
        chunk = slice(start, start + CHUNK)
        squares = squared_distances(rows[chunk], rows)
        squares[unit[chunk, None] == unit] = np.inf
        radii[chunk] = np.partition(squares, k - 1, axis=1)[:, k - 1]
    return radii
