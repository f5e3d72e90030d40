"""What a classifier makes of generated samples: the shares of the classes, and how sure it is.

The inception score (Salimans et al., arXiv 1606.03498), with our classifier in the place of theirs,

    IS = exp( mean over samples of KL(p(y | x) || p(y)) ),        p(y) = mean of p(y | x),

lies between 1 and the number of classes. It sees neither what happens within a class nor the
truth, beside whose own score it therefore stands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from physgen.validation.comparison import Comparison, Role
from physgen.validation.estimates import pull
from physgen.validation.features import Embedded, embed
from physgen.validation.half_sampling import half_sampling
from physgen.validation.permutation import sequential
from physgen.validation.scorecard import Curve, Row, at_least, row_by_role, verdict_within
from physgen.validation.uncertainty import Estimate

Array = NDArray[float64]

ADVICE = (
    "train longer; where a critic judges, keep it from winning (gradient penalty, R1, spectral "
    "norm, a smaller learning rate)"
)
"""What to do about modes that are not there."""

MISSING = 0.3
"""A class with less than this share of its true share, and significantly so, is said to be lost."""


@dataclass(frozen=True, kw_only=True)
class InceptionScore:
    """How surely samples belong to a class, and to how many; the ideal is the truth's own score.

    Attributes:
        tolerance: limit on |bias| + 2 sigma, bias being the difference to the truth's score.

    >>> import torch
    >>> from physgen.batch import Batch
    >>> from physgen.systems.scalar import Phi4
    >>> x = torch.randn(3, 500, 4, generator=torch.Generator().manual_seed(0))
    >>> samples = Comparison(Phi4(shape=(4,)), *map(Batch, x))
    >>> InceptionScore().rows(samples)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    physgen.errors.NotMeasurable: inception-score needs classes, ...
    """

    tolerance: float | None = None

    def rows(self, comparison: Comparison) -> list[Row]:
        """Return one row; the floor is the score of a second sample of truth.

        Raises:
            InputError: there are no classes, or as `physgen.validation.features.embed` says.
        """
        embedded = comparison.once(embed)
        probabilities = embedded.in_classes("inception-score")
        roles: tuple[Role, Role] = ("generated", "truth")
        scores = {
            role: half_sampling(
                _score, (shares,), (embedded.unit[role],), seed=comparison.seed
            ).estimate()
            for role, shares in probabilities.items()
        }
        bias = scores["generated"].value - scores["truth"].value
        # Not that of independent samples: rows may be paired.
        difference = half_sampling(
            lambda a, b: _score(a) - _score(b),
            [probabilities[role] for role in roles],
            [embedded.unit[role] for role in roles],
            seed=comparison.seed,
        )
        sigma = float(difference.error[0])
        off, p_value = pull(bias, sigma)
        return [
            row_by_role(
                "inception score",
                "inception-score",
                scores,
                exact=scores["truth"].value,
                exact_error=scores["truth"].error,
                exact_source="truth",
                pull=off,
                p_value=p_value if embedded.exchangeable else None,
                tolerance=self.tolerance,
                verdict=verdict_within(bias, sigma, self.tolerance),
                note=f"{embedded.note}; the floor is the score of a second sample of truth",
            )
        ]


def inception_score(probabilities: Array) -> float:
    """Return the score of (N, K) class probabilities, in [1, K].

    >>> round(inception_score(np.eye(3)), 6)  # three classes, each sample surely of one
    3.0
    """
    mean = probabilities.mean(0)
    ratio = np.where(probabilities > 0, probabilities, 1.0) / np.where(mean > 0, mean, 1.0)
    return math.exp(float((probabilities * np.log(ratio)).sum(1).mean()))


def _score(probabilities: Array) -> Array:
    return np.array([inception_score(probabilities)])


def share_rows(embedded: Embedded, minimum: float | None) -> list[Row]:
    """Return the smallest class share, and the distance of all shares from the truth's.

    The distance is the total variation, half the sum of |differences|.

    Args:
        embedded: with class probabilities.
        minimum: fail below this share.

    Raises:
        InputError: there are no classes.
    """
    probabilities = embedded.in_classes("coverage")
    n, n_classes = probabilities["truth"].shape
    n_units = min(len(np.unique(unit)) for unit in embedded.unit.values())
    counts = {
        role: np.bincount(p.argmax(1), minlength=n_classes) for role, p in probabilities.items()
    }
    shares = {role: count / n for role, count in counts.items()}
    ours, truth = shares["generated"], shares["truth"]
    present = truth > 0  # A class that the truth does not have cannot be lost.
    least = {role: float(share[present].min()) for role, share in shares.items()}
    smallest = int(np.flatnonzero(present)[ours[present].argmin()])
    note = f"class {smallest}; the smallest of the truth is {least['truth']:.1%}"
    few = ", ".join(f"{i} ({ours[i]:.1%} for {truth[i]:.1%})" for i in _lost(ours, truth, n_units))
    curves: dict[str, Curve] = {
        f"class shares {role}": (tuple(map(float, range(n_classes))), tuple(share.tolist()))
        for role, share in shares.items()
    }
    errors = {role: math.sqrt(share * (1 - share) / n_units) for role, share in least.items()}
    smallest_share = row_by_role(
        "smallest class share",
        "coverage",
        {role: Estimate(share, errors[role]) for role, share in least.items()},
        tolerance=minimum,
        verdict=at_least(least["generated"], errors["generated"], minimum),
        note=note if minimum is None else f"{note}; the limit is a minimum",
        warning=f"mode collapse: too few of classes {few}; {ADVICE}" if few else "",
        curves=curves,
    )
    return [
        smallest_share,
        _variation_row(counts, n, embedded.exchangeable and not embedded.paired),
    ]


def _lost(ours: Array, truth: Array, n: int) -> NDArray[np.int64]:
    """Return the classes that are nearly gone, by shares of n independent samples each."""
    pooled = (ours + truth) / 2
    sigma = np.sqrt(2 * pooled * (1 - pooled) / n)
    return np.flatnonzero((ours < MISSING * truth) & (truth - ours > 3 * sigma))


def _variation_row(counts: Mapping[Role, NDArray[np.int64]], n: int, exchangeable: bool) -> Row:
    generator = np.random.default_rng(0)
    truth = counts["truth"]
    distances = {}
    for role, count in counts.items():
        ours, theirs = (generator.multinomial(n, c / n, 200) for c in (count, truth))
        error = float(_variation(ours, theirs, n).std())
        distances[role] = Estimate(float(_variation(count, truth, n)), error)
    pooled = counts["generated"] + truth

    def draw(index: int) -> Array:
        """Call n of the pooled rows true: permutations, without the rows."""
        null = np.random.default_rng([1, index]).multivariate_hypergeometric(pooled, n, 500)
        return _variation(pooled - null, null, n)[:, None]

    p_value = float(sequential(np.array([distances["generated"].value]), draw)[0])
    return row_by_role(
        "class shares, total variation",
        "coverage",
        distances,
        p_value=p_value if exchangeable else None,
    )


def _variation(a: NDArray[np.int64], b: NDArray[np.int64], n: int) -> Array:
    """Return half the sum of the |differences| of shares, over the last axis."""
    return np.asarray(np.abs(a - b).sum(-1) / (2 * n))
