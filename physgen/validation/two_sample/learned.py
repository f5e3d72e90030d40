"""Boosted trees that learn to tell the samples apart, tested on rows that they never saw.

What is tested of their score, by the means of fixed functions of it: ranks (the area under the ROC
curve), the score itself, and the ends at which rows of one sample gather
(1% each, more where p-values are asymptotic).
"""

from __future__ import annotations

import numpy as np
from numpy import float64
from numpy.typing import NDArray
from scipy.stats import rankdata

from physgen.validation.classifiers import Task, boosted
from physgen.validation.independence import partition
from physgen.validation.permutation import Relabelling
from physgen.validation.two_sample.pool import Family, Pool

Array = NDArray[float64]

PARTS = 4
"""Of four parts of the rows one trains, one decides when to stop, and two are tested."""

FEWEST = 200
"""Rows of each sample in the test without which there is none."""

END = 0.01
_CLIP = 6.0


def of_classifier(pool: Pool) -> tuple[Family, Relabelling] | None:
    """Return statistics of the score of held-out rows, and how these are relabelled.

    What the classifier sees are the standardised columns. Of few rows there are none.
    """
    if pool.units.max() < PARTS * FEWEST:
        return None
    part = partition(pool.units, PARTS, np.random.default_rng([pool.seed, 5]))
    tested = np.flatnonzero(part > 1)
    if min(pool.labels[tested].sum(), (~pool.labels[tested]).sum()) < FEWEST:
        return None
    task = Task(
        pool.standardised.rows.__getitem__,
        pool.labels.astype(float64),
        pool.weights,
        np.flatnonzero(part == 0),
        np.flatnonzero(part == 1),
    )
    score = boosted(task, pool.seed)[tested]
    end = max(END, PARTS / 2 * pool.least_share)  # Half of the rows are tested.
    low, high = np.quantile(score, [min(end, 0.5), max(1 - end, 0.5)])
    features = [
        rankdata(score) / len(score),
        np.clip(score, -_CLIP, _CLIP),
        (score <= low).astype(float64),
        (score >= high).astype(float64),
    ]
    relabelling = pool.relabelling_of(tested)
    if not relabelling.usable:
        return None

    def causes(truth: Array, generated: Array) -> list[str]:
        auc = 0.5 + truth[0] - generated[0]
        ends = [
            f"{generated[k]:.2%} of the generated rows, {truth[k]:.2%} of the true among the "
            f"{end:.3g} of all that a classifier takes for {name} with most reason"
            for k, name in ((2, "generated"), (3, "true"))
        ]
        return [f"a classifier, of AUC {auc:.3f}"] * 2 + ends

    family = Family(
        (
            "classifier, ranks",
            "classifier, score",
            "classifier, lower end",
            "classifier, upper end",
        ),
        relabelling.sums(
            np.stack([f - f.mean() if k < 2 else f for k, f in enumerate(features)], 1)
        ),
        np.square,
        causes,
    )
    return family, relabelling
