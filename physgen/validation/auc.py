"""How well scores tell two samples apart: AUC and Jensen-Shannon divergence, with errors.

For scores s of rows x of the first sample and y of the second, with weights w and v,

    AUC = sum_ij w_i v_j [s(x_i) > s(y_j)] / (sum w sum v)          (ties count one half)

0.5 if the samples cannot be told apart. Its error is that of DeLong, DeLong & Clarke-Pearson (1988)
with weights; terms of rows that are not independent (one unit) are summed before they are squared,
as by Obuchowski (1997). From probabilities c(x) = p(true | x) follows

    JSD = 1/2 E_true log2(2 c) + 1/2 E_generated log2(2 (1 - c))    in [0, 1] bits.

Exact c gives a value in [0, 1] bits and any other c a lower one: calibrated on few rows, it falls a
little below 0 where samples agree, as the floor beside it shows.
"""

from __future__ import annotations

import math

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from physgen.validation.scorecard import Curve
from physgen.validation.uncertainty import Estimate, summed_error

Array = NDArray[float64]
Rows = NDArray[np.int64]


def auc(scores: Array, labels: Array, weights: Array, unit: Rows | None = None) -> Estimate:
    """Return the weighted AUC of (N,) scores for labels 1 against 0, with DeLong's error.

    Rows with the same (N,) unit number, of whichever class, are not taken for independent.
    """
    positive, negative = labels == 1, labels == 0
    w, v = weights[positive], weights[negative]
    above = _share_below(scores[positive], scores[negative], v)  # of the negatives, below each
    below = 1 - _share_below(scores[negative], scores[positive], w)
    value = float(w @ above / w.sum())
    terms = np.empty(len(scores))
    terms[positive] = w * (above - value) / w.sum()
    terms[negative] = v * (below - value) / v.sum()
    return Estimate(value, summed_error(terms, unit))


def balanced_accuracy(
    scores: Array, labels: Array, weights: Array, unit: Rows | None = None
) -> Estimate:
    """Return the mean share of both classes on their side of 0, with its error; units as in `auc`.

    The AUC of scores that were rounded to 0 and 1 is this number, not an AUC.

    >>> scores, labels = np.array([2.0, -1.0, 3.0, -4.0]), np.array([1.0, 1.0, 0.0, 0.0])
    >>> balanced_accuracy(scores, labels, np.ones(4)).value
    0.5
    """
    right = np.where(scores == 0, 0.5, (scores > 0) == (labels == 1))
    value, terms = 0.0, np.empty(len(scores))
    for label in (0.0, 1.0):
        of = labels == label
        w = weights[of] / weights[of].sum()
        share = float(w @ right[of])
        value += share / 2
        terms[of] = w * (right[of] - share) / 2
    return Estimate(value, summed_error(terms, unit))


def chance(scores: Array, labels: Array, weights: Array, unit: Rows | None = None) -> float:
    """Return the standard deviation of the AUC under the hypothesis of one distribution.

    Unlike `auc`'s error it does not vanish where few scores happen to be apart; without weights and
    ties it is that of Mann & Whitney, ((n + m + 1) / 12 n m)^1/2, but for terms of order 1/n.
    """
    terms = np.empty(len(scores))
    classes = labels == 1, labels == 0
    rank = sum(_share_below(scores, scores[of], weights[of]) for of in classes) / 2 - 0.5
    for of, sign in zip(classes, (1, -1), strict=True):
        terms[of] = sign * (weights * rank)[of] / weights[of].sum()
    n = len(scores) if unit is None else len(np.unique(unit))
    return summed_error(terms, unit) * math.sqrt((n + 1) / n)


def _share_below(points: Array, others: Array, weights: Array) -> Array:
    """Return for each point the weighted share of `others` below it, ties counting half."""
    order = np.argsort(others)
    ordered = others[order]
    cumulative = np.concatenate([[0.0], np.cumsum(weights[order])])
    left = cumulative[np.searchsorted(ordered, points, side="left")]
    right = cumulative[np.searchsorted(ordered, points, side="right")]
    return np.asarray((left + right) / (2 * cumulative[-1]))


def roc(scores: Array, labels: Array, weights: Array, n_points: int = 100) -> Curve:
    """Return (false positive rate, true positive rate) at up to `n_points` thresholds."""
    order = np.argsort(-scores, kind="stable")
    hit = np.cumsum(weights[order] * labels[order])
    miss = np.cumsum(weights[order] * (1 - labels[order]))
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    last = last[np.unique(np.linspace(0, len(last) - 1, n_points).astype(int))]
    x, y = (np.concatenate([[0.0], c[last] / c[-1]]).round(5) for c in (miss, hit))
    return tuple(x.tolist()), tuple(y.tolist())


def jensen_shannon(
    calibrated: Array, labels: Array, weights: Array, unit: Rows | None = None
) -> Estimate:
    """Return the JSD in bits from calibrated (N,) probabilities of label 1; units as in `auc`."""
    # For the logarithms: calibrated on n rows, probabilities end near 1 / n before 0 and 1.
    c = np.clip(calibrated, 1e-9, 1 - 1e-9)
    value, parts = 0.0, np.empty(len(c))
    for label, terms in ((1.0, np.log2(2 * c)), (0.0, np.log2(2 * (1 - c)))):
        of = labels == label
        w, t = weights[of], terms[of]
        mean = float(w @ t / w.sum())
        value += mean / 2
        parts[of] = w * (t - mean) / w.sum() / 2
    return Estimate(value, summed_error(parts, unit))


def calibrated(scores: Array, labels: Array, weights: Array, choose: Rows, test: Rows) -> Array:
    """Map scores of the rows `test` to probabilities, by isotonic regression on those of `choose`.

    The odds are even, also where groups of unequal size make classes unequal. Rows of negative
    weight count with |w| in the other class; with u the share of a step, the probability of label 1
    is then 1/2 + (u - 1/2) sum |w| / sum w.
    """
    from sklearn.isotonic import IsotonicRegression

    regression = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
    y, signed = labels[choose], weights[choose].copy()
    for label in (0.0, 1.0):
        signed[y == label] /= signed[y == label].sum()
    weight, target = np.abs(signed), np.where(signed < 0, 1 - y, y)
    # A step that k rows of one class make at either end is no certainty: a row of the other class
    # beyond it makes it 1 / (k + 1), as far as so many rows can tell.
    score, row = scores[choose], 2 / len(y)
    regression.fit(
        np.concatenate([[score.min()], score, [score.max()]]),
        np.concatenate([[1.0], target, [0.0]]),
        sample_weight=np.concatenate([[row], weight, [row]]),
    )
    share = np.asarray(regression.predict(scores[test]), dtype=float64)
    if not (signed < 0).any():
        return share
    steps, step = np.unique(regression.predict(score), return_inverse=True)
    total, left = (np.bincount(step, w) for w in (weight, signed))
    # Where nearly all cancels, what is left is not positive, and the sign of u - 1/2 is known; rows
    # of weight 0 between two steps have none of their own.
    factor = np.divide(total, left, np.where(total > 0, 1e300, 1.0), where=left > 0)
    value = np.clip(0.5 + (steps - 0.5) * factor, 0.0, 1.0)
    return np.asarray(np.interp(share, steps, value))
