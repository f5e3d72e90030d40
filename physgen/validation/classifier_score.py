"""What one classifier says of two samples, from its scores of rows that it never saw.

A monotone function of the scores, isotonic regression on rows of its own, makes them probabilities:
weights and Jensen-Shannon divergence follow from these. Steps of such a function are made by few
rows, and a row more or less on one side moves all that stands on a step. So their errors are those
of a bootstrap of the rows that calibrate and of those that are tested, the regression being made
anew each time. AUC and balanced accuracy know of no calibration; of the calibrated AUC it moves
ties only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from physgen.validation.auc import (
    auc,
    balanced_accuracy,
    calibrated,
    chance,
    jensen_shannon,
    roc,
)
from physgen.validation.scorecard import Curve
from physgen.validation.tails import Tails, shares
from physgen.validation.uncertainty import Estimate

Array = NDArray[float64]
Rows = NDArray[np.int64]

RESAMPLES = 20
"""Bootstrap resamplings; the error is then known to a sixth."""


@dataclass(frozen=True)
class Fold:
    """The rows that one trained classifier is calibrated on, and those that it is tested on.

    Attributes:
        scores: (N,) of all rows.
        choose, test: numbers of rows.
    """

    scores: Array
    choose: Rows
    test: Rows


class Pooled(NamedTuple):
    """What is known of the (N,) rows of both samples; see the attributes of `ClassifierScore`."""

    labels: Array
    weights: Array
    unit: Rows
    rows: Rows


@dataclass(frozen=True)
class ClassifierScore:
    """How well one classifier tells two samples apart.

    Attributes:
        auc, balanced_accuracy, calibrated_auc, jsd: with errors; the JSD in bits.
        chance: the standard deviation of the AUC of samples that agree.
        roc: (false positive rate, true positive rate).
        tails: of the weights p / (1 - p).
        n_train, n_test: rows of each class that trained, and that were tested; the mean of both
            classes, where groups make them differ.
        not_finite: how many feature values were NaN or infinite.
        scores, labels, weights, unit: (k,) of the rows that were tested; labels are 1 of the truth.
        rows: (k,), their numbers among the rows of their sample that count.
    """

    auc: Estimate
    chance: float
    balanced_accuracy: Estimate
    calibrated_auc: Estimate
    jsd: Estimate
    roc: Curve
    tails: Tails
    n_train: int
    n_test: int
    not_finite: int
    scores: Array
    labels: Array
    weights: Array
    unit: Rows
    rows: Rows

    @classmethod
    def of(
        cls,
        folds: Sequence[Fold],
        pooled: Pooled,
        *,
        n_train: int,
        not_finite: int,
        seed: int,
    ) -> ClassifierScore:
        """Look at the scores of all folds.

        Args:
            folds: one for each trained classifier; no row is tested twice.
            pooled: of all rows.
            n_train, not_finite: see there.
            seed: of the bootstrap.
        """
        labels, weights, unit, rows = pooled
        tested = np.concatenate([fold.test for fold in folds])
        scores = np.concatenate([fold.scores[fold.test] for fold in folds])
        y, w, keys = labels[tested], weights[tested], unit[tested]
        certain = _probabilities(folds, labels, weights)
        jsd, tails = jensen_shannon(certain, y, w, keys), Tails.of(certain, y, w, keys)
        errors = _errors(folds, labels, weights, unit, seed)
        return cls(
            auc=auc(scores, y, w, keys),
            chance=chance(scores, y, w, keys),
            balanced_accuracy=balanced_accuracy(scores, y, w, keys),
            calibrated_auc=auc(certain, y, w, keys),
            jsd=replace(jsd, error=errors[0]),
            roc=roc(scores, y, w),
            tails=replace(
                tails,
                surplus=replace(tails.surplus, error=errors[1]),
                missing=replace(tails.missing, error=errors[2]),
            ),
            n_train=n_train,
            n_test=len(scores) // 2,
            not_finite=not_finite,
            scores=scores,
            labels=y,
            weights=w,
            unit=keys,
            rows=rows[tested],
        )


def _probabilities(folds: Sequence[Fold], labels: Array, weights: Array) -> Array:
    """Return those of the rows that are tested, fold by fold."""
    return np.concatenate(
        [calibrated(fold.scores, labels, weights, fold.choose, fold.test) for fold in folds]
    )


def _errors(
    folds: Sequence[Fold], labels: Array, weights: Array, unit: Rows, seed: int
) -> tuple[float, float, float]:
    """Return those of the JSD, and of the shares of too many and of missing rows.

    Units are drawn as wholes, a Poisson number of times; draws that leave a class of a part without
    rows are left out, and of fewer than two the error is NaN.
    """
    generator = np.random.default_rng([seed, 6])
    tested = np.concatenate([fold.test for fold in folds])
    parts = [part for fold in folds for part in (fold.choose, fold.test)]
    found = []
    for _ in range(RESAMPLES):
        drawn = weights * generator.poisson(1.0, int(unit.max()) + 1)[unit]
        if any(drawn[part] @ (labels[part] == label) <= 0 for part in parts for label in (0, 1)):
            continue
        certain = _probabilities(folds, labels, drawn)
        y, w = labels[tested], drawn[tested]
        found.append((jensen_shannon(certain, y, w).value, *shares(certain, y, w)))
    if len(found) < 2:
        return (np.nan, np.nan, np.nan)
    jsd, surplus, missing = np.std(found, axis=0, ddof=1).tolist()
    return jsd, surplus, missing
