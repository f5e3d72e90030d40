"""Rows that are set beside others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy import float64
from numpy.typing import NDArray


@dataclass(frozen=True)
class Sample:
    """Values with their weights, and which of them hang together.

    Attributes:
        values: (N,) numbers, or (N, F) features.
        weight: (N,), of any sign; `None` is one each.
        unit: (N,) whole numbers; rows that share one are not independent, and rows of two samples
            that share one are paired. `None` is a unit each.

    >>> Sample(np.array([1.0, 2.0, 4.0]), weight=np.array([1.0, 1.0, 2.0])).weight.sum()
    np.float64(4.0)
    """

    values: NDArray[np.floating[Any]]
    weight: NDArray[float64] | None = None
    unit: NDArray[np.int64] | None = None
