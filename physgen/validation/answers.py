"""What surrogates are asked besides samples: which class a true sample has, and there and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy import float64
from numpy.typing import NDArray

Array = NDArray[float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Guesses:
    """Classes of true samples as classifiers see them that know few labels.

    Attributes:
        labels: (N,), the true classes.
        guesses: (N,), of the classifier that also saw samples without labels.
        plain: (S, N), of classifiers that saw the labelled samples alone, each of other weights.
        n_labels: how many labels were known.

    >>> guesses = Guesses(np.array([0, 1]), np.array([0, 1]), np.array([[0, 0], [1, 1]]), 4)
    >>> guesses.accuracy, guesses.plain_accuracies.tolist()
    (1.0, [0.5, 0.5])
    """

    labels: Rows
    guesses: Rows
    plain: Rows
    n_labels: int

    @property
    def accuracy(self) -> float:
        """Share of the samples whose class is found."""
        return float((self.guesses == self.labels).mean())

    @property
    def plain_accuracies(self) -> Array:
        """(S,) shares likewise, of the plain classifiers."""
        return np.asarray((self.plain == self.labels).mean(1))
