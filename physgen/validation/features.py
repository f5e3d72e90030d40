"""What scores of whole samples look at: features of the truth, the floor, the generated, the rest.

A system with labelled samples (`HasLabels`) is seen through the last hidden layer of a classifier
trained on them (`physgen.validation.recogniser`); any other through its own features of high level,
each standardised on the truth. All are scaled by one number, so that the truth has mean 0 and a
total variance of 1: a squared distance of 0.05 is 5% of the truth's variance.

Rows are independent: one of each group (candidates of one collision), and every (2 tau_int)-th of a
Markov chain, tau_int being the longest of the observables'. All samples are cut to the same number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy import float64
from numpy.typing import NDArray
from torch import Tensor

from physgen.batch import Batch
from physgen.errors import FormatError, InputError
from physgen.systems.base import HasLabels, System
from physgen.validation.comparison import Comparison, Role
from physgen.validation.judges import standardised
from physgen.validation.means import estimate
from physgen.validation.recogniser import N_FEATURES, N_LABELLED, Labelled, trained

Array = NDArray[float64]
FEWEST = 20
"""Independent rows of each sample without which no score is worth its name."""


@dataclass(frozen=True)
class Embedded:
    """Samples as rows of features.

    Attributes:
        values: (n, F) by role, with the same n for all.
        probabilities: (n, K) of the classes, where there are classes.
        exchangeable: whether labels may be permuted: no two rows are of one chain, and none was
            chosen from a group.
        note: what the features are.
    """

    values: Mapping[Role, Array]
    probabilities: Mapping[Role, Array] | None
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
            probabilities=None if shares is None else {r: p[:n] for r, p in shares.items()},
        )

    def in_classes(self, metric: str) -> Mapping[Role, Array]:
        """Return the class probabilities; `InputError` for a system without classes."""
        if self.probabilities is None:
            raise InputError(
                f"the metric {metric} needs classes, and this system has no labelled samples: "
                "leave it out"
            )
        return self.probabilities


def embed(comparison: Comparison) -> Embedded:
    """Return the features of all samples that are there.

    Raises:
        InputError: there is no truth, samples carry weights, or too few are independent.
    """
    if comparison.truth is None:
        raise InputError(
            "this metric needs a sample of the truth, which this system cannot make: give a data "
            "set, or leave the metric out"
        )
    rows = {role: _independent(comparison, role) for role in comparison.measured}
    n = min(len(chosen) for chosen in rows.values())
    if n < FEWEST:
        raise InputError(
            f"{n} independent samples are too few for a score of features: give at least {FEWEST}"
        )
    generator = np.random.default_rng(comparison.seed)
    # Not the first of a long chain, nor of a file that is sorted.
    rows = {role: generator.permutation(chosen)[:n] for role, chosen in rows.items()}
    chains = [m.chain for m in comparison.measured.values() if m.chain is not None]
    exchangeable = all(len(np.unique(chain)) == len(chain) for chain in chains)
    exchangeable = exchangeable and not comparison.groups
    samples = {r: b[torch.from_numpy(rows[r])] for r, b in comparison.samples.items()}
    labelled = _labelled(comparison.system)
    if labelled is not None:
        return _recognised(comparison, labelled, samples, exchangeable)
    columns = [comparison.features(batch, "high") for batch in samples.values()]
    truth = list(samples).index("truth")
    scaled = standardised(np.concatenate(columns), np.arange(truth * n, (truth + 1) * n))
    parts = np.split(scaled.astype(float64), len(samples))
    values = _normalised(dict(zip(samples, parts, strict=True)))
    note = f"{scaled.shape[1]} features of high level, {n} rows of each sample"
    return Embedded(values, None, exchangeable, note)


def _labelled(system: System) -> tuple[Tensor, Tensor] | None:
    """Return labelled samples of the system, if it has any."""
    if not isinstance(system, HasLabels):
        return None
    try:
        return system.labelled(N_LABELLED)
    except FormatError:  # A user's images without labels.
        return None


def _recognised(
    comparison: Comparison,
    labelled: tuple[Tensor, Tensor],
    samples: Mapping[Role, Batch],
    exchangeable: bool,
) -> Embedded:
    """Return the features of the classifier of a system with labelled samples."""
    compared = [b.x for role in ("truth", "floor") if (b := comparison.batch(role)) is not None]
    network = trained(Labelled.apart_from(labelled, compared))
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
        features, shares = network.look(x.nan_to_num(0.0, 0.0, 0.0))
        values[role], probabilities[role] = features.numpy(), shares.numpy()
    return Embedded(_normalised(values), probabilities, exchangeable, note)


def _independent(comparison: Comparison, role: Role) -> NDArray[np.int64]:
    """Return the numbers of rows that may be taken for independent."""
    measured = comparison.measured[role]
    if measured.weight is not None:
        raise InputError(
            f"the {role} sample is weighted, and scores of features know no weights: leave the "
            "metric out, or unweight the sample"
        )
    groups = comparison.groups.get(role)
    if groups is not None:
        # Any one of each: the first may be special, as leading candidates are.
        order = np.random.default_rng(comparison.seed).permutation(len(groups))
        return np.sort(order[np.unique(groups[order], return_index=True)[1]])
    n = len(next(iter(measured.values.values())))
    if measured.chain is None:
        return np.arange(n)
    taus = [estimate(comparison, measured, name).tau_int for name in measured.scalars]
    thin = max(1, round(2 * max(taus, default=0.5)))
    return np.argsort(measured.chain, kind="stable")[::thin]


def _normalised(values: Mapping[Role, Array]) -> dict[Role, Array]:
    """Scale so that the truth has mean 0 and a total variance of 1."""
    truth = values["truth"]
    width = float(np.sqrt(truth.var(0).sum())) or 1.0
    return {role: (array - truth.mean(0)) / width for role, array in values.items()}
