"""How many classes of true samples a classifier finds that was given few labels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from physgen.errors import InputError
from physgen.validation.comparison import Comparison
from physgen.validation.scorecard import Row


@dataclass(frozen=True, kw_only=True)
class LabelAccuracy:
    """Accuracy on true samples that no training saw, beside plain classifiers of the same network.

    Both know the same labels. The error of the row is that of so many true samples; the note states
    the mean of the plain classifiers with its error over their seeds, and the difference with the
    error of the paired samples.

    Attributes:
        seeds: how many plain classifiers are trained.
        steps: of each of them.

    >>> import torch
    >>> from physgen.batch import Batch
    >>> from physgen.systems.scalar import Phi4
    >>> x = torch.randn(3, 500, 4, generator=torch.Generator().manual_seed(0))
    >>> samples = Comparison(Phi4(shape=(4,)), *map(Batch, x))
    >>> LabelAccuracy().rows(samples)
    Traceback (most recent call last):
    physgen.errors.InputError: label-accuracy is of classifiers that know few labels: ...
    """

    seeds: int = 5
    steps: int = 500

    def rows(self, comparison: Comparison) -> list[Row]:
        """Return one row; `InputError` if the surrogate classifies nothing."""
        found = comparison.guesses
        if found is None:
            raise InputError(
                "label-accuracy is of classifiers that know few labels: it needs a run of the "
                "surrogate labelled-generator on data with a test split"
            )
        n, accuracy, plain = len(found.labels), found.accuracy, found.plain_accuracies
        over_seeds = float(plain.std(ddof=1) / math.sqrt(len(plain))) if len(plain) > 1 else 0.0
        better = (found.guesses == found.labels) - (found.plain == found.labels).mean(0)
        error = math.hypot(float(better.std(ddof=1)) / math.sqrt(n), over_seeds)
        return [
            Row(
                name=f"accuracy with {found.n_labels} labels",
                metric="label-accuracy",
                value=accuracy,
                error=math.sqrt(accuracy * (1 - accuracy) / n),
                baseline=float(plain.mean()),
                note=f"{n} true samples that were not trained on; {len(plain)} plain classifiers "
                f"of the same network on the same labels {plain.mean():.4f} +- {over_seeds:.4f} "
                f"(over seeds), from {np.min(plain):.4f} to {np.max(plain):.4f}; difference "
                f"{better.mean():.4f} +- {error:.4f}",
            )
        ]
