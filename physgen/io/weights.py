r"""Event weights of the rows of a stream decide how often each of them comes.

On a line of length N, the number of rows, row i is an interval of length N |w_i| / \sum |w|, and an
epoch is the rows at u, u + 1, ..., u + N - 1 with u uniform in [0, 1): systematic sampling (Madow,
Ann. Math. Stat. 20 (1949) 333). A row comes as often as its interval is long, rounded up or down,
and what is learned from batches, of whatever size, is weighted without knowing of weights.

Where some weights are negative, rows carry the sign of theirs, times \sum |w| / \sum w: these
weights have mean one over an epoch, and their weighted means are those of w.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy import float64
from numpy.typing import NDArray
from torch import Tensor

from physgen.batch import Batch
from physgen.errors import InputError


@dataclass(frozen=True)
class WeightSums:
    """What the weights of rows add up to, in double precision.

    Attributes:
        rows: how many there are.
        blocks: (n_blocks,), the sum of |w| of the rows in each block of the source.
        total: the sum of w.
        squares: the sum of w^2.

    >>> w = np.array([1.0, 1.0, 2.0, -0.5])
    >>> sums = WeightSums(4, np.abs(w), float(w.sum()), float(np.square(w).sum()))
    >>> sums.effective, round(sums.negative_share, 3)
    (1.96, 0.111)
    """

    rows: int
    blocks: NDArray[float64]
    total: float
    squares: float

    @property
    def absolute(self) -> float:
        """The sum of |w|."""
        return float(self.blocks.sum())

    @property
    def negative_share(self) -> float:
        """The share of the negative weights in the sum of |w|."""
        share = 0.5 * (1 - self.total / self.absolute)
        return share if share > 1e-12 else 0.0

    @property
    def effective(self) -> float:
        """How many events of equal weight would have the same relative error of their sum."""
        return self.total**2 / self.squares

    def check(self, name: str) -> None:
        """Raise `InputError` unless the weights, those of `name`, are finite and sum to a yield."""
        if not np.isfinite(self.total) or not np.isfinite(self.squares):
            raise InputError(
                f"{name}: the weights of its rows (data.weight) are not all finite numbers; mend "
                "the column, or leave data.weight out"
            )
        if self.total <= 0:
            raise InputError(
                f"{name}: the weights of {self.rows} rows (data.weight) sum to {self.total:g}, and "
                "a distribution needs a sum above zero; see whether the column is the right one, "
                "or take more rows (data.split)"
            )


def sampled(weight: NDArray[float64], start: float, n: int, per_weight: float) -> NDArray[np.int64]:
    """Return the (n,) rows at `start`, `start` + 1, ... of a line.

    Args:
        weight: (rows,) of which each is an interval of length |w| `per_weight`, from 0 on.
        start: of the points, at least 0.
        n: how many points.
        per_weight: length of the line per unit of weight.
    """
    ends = np.cumsum(np.abs(weight)) * per_weight
    rows = np.searchsorted(ends, start + np.arange(n), side="right")
    # The sums over blocks and over rows round differently: the last point may lie beyond the line.
    last = int(np.flatnonzero(weight)[-1]) if n else 0
    result: NDArray[np.int64] = np.minimum(rows, last)
    return result


def positive_weight(batch: Batch) -> Tensor:
    """Return (B,) float64, what each row counts for in statistics of a batch.

    That is its event weight, and 0 if this is negative; 1 where there are no weights.
    """
    if batch.weight is None:
        return torch.ones(len(batch), dtype=torch.float64, device=batch.x.device)
    return batch.weight.double().clamp_min(0)


def moments(x: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return weighted mean and variance, each (...), of (B, ...) numbers of the rows of a batch.

    Those of a constant are exact.
    """
    counts, rest = positive_weight(batch).to(x), x - x[0]
    mean = torch.tensordot(counts, rest, 1) / counts.sum()
    return x[0] + mean, torch.tensordot(counts, (rest - mean).square(), 1) / counts.sum()
