"""The classifier two-sample test of posteriors against exact ones.

As the benchmark of simulation-based inference defines it (C2ST; Lueckmann et al., arXiv
2101.04653): the accuracy of a perceptron with two layers of 10 P units on rows that did not train,
of five folds, inputs in units of the exact posterior's mean and deviation. 0.5 is perfect. A larger
number of draws finds more, so that only values of the same number compare; theirs are of 10,000.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from physgen.errors import InputError, NotMeasurable, RecipeError
from physgen.validation.comparison import Comparison
from physgen.validation.ranks import Array
from physgen.validation.scorecard import Row, verdict_within

_FOLDS = 5


def accuracy(exact: Array, draws: Array, seed: int = 1) -> float:
    """Return the accuracy of classifiers of (n, P) and (n, P) draws.

    >>> generator = np.random.default_rng(0)
    >>> exact = generator.normal(size=(1000, 1))
    >>> accuracy(exact, generator.normal(size=(1000, 1)) + 10)
    1.0
    """
    from sklearn.model_selection import KFold, cross_val_score
    from sklearn.neural_network import MLPClassifier

    both = (np.concatenate([exact, draws]) - exact.mean(0)) / exact.std(0)
    labels = np.repeat([0, 1], [len(exact), len(draws)])
    width = 10 * exact.shape[1]
    network = MLPClassifier((width, width), max_iter=10_000, random_state=seed)
    folds = KFold(_FOLDS, shuffle=True, random_state=seed)
    return float(cross_val_score(network, both, labels, cv=folds).mean())


@dataclass(frozen=True, kw_only=True)
class PosteriorTest:
    """Accuracy of classifiers of draws of estimated against exact posteriors.

    Attributes:
        observations: of which posteriors are compared.
        draws: of each posterior.
        maximum: limit of the mean accuracy; `None` is none.

    Raises:
        RecipeError: there are fewer than 2 observations, or too few draws to be told apart.

    >>> import torch
    >>> from physgen.batch import Batch
    >>> from physgen.systems.scalar import Phi4
    >>> x = torch.randn(3, 500, 4, generator=torch.Generator().manual_seed(0))
    >>> samples = Comparison(Phi4(shape=(4,)), *map(Batch, x))
    >>> PosteriorTest().rows(samples)
    Traceback (most recent call last):
    physgen.errors.InputError: posterior-test is of estimated posteriors: ...
    """

    observations: int = 3
    draws: int = 1000
    maximum: float | None = None

    def __post_init__(self) -> None:
        """Refuse what has no spread."""
        if self.observations < 2 or self.draws < 100:
            raise RecipeError("posterior-test: observations must be at least 2, and draws 100")

    def rows(self, comparison: Comparison) -> list[Row]:
        """Return one row, whose floor is of two samples of exact posteriors.

        Raises:
            InputError: the samples are no parameters given data.
            NotMeasurable: nobody knows the exact posterior of this simulator.
        """
        if comparison.posteriors is None:
            raise InputError(
                "posterior-test is of estimated posteriors: it needs a run of the system posterior"
            )
        if not comparison.posteriors:
            raise NotMeasurable("the exact posterior of this simulator is not known")
        found, floors = np.array(
            [
                [accuracy(exact, draws), accuracy(exact, other)]
                for draws, exact, other in comparison.posteriors
            ]
        ).T
        n = len(found)
        # Observations differ, and rows that were told apart are so many coins.
        coins = 0.5 / np.sqrt(2 * self.draws * n)
        error, floor_error = (
            float(np.hypot(v.std(ddof=1) / np.sqrt(n), coins)) for v in (found, floors)
        )
        value, floor = float(found.mean()), float(floors.mean())
        return [
            Row(
                name="C2ST, exact posterior",
                metric="posterior-test",
                value=value,
                error=error,
                floor=floor,
                floor_error=floor_error,
                tolerance=self.maximum,
                verdict=verdict_within(value, error, self.maximum, floor),
                note=f"{n} observations, {self.draws} draws each",
            )
        ]
