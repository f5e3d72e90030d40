"""What scores of whole samples look at: features of the truth, the floor, the generated, the rest.

A system with labelled samples (`HasLabels`) is seen through the last hidden layer of a classifier
trained on them (`physgen.validation.feature_classifier`); any other through its own features of
high level, each standardised on the truth. All are scaled by one number, so that the truth has mean
0 and a total variance of 1: a squared distance of 0.05 is 5% of the truth's variance.

Rows are those that `physgen.validation.independence` counts; all samples are cut to one number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy import float64
from numpy.typing import NDArray

from physgen.batch import Batch
from physgen.errors import InputError, NotMeasurable
from physgen.systems.base import HasLabels
from physgen.validation.classifiers import standardised
from physgen.validation.comparison import Comparison, Role
from physgen.validation.feature_classifier import N_FEATURES, N_LABELLED, Labelled, trained
from physgen.validation.independence import select

Array = NDArray[float64]
FEWEST = 20
"""Independent rows of each sample without which no score is worth its name."""


@dataclass(frozen=True)
class Embedded:
    """Samples as rows of features.

    Attributes:
        values: (n, F) by role, with the same n for all.
        unit: (n,) by role: rows that share a number are not independent.
        probabilities: (n, K) of the classes, where there are classes.
        paired: the samples that share the units of the truth, row by row.
        exchangeable: whether the labels of rows, or of the two rows of a pair, may be permuted.
        note: what the features are.

    >>> values = {"truth": np.zeros((3, 2)), "generated": np.ones((3, 2))}
    >>> unit = {"truth": np.arange(3), "generated": np.arange(3, 6)}
    >>> Embedded(values, unit, None, frozenset(), True, "").first(2).others
    {'generated': array([[1., 1.],
           [1., 1.]])}
    """

    values: Mapping[Role, Array]
    unit: Mapping[Role, NDArray[np.int64]]
    probabilities: Mapping[Role, Array] | None
    paired: frozenset[Role]
    exchangeable: bool
    note: str

    @property
    def others(self) -> dict[Role, Array]:
        """The samples to be set beside the truth."""
        return {role: values for role, values in self.values.items() if role != "truth"}

    def first(self, n: int) -> Embedded:
        """Return at most `n` rows of each sample."""
        shares = self.probabilities
        return replace(
            self,
            values={role: values[:n] for role, values in self.values.items()},
            unit={role: unit[:n] for role, unit in self.unit.items()},
            probabilities=None if shares is None else {r: p[:n] for r, p in shares.items()},
        )

    def in_classes(self, metric: str) -> Mapping[Role, Array]:
        """Return the class probabilities; `NotMeasurable` for a system without classes."""
        if self.probabilities is None:
            raise NotMeasurable(
                f"{metric} needs classes, and there are no labelled samples, or too few besides "
                "those that are compared: give more, or leave it out of validation.metrics"
            )
        return self.probabilities


def unweighted_rows(comparison: Comparison) -> int:
    """Return how many rows of each sample count at least, for scores that know no weights.

    Raises:
        InputError: there is no truth, samples carry weights, or too few are independent.
    """
    if comparison.truth is None:
        raise InputError(
            "this metric needs a sample of the truth, which this system cannot make: give a data "
            "set, or leave the metric out"
        )
    for role, measured in comparison.measured.items():
        if measured.weight is not None:
            raise InputError(
                f"the {role} sample is weighted, and scores of features know no weights: leave the "
                "metric out, or unweight the sample"
            )
    n = min(len(selected.rows) for selected in comparison.once(select).values())
    if n < FEWEST:
        raise InputError(
            f"{n} independent samples are too few for a score of features: give at least {FEWEST}"
        )
    return n


def embed(comparison: Comparison) -> Embedded:
    """Return the features of all samples that are there.

    Raises:
        InputError: there is no truth, samples carry weights, or too few are independent.
    """
    n = unweighted_rows(comparison)
    generator = np.random.default_rng(comparison.seed)
    # Not the first of a long chain, nor of a file that is sorted.
    order = {r: generator.permutation(len(s.rows))[:n] for r, s in comparison.once(select).items()}
    order |= dict.fromkeys(comparison.paired, order["truth"])
    chosen = {role: s[order[role]] for role, s in comparison.once(select).items()}
    samples = {r: b[torch.from_numpy(chosen[r].rows)] for r, b in comparison.samples.items()}
    labelled = _labelled(comparison)
    if labelled is not None:
        values, shares, note = _classified(comparison, labelled, samples)
    else:
        values, note = _standardised(comparison, samples, n)
        shares = None
    return Embedded(
        values,
        {role: selected.unit for role, selected in chosen.items()},
        shares,
        comparison.paired,
        all(selected.alone for selected in chosen.values()),
        note,
    )


def _standardised(
    comparison: Comparison, samples: Mapping[Role, Batch], n: int
) -> tuple[dict[Role, Array], str]:
    """Return the system's own features of high level, and what they are."""
    columns = [comparison.features(batch, "high") for batch in samples.values()]
    truth = list(samples).index("truth")
    scaled = standardised(np.concatenate(columns), np.arange(truth * n, (truth + 1) * n))
    parts = np.split(scaled.astype(float64), len(samples))
    values = _normalised(dict(zip(samples, parts, strict=True)))
    return values, f"{scaled.shape[1]} features of high level, {n} rows of each sample"


def _labelled(comparison: Comparison) -> Labelled | None:
    """Return labelled samples of the system apart from those compared, if there are enough."""
    if not isinstance(comparison.system, HasLabels):
        return None
    compared = [b.x for role in ("truth", "floor") if (b := comparison.batch(role)) is not None]
    try:
        return Labelled.apart_from(comparison.system.labelled(N_LABELLED), compared)
    except InputError:  # A user's images without labels, or with few.
        return None


def _classified(
    comparison: Comparison,
    labelled: Labelled,
    samples: Mapping[Role, Batch],
) -> tuple[dict[Role, Array], dict[Role, Array], str]:
    """Return the features of the classifier of labelled samples, its probabilities, and a note."""
    network = trained(labelled)
    note = (
        f"{N_FEATURES} features of a classifier that is right on {network.accuracy:.1%} of "
        f"labelled samples that it never saw, {len(samples['truth'])} rows of each sample"
    )
    values: dict[Role, Array] = {}
    probabilities: dict[Role, Array] = {}
    for role, batch in samples.items():
        x = batch.x.cpu().float()
        holes = int((~torch.isfinite(x)).flatten(1).any(1).sum())
        if holes:
            note += f"; {holes} {role} samples hold values that are not finite, taken for 0"
        features, shares = network.embed(x.nan_to_num(0.0, 0.0, 0.0))
        values[role], probabilities[role] = features.numpy(), shares.numpy()
    return _normalised(values), probabilities, note


def _normalised(values: Mapping[Role, Array]) -> dict[Role, Array]:
    """Scale so that the truth has mean 0 and a total variance of 1."""
    truth = values["truth"]
    width = float(np.sqrt(truth.var(0).sum())) or 1.0
    return {role: (array - truth.mean(0)) / width for role, array in values.items()}
