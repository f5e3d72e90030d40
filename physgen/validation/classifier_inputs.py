"""What classifiers look at: features of the rows of two samples, computed when asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy import float64
from numpy.typing import NDArray

from physgen.batch import Batch
from physgen.errors import NotMeasurable
from physgen.systems.base import HasVoxelGrid, System
from physgen.validation.comparison import CELLS, Comparison, Floats, Role
from physgen.validation.independence import select
from physgen.validation.sample import Sample

Array = NDArray[float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Inputs:
    """Features of one of the two samples, computed when asked for.

    Attributes:
        n: how many rows count.
        take: returns the (k, F) features of some of them.
        weight: (n,).
        unit: (n,), rows that share a number are not apart.
    """

    n: int
    take: Callable[[Rows], Floats]
    weight: Array | None
    unit: Rows | None

    @classmethod
    def given(cls, sample: Sample) -> Inputs:
        """Those of an array."""
        return cls(len(sample.values), sample.values.__getitem__, sample.weight, sample.unit)

    @classmethod
    def of(cls, comparison: Comparison, role: Role, of: Callable[[Batch], Floats]) -> Inputs:
        """Features are computed where they are needed: of showers they fill the memory."""
        selected, batch = comparison.once(select)[role], comparison.samples[role]
        weight = comparison.measured[role].weight

        def take(rows: Rows) -> Floats:
            return of(batch[torch.from_numpy(selected.rows[rows])])

        return cls(
            len(selected.rows),
            take,
            None if weight is None else weight[selected.rows],
            selected.unit,
        )


class Stacked:
    """Features of chosen rows of both samples, one below the other, computed when asked for.

    Attributes:
        width: how many columns there are.
        holes: (N,), how many values of a row are not finite; 0 of what nobody asked for.
    """

    def __init__(self, samples: tuple[Inputs, Inputs], chosen: list[Rows]) -> None:
        self._samples, self._chosen = samples, chosen
        self._dtype, self.width = (first := samples[0].take(chosen[0][:1])).dtype, first.shape[1]
        self.holes = np.zeros(sum(map(len, chosen)), dtype=np.int64)

    def __call__(self, rows: Rows) -> Floats:
        """Return (k, F) features of rows 0 to N - 1."""
        x = np.empty((len(rows), self.width), self._dtype)
        first = len(self._chosen[0])
        step = max(1, CELLS // self.width)
        for number, sample in enumerate(self._samples):
            wanted = np.flatnonzero((rows >= first) == number)
            for start in range(0, len(wanted), step):
                at = wanted[start : start + step]
                x[at] = sample.take(self._chosen[number][rows[at] - number * first])
                self.holes[rows[at]] = (~np.isfinite(x[at])).sum(1)
        return x


def grid_of(system: System) -> NDArray[np.int64]:
    """Return (layers, sectors, rings) numbers of voxels; `NotMeasurable` where there are none."""
    if not isinstance(system, HasVoxelGrid):
        raise NotMeasurable(
            "the convolutional classifier is for showers in voxels around an axis: leave it out"
        )
    return system.voxel_grid
