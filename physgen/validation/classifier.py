"""Classifier two-sample test: can a judge that was trained for it tell generated from true?

A judge s(x) is trained on one part of both samples, its best epoch chosen on a second, and its AUC
measured on a third that it never saw,

    AUC = sum_ij w_i v_j [s(x_i) > s(y_j)] / (sum w sum v)          (ties count one half)

0.5 if the samples cannot be told apart. Its error is that of DeLong, DeLong & Clarke-Pearson (1988)
with weights. A weak or small judge sees less: each AUC names its judge and the training size, and
stands beside its floor, the AUC of the same judge between two samples of truth. From a judge
calibrated by isotonic regression, c(x) = p(true | x), follows the Jensen-Shannon divergence

    JSD = 1/2 E_true log2(2 c) + 1/2 E_generated log2(2 (1 - c))    in [0, 1] bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from physgen.errors import InputError, RecipeError
from physgen.validation.comparison import Comparison
from physgen.validation.judges import boosted, neural
from physgen.validation.scorecard import Curve, Row
from physgen.validation.uncertainty import Estimate

Array = NDArray[float64]


@dataclass(frozen=True, kw_only=True)
class ClassifierTest:
    """AUC of a judge, its truth-against-truth floor, and the baseline's.

    Of each sample 3/5 train, 1/5 choose the epoch and 1/5 test, at most `n_train` rows training.

    Attributes:
        judge: "neural", an MLP of 3 x 256 (LeakyReLU, Adam, standardised inputs); or "boosted",
            gradient-boosted trees, which see atoms and thresholds that networks smooth over.
        level: which features (`HasFeatures`).
        n_train: at most so many training rows of each class.
        epochs: of the neural judge.
        folds: from 3 on, cross-validation: every row is tested once, by a judge that never saw it.
        calibrate: also report the Jensen-Shannon divergence of the calibrated judge.
        maximum: fail above this AUC.
    """

    judge: Literal["neural", "boosted"] = "neural"
    level: Literal["low", "high"] = "low"
    n_train: int = 20000
    epochs: int = 12
    folds: int = 1
    calibrate: bool = False
    maximum: float | None = None

    def __post_init__(self) -> None:
        """Refuse two folds: one trains, one chooses the epoch, one tests."""
        if self.folds < 1 or self.folds == 2:
            raise RecipeError(f"folds is {self.folds}: give 1 (no cross-validation), or at least 3")

    def rows(self, comparison: Comparison) -> list[Row]:
        """Return the AUC, and the JSD if asked for.

        Raises:
            InputError: there is no truth, or too little of it to train a judge.
        """
        if comparison.truth is None:
            raise InputError(
                "a classifier test needs a sample of the truth, which this system cannot make: "
                "give a data set, or leave the metric out"
            )
        truth = comparison.features(comparison.truth, self.level)
        weight = comparison.measured["truth"].weight
        found = {}
        for role, measured in comparison.measured.items():
            batch = comparison.batch(role)
            if role != "truth" and batch is not None:
                other = comparison.features(batch, self.level)
                found[role] = self.test(truth, other, weight, measured.weight, seed=comparison.seed)
        ours, floor, baseline = found["generated"], found.get("floor"), found.get("baseline")
        name = f"{self.judge} judge, {self.level} level"
        note = f"trained on {ours.n_train} + {ours.n_train} rows, tested on {ours.n_test}"
        if self.folds > 1:
            note += f", {self.folds}-fold"
        if ours.not_finite:
            note += f"; {ours.not_finite} values not finite, shown to the judge as such"
        auc = Row(
            name=f"AUC, {name}",
            metric="classifier",
            value=ours.auc.value,
            error=ours.auc.error,
            floor=None if floor is None else floor.auc.value,
            floor_error=None if floor is None else floor.auc.error,
            baseline=None if baseline is None else baseline.auc.value,
            tolerance=self.maximum,
            verdict=self._verdict(ours.auc.value),
            note=note,
            curves={f"ROC {role}": result.roc for role, result in found.items()},
        )
        if not self.calibrate:
            return [auc]
        jsd = Row(
            name=f"JSD, {name}",
            metric="classifier",
            value=ours.jsd.value,
            error=ours.jsd.error,
            floor=None if floor is None else floor.jsd.value,
            floor_error=None if floor is None else floor.jsd.error,
            baseline=None if baseline is None else baseline.jsd.value,
            unit="bit",
            note=note,
        )
        return [auc, jsd]

    def _verdict(self, auc: float) -> Literal["pass", "fail", "info"]:
        if self.maximum is None:
            return "info"
        # An AUC far below one half tells the samples apart just as well.
        return "pass" if max(auc, 1 - auc) <= self.maximum else "fail"

    def test(
        self,
        truth: Array,
        generated: Array,
        weight_truth: Array | None = None,
        weight_generated: Array | None = None,
        *,
        seed: int,
    ) -> Judgement:
        """Train and test on (N, F) and (M, F) features; equal numbers of rows of both are used."""
        n = min(len(truth), len(generated), math.ceil(self.n_train * 5 / 3))
        if n < 20:
            raise InputError(f"{n} rows of each class are too few to train and test a judge")
        generator = np.random.default_rng(seed)
        parts = []
        for values, weight in ((truth, weight_truth), (generated, weight_generated)):
            rows = generator.permutation(len(values))[:n]
            w = np.ones(n) if weight is None else weight[rows]
            parts.append((values[rows], w / w.mean()))
        # Rows 2 i and 2 i + 1 are one of each class, so that slices are balanced.
        x = np.stack([parts[0][0], parts[1][0]], 1).reshape(2 * n, -1)
        w = np.stack([parts[0][1], parts[1][1]], 1).reshape(-1)
        y = np.tile([1.0, 0.0], n)
        bad = int((~np.isfinite(x)).sum())
        tested, n_train = [], 0
        for fold in range(self.folds):
            train, choose, test = _split(n, fold, self.folds if self.folds > 1 else 5)
            n_train = len(train) // 2
            scores = self._scores(x, y, w, train, choose, seed + fold)
            tested.append(
                (scores[test], y[test], w[test], *_calibrated(scores, y, w, choose, test))
            )
        columns = [np.concatenate(column) for column in zip(*tested, strict=True)]
        scores, labels, weights, calibrated = columns
        return Judgement(
            auc=auc(scores, labels, weights),
            jsd=jensen_shannon(calibrated, labels, weights),
            roc=roc(scores, labels, weights),
            n_train=n_train,
            n_test=len(scores) // 2,
            not_finite=bad,
        )

    def _scores(
        self,
        x: Array,
        y: Array,
        w: Array,
        train: NDArray[np.int64],
        choose: NDArray[np.int64],
        seed: int,
    ) -> Array:
        if self.judge == "boosted":
            return boosted(x, y, w, train, choose, seed)
        return neural(x, y, w, train, choose, seed, self.epochs)


@dataclass(frozen=True)
class Judgement:
    """What one judge found between two samples.

    Attributes:
        auc, jsd: with errors; the JSD in bits.
        roc: (false positive rate, true positive rate).
        n_train, n_test: rows of each class that trained, and that were tested.
        not_finite: how many feature values were NaN or infinite.
    """

    auc: Estimate
    jsd: Estimate
    roc: Curve
    n_train: int
    n_test: int
    not_finite: int


def auc(scores: Array, labels: Array, weights: Array) -> Estimate:
    """Return the weighted AUC of (N,) scores for labels 1 against 0, with DeLong's error."""
    sides = [(scores[labels == k], weights[labels == k]) for k in (1.0, 0.0)]
    (positive, w), (negative, v) = sides
    above = _share_below(positive, negative, v)  # of the negatives, below each positive
    below = 1 - _share_below(negative, positive, w)
    value = float(w @ above / w.sum())
    variance = float((w**2) @ (above - value) ** 2) / float(w.sum()) ** 2
    variance += float((v**2) @ (below - value) ** 2) / float(v.sum()) ** 2
    return Estimate(value, math.sqrt(variance))


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


def jensen_shannon(calibrated: Array, labels: Array, weights: Array) -> Estimate:
    """Return the JSD in bits from calibrated (N,) probabilities of label 1."""
    # The outermost steps of an isotonic fit rest on few samples: no certainty beyond 1%.
    c = np.clip(calibrated, 0.01, 0.99)
    value, variance = 0.0, 0.0
    for label, terms in ((1.0, np.log2(2 * c)), (0.0, np.log2(2 * (1 - c)))):
        of = labels == label
        w, t = weights[of], terms[of]
        mean = float(w @ t / w.sum())
        value += mean / 2
        variance += float((w**2) @ (t - mean) ** 2) / float(w.sum()) ** 2 / 4
    return Estimate(value, math.sqrt(variance))


def _split(
    n: int, fold: int, n_folds: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return rows that train, choose the epoch, and test: one part of `n_folds` each for the last.

    Pairs of rows (one of each class) stay together.
    """
    parts = np.array_split((2 * np.arange(n)[:, None] + np.arange(2)), n_folds)
    test, choose, *train = parts[fold:] + parts[:fold]
    return np.concatenate(train).ravel(), choose.ravel(), test.ravel()


def _calibrated(
    scores: Array, y: Array, w: Array, choose: NDArray[np.int64], test: NDArray[np.int64]
) -> tuple[Array]:
    """Map test scores to probabilities by isotonic regression on the rows that chose the epoch."""
    from sklearn.isotonic import IsotonicRegression

    regression = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
    regression.fit(scores[choose], y[choose], sample_weight=np.abs(w[choose]))
    return (np.asarray(regression.predict(scores[test]), dtype=float64),)
