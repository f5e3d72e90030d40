"""The features of the reference evaluation of a field, of the rows that count.

Those of the system (`HasReferenceFeatures`); of a system that knows none, its own of high level.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy import float64
from numpy.typing import NDArray

from physgen.batch import Batch
from physgen.systems.base import HasReferenceFeatures
from physgen.validation.comparison import Comparison, Role, in_blocks
from physgen.validation.features import unweighted_rows
from physgen.validation.independence import select
from physgen.validation.threshold import cut_in_words

Array = NDArray[float64]

Level = Literal["low", "normalised", "high", "voxels"]


@dataclass(frozen=True)
class ReferenceFeatures:
    """Features of all samples that are there.

    Attributes:
        values: (n, F) by role, each with as many rows as count.
        unit: (n,) by role; rows that share a number are not independent.
        note: what the features are.
    """

    values: Mapping[Role, Array]
    unit: Mapping[Role, NDArray[np.int64]]
    note: str


def reference_features(
    comparison: Comparison, level: Level, at_most: int | None = None
) -> ReferenceFeatures:
    """Return the features of the rows that count, at most so many of each sample.

    Raises:
        InputError: there is no truth, samples carry weights, or too few are independent.
    """
    unweighted_rows(comparison)
    values: dict[Role, Array] = {}
    unit: dict[Role, NDArray[np.int64]] = {}
    for role, selected in comparison.once(select).items():
        n = len(selected.rows)
        if at_most is not None and n > at_most:
            # The same rows of samples of one length, so that pairs stay pairs.
            order = np.random.default_rng(comparison.seed).permutation(n)
            selected = selected[np.sort(order[:at_most])]
        batch = comparison.samples[role][torch.from_numpy(selected.rows)]
        values[role] = features_of(comparison, batch, level)
        unit[role] = selected.unit
    of = "the reference's" if isinstance(comparison.system, HasReferenceFeatures) else "own"
    notes = f"{values['truth'].shape[1]} features, {of}", cut_in_words(comparison)
    return ReferenceFeatures(values, unit, "; ".join(filter(None, notes)))


def features_of(comparison: Comparison, batch: Batch, level: Level) -> Array:
    """Return (N, F) features of a batch, in float64."""
    system = comparison.system
    if not isinstance(system, HasReferenceFeatures):
        own = comparison.features(batch, "high" if level == "high" else "low")
        return own.astype(float64)
    with torch.no_grad():
        parts = [system.reference_features(part, level).cpu() for part in in_blocks(batch)]
    return np.asarray(torch.cat(parts).double().numpy())
