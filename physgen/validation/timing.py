"""Milliseconds a sample at several batch sizes: the protocol of CaloChallenge (arXiv:2410.21611).

They are wall time on one thread, or on a GPU, of samples as the surrogate draws them. What else the
machine has to do is in them.
"""

from __future__ import annotations

from dataclasses import dataclass

from physgen.errors import NotMeasurable, RecipeError
from physgen.validation.comparison import Comparison
from physgen.validation.scorecard import Row


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Mean and spread of the time for a sample over repeats.

    Attributes:
        batches: how many samples are drawn at once.
        repeats: how often at most; slow ones are drawn less often, and once have no spread.

    >>> import numpy as np, torch
    >>> from physgen.batch import Batch
    >>> from physgen.systems.scalar import Phi4
    >>> taken = {1: np.array([2.0, 4.0])}
    >>> samples = Comparison(Phi4(shape=(4,)), Batch(torch.zeros(2, 4)), timing=taken)
    >>> [(row.name, row.value) for row in Timing().rows(samples)]
    [('ms a sample, batch 1', 3.0)]
    """

    batches: tuple[int, ...] = (1, 100, 10_000)
    repeats: int = 10

    def __post_init__(self) -> None:
        """Refuse what cannot be timed."""
        if min(self.batches, default=0) < 1 or self.repeats < 2:
            raise RecipeError("timing: batches must be 1 or more, and repeats at least 2")

    def rows(self, comparison: Comparison) -> list[Row]:
        """Return a row a batch size, its error the spread of the repeats.

        Raises:
            NotMeasurable: there is no surrogate, samples are those of a file.
        """
        if not comparison.timing:
            raise NotMeasurable("timing needs a surrogate to draw samples: leave it out of files")
        return [
            Row(
                name=f"ms a sample, batch {size}",
                metric="timing",
                value=float(taken.mean()),
                error=float(taken.std(ddof=1)) if len(taken) > 1 else None,
                unit="ms",
                note=f"{_what(len(taken))} on {comparison.timed_on}",
            )
            for size, taken in comparison.timing.items()
        ]


def _what(n: int) -> str:
    return "one draw" if n == 1 else f"mean and spread of {n} repeats"
