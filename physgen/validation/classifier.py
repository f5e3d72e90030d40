"""Classifier two-sample test: can a classifier that was trained for it tell generated from true?

A classifier is trained on one part of both samples, its best epoch chosen on a second, and its AUC
(see `physgen.validation.auc`) measured on a third that it never saw. Rows that are not independent
(a stretch of a Markov chain, candidates of one collision, a pair drawn at one condition) train,
choose or test as a whole: a classifier that learned one of them by heart would recognise the
others. A weak or small classifier sees less: each AUC names its classifier and the training size,
and stands beside its floor, the AUC of the same classifier between two samples of truth. A
classifier calibrated by isotonic regression on the second part, to which it was not fitted, also
gives the Jensen-Shannon divergence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy import float64
from numpy.typing import NDArray

from physgen.batch import Batch
from physgen.errors import InputError, NotMeasurable, RecipeError
from physgen.isolation import global_generators
from physgen.validation.classifier_inputs import Inputs, Stacked, grid_of
from physgen.validation.classifier_networks import EPOCHS, Cylinder, as_reference
from physgen.validation.classifier_score import ClassifierScore, Fold, Pooled
from physgen.validation.classifiers import Task, boosted, most_rows, neural
from physgen.validation.comparison import Comparison, Floats, Role
from physgen.validation.estimates import pull
from physgen.validation.independence import partition
from physgen.validation.reference import features_of
from physgen.validation.sample import Sample
from physgen.validation.scorecard import Row, Verdict, row_by_role, verdict_within
from physgen.validation.tails import rows_of
from physgen.validation.threshold import cut_in_words

Array = NDArray[float64]
Rows = NDArray[np.int64]

FAST_EPOCHS = 12

_FACTOR = 1e5
"""Of the share of the energy in a voxel, which the convolutional classifier sees as log10(1 + x):
below the thresholds of readouts."""

_ROUNDED = "the AUC of rounded scores, which the HGCal challenge calls AUC"
_STEPS = "after isotonic regression, whose steps are ties; the reference evaluation prints it last"

FEWEST_TESTED = 200
"""Rows of each class that a verdict needs: fewer train no classifier, and leave an error of 3%."""


@dataclass(frozen=True, kw_only=True)
class ClassifierTest:
    """AUC of a classifier, its truth-against-truth floor, and the baseline's.

    Of each sample 3/5 train, 1/5 choose the epoch and calibrate, and 1/5 test; at most `n_train`
    rows train.

    Attributes:
        model: "neural", an MLP of 3 x 256 (LeakyReLU, Adam, standardised inputs); "boosted",
            gradient-boosted trees, which see atoms and thresholds that networks smooth over; or
            "convolutional", on the voxels of showers in cylindrical coordinates.
        settings: "fast"; or "reference", networks and features of the reference evaluation of the
            field, see `physgen.validation.classifier_networks`.
        level: which features (`HasFeatures`); "normalised" ones only the reference has. The
            convolutional classifier takes those of low level.
        conditions: whether they hold the conditions. Of events that are made from others, paired
            with them, these are the others: without, the samples are compared as they are.
        n_train: at most so many training rows of each class.
        epochs: of a network; 12 by default, 50 as in the reference.
        folds: from 3 on, cross-validation: every row is tested once, by one that never saw it.
        calibrate: also report the balanced accuracy, which the HGCal challenge calls AUC, and of
            the calibrated classifier the AUC, which the reference evaluation prints last, and the
            Jensen-Shannon divergence.
        maximum: limit on AUC + 2 sigma; fewer than `FEWEST_TESTED` rows of each class in the test
            allow no verdict.

    >>> truth, shifted = np.random.default_rng(0).normal([[[0.0]], [[1.0]]], size=(2, 400, 1))
    >>> score = ClassifierTest(model="boosted").test(Sample(truth), Sample(shifted), seed=1)
    >>> score.auc.value - 2 * score.auc.error > 0.5
    True
    """

    model: Literal["neural", "boosted", "convolutional"] = "neural"
    settings: Literal["fast", "reference"] = "fast"
    level: Literal["low", "normalised", "high"] = "low"
    conditions: bool = True
    n_train: int = 20000
    epochs: int | None = None
    folds: int = 1
    calibrate: bool = False
    maximum: float | None = None

    def __post_init__(self) -> None:
        """Refuse two folds: one trains, one chooses the epoch, one tests; and what is not there."""
        if self.folds < 1 or self.folds == 2:
            raise RecipeError(f"folds is {self.folds}: give 1 (no cross-validation), or at least 3")
        if self.settings == "reference" and self.model == "boosted":
            raise RecipeError("settings: the reference evaluation has no boosted trees")
        if self.settings == "fast" and self.level == "normalised":
            raise RecipeError("level: normalised features need settings: reference")
        if self.model == "convolutional" and self.level != "low":
            raise RecipeError("level: the convolutional classifier looks at voxels, level: low")

    def rows(self, comparison: Comparison) -> list[Row]:
        """Return the AUC, the JSD if asked for, and the tails of the weights p / (1 - p).

        Raises:
            InputError: there is no truth, or too little of it to train a classifier.
        """
        scores = self.scores(comparison)
        ours = scores["generated"]
        name = f"{self.model} classifier, {self.level} level"
        name += ", reference settings" if self.settings == "reference" else ""
        name += "" if self.conditions else ", without conditions"
        note = f"trained on {ours.n_train} + {ours.n_train} rows, tested on {ours.n_test}"
        if self.folds > 1:
            note += f", {self.folds}-fold"
        cut = cut_in_words(comparison) if self.settings == "reference" else ""
        note += (also := f"; {cut}" if cut else "")
        if ours.not_finite:
            note += f"; {ours.not_finite} values not finite, shown to the classifier as such"
        rows = [
            row_by_role(
                f"AUC, {name}",
                "classifier",
                _each(scores, "auc"),
                tolerance=self.maximum,
                p_value=self._p_value(comparison, ours),
                verdict=self._verdict(ours, scores.get("floor")),
                note=note,
                curves={f"ROC {role}": score.roc for role, score in scores.items()},
            )
        ]
        if self.calibrate:
            parts = [
                ("balanced accuracy", "balanced_accuracy", "1", _ROUNDED + also),
                ("JSD", "jsd", "bit", note),
            ]
            if self.settings == "reference":
                parts.append(("AUC of calibrated scores", "calibrated_auc", "1", _STEPS + also))
            rows += [
                row_by_role(
                    f"{of}, {name}", "classifier", _each(scores, part), unit=unit, note=said
                )
                for of, part, unit, said in parts
            ]
        return rows + rows_of(_each(scores, "tails"), name, also)

    def scores(self, comparison: Comparison) -> dict[Role, ClassifierScore]:
        """Return what a classifier finds between the truth and each of the other samples.

        Raises:
            InputError: there is no truth, or too little of it to train a classifier.
        """
        if comparison.truth is None:
            raise InputError(
                "a classifier test needs a sample of the truth, which this system cannot make: "
                "give a data set, or leave the metric out"
            )
        grid = grid_of(comparison.system) if self.model == "convolutional" else None
        if grid is not None and self.settings == "reference" and len(np.unique(grid)) < grid.size:
            raise NotMeasurable(
                "the convolutional classifier of the reference needs layers that are all alike: "
                "take settings: fast"
            )
        truth = self._features(comparison, "truth")
        return {
            role: self._score(
                truth,
                self._features(comparison, role),
                paired=role in comparison.paired,
                seed=comparison.seed,
                grid=grid,
            )
            for role in comparison.samples
            if role != "truth"
        }

    def _features(self, comparison: Comparison, role: Role) -> Inputs:
        def take(batch: Batch) -> Floats:
            batch = batch if self.conditions else batch.replace(condition=None)
            if self.settings == "reference":
                return features_of(comparison, batch, self.level)
            level: Literal["low", "high"] = "high" if self.level == "high" else "low"
            values = comparison.features(batch, level)
            if self.model == "convolutional":
                return np.asarray(np.log10(1 + np.maximum(_FACTOR * values, 0.0)))
            return values

        return Inputs.of(comparison, role, take)

    def _trained(self, task: Task, seed: int, grid: NDArray[np.int64] | None) -> Array:
        """Return the scores of rows that did not train."""
        if self.model == "boosted":
            return boosted(task, seed)
        if self.settings == "reference":
            shape = None if grid is None else grid.shape
            return as_reference(task, seed, shape, self.epochs or EPOCHS)
        if grid is None:
            return neural(task, seed, self.epochs or FAST_EPOCHS)

        first = task.features(task.train[:1]).shape[1] - int(grid.max()) - 1

        def build(n_inputs: int, generator: torch.Generator) -> torch.nn.Module:
            with global_generators(generator.initial_seed()):
                return Cylinder(grid, first, n_inputs)

        return neural(task, seed, self.epochs or FAST_EPOCHS, build=build)

    def _verdict(self, score: ClassifierScore, floor: ClassifierScore | None) -> Verdict:
        if self.maximum is None or score.n_test < FEWEST_TESTED:
            return "info"
        # An AUC far below one half tells the samples apart just as well.
        off, perfect = (0.0 if s is None else abs(s.auc.value - 0.5) for s in (score, floor))
        return verdict_within(off, score.auc.error, self.maximum - 0.5, perfect)

    def _p_value(self, comparison: Comparison, score: ClassifierScore) -> float | None:
        """Return that of AUC = 1/2; not where each row is tested by what the others trained."""
        if self.folds > 1 or any(m.chain is not None for m in comparison.measured.values()):
            return None
        # Of identical samples, both are rounding.
        return pull(round(score.auc.value - 0.5, 12), score.chance)[1]

    def test(
        self, truth: Sample, generated: Sample, *, paired: bool = False, seed: int
    ) -> ClassifierScore:
        """Train and test on (N, F) and (M, F) features; equal numbers of rows of both are used.

        Args:
            truth, generated: rows of one unit are never apart.
            paired: whether rows i of both are never apart either.
            seed: of the choice of rows, and of the training.
        """
        features = map(Inputs.given, (truth, generated))
        return self._score(*features, paired=paired, seed=seed)

    def _score(
        self,
        truth: Inputs,
        generated: Inputs,
        *,
        paired: bool,
        seed: int,
        grid: NDArray[np.int64] | None = None,
    ) -> ClassifierScore:
        n = min(truth.n, generated.n, math.ceil(self.n_train * 5 / 3))
        if n < 20:
            raise InputError(f"{n} rows of each class are too few to train and test a classifier")
        generator = np.random.default_rng(seed)
        n_parts = self.folds if self.folds > 1 else 5
        chosen: list[Rows] = []
        weights: list[Array] = []
        identity: list[Rows] = []
        parts: list[Rows] = []
        for sample in (truth, generated):
            if not paired or not chosen:
                rows = generator.permutation(sample.n)[:n]
                # Numbers of the units from 0; each row is its own where there are none.
                own = np.arange(n) if sample.unit is None else sample.unit[rows]
                keys = np.unique(own, return_inverse=True)[1]
                part = partition(keys, n_parts, generator)
            w = np.ones(n) if sample.weight is None else sample.weight[rows]
            chosen.append(rows)
            weights.append(w / w.mean())
            identity.append(keys if paired or not identity else keys + identity[0].max() + 1)
            parts.append(part)
        features = Stacked((truth, generated), chosen)
        w = np.concatenate(weights)
        keys, part = np.concatenate(identity), np.concatenate(parts)
        y = np.repeat([1.0, 0.0], n)
        folds: list[Fold] = []
        n_train = 0
        for fold in range(self.folds):
            test = np.flatnonzero(part == fold)
            choose = np.flatnonzero(part == (fold + 1) % n_parts)
            train = np.flatnonzero((part != fold) & (part != (fold + 1) % n_parts))
            n_train = len(train) // 2
            task = Task(features, y, w, train, choose)
            if self.model == "boosted":
                n_train = min(n_train, most_rows(features.width) // 2)
            scores = self._trained(task, seed + fold, grid)
            if not np.isfinite(scores[test]).all():
                raise InputError("the classifier's scores are not finite: it learned nothing")
            folds.append(Fold(scores, choose, test))
        not_finite = int(features.holes.sum())
        pooled = Pooled(y, w, keys, np.concatenate(chosen))
        return ClassifierScore.of(folds, pooled, n_train=n_train, not_finite=not_finite, seed=seed)


def _each(scores: Mapping[Role, ClassifierScore], part: str) -> dict[Role, Any]:
    return {role: getattr(score, part) for role, score in scores.items()}
