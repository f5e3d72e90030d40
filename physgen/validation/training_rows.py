"""The rows that a generator was trained on, read a part at a time when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from physgen.batch import Batch


@dataclass(frozen=True)
class TrainingRows:
    """Rows that were trained on.

    Attributes:
        parts: reads them in order.
        n: how many there are.
    """

    parts: Callable[[], Iterable[Batch]]
    n: int
