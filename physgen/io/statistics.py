"""What a column of numbers holds: range, zeros, values that are no numbers; in one pass."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

BYTES_READ = 2**28
"""So much of an array is read; of what is larger, evenly spaced blocks."""
FEW = 8
"""So many different values are listed."""


@dataclass
class Statistics:
    """Accumulates over blocks.

    Attributes:
        count: values seen.
        low, high: of the finite ones.
        nan, inf, zeros, negative: how many are what they say.
        distinct: the different values as long as there are few, else `None`.
        first_bad_row: row of the first NaN or infinity.

    >>> statistics = Statistics()
    >>> statistics.update(np.array([0.0, 2.5, np.nan]))
    >>> statistics.to_dict()
    {'low': 0.0, 'high': 2.5, 'nan': 1, 'zeros': 0.3333, 'values': [0.0, 2.5]}
    """

    count: int = 0
    low: float = np.inf
    high: float = -np.inf
    nan: int = 0
    inf: int = 0
    zeros: int = 0
    negative: int = 0
    distinct: set[float] | None = field(default_factory=set)
    first_bad_row: int | None = None

    def update(self, values: NDArray[Any], start: int = 0) -> None:
        """Add (rows, ...) values that begin at row `start`."""
        self.count += values.size
        if values.size == 0:
            return
        finite = values
        if values.dtype.kind == "f":
            good = np.isfinite(values)
            finite = values[good]
            if finite.size < values.size:
                nan = int(np.isnan(values).sum())
                self.nan, self.inf = self.nan + nan, self.inf + values.size - finite.size - nan
                if self.first_bad_row is None:
                    rows = good.reshape(len(values), -1).all(1)
                    self.first_bad_row = start + int((~rows).argmax())
        if finite.size == 0:
            return
        self.low, self.high = min(self.low, finite.min()), max(self.high, finite.max())
        self.zeros += int(finite.size - np.count_nonzero(finite))
        if finite.dtype.kind in "if":
            self.negative += int((finite < 0).sum())
        if self.distinct is not None:
            self.distinct |= set(np.unique(finite.ravel()[:4096]).tolist())
            if len(self.distinct) <= FEW:
                self.distinct |= set(np.unique(finite).tolist())
            if len(self.distinct) > FEW:
                self.distinct = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; what is absent (NaN, zeros) is left out."""
        result: dict[str, Any] = {}
        if self.low <= self.high:
            low, high = _plain(self.low), _plain(self.high)
            if low == high and self.low < self.high:  # Times of a few seconds since 1970.
                low, high = np.asarray(self.low).item(), np.asarray(self.high).item()
            result |= {"low": low, "high": high}
        result |= {
            name: count
            for name in ("nan", "inf", "negative")
            if (count := getattr(self, name)) and (name != "negative" or self.low < 0 < self.high)
        }
        if self.zeros:
            result["zeros"] = round(self.zeros / self.count, 4)
        if self.distinct:
            result["values"] = sorted(self.distinct)
        return result


class Rows(Protocol):
    """An array, or what is read like one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the numbers."""
        ...

    def __getitem__(self, rows: slice) -> NDArray[Any]: ...


def describe_array(where: str, array: Rows) -> tuple[dict[str, Any], str | None]:
    """Return shape, type and statistics of an array, and its first problem.

    Raises:
        FormatError: rows cannot be read.
    """
    entry: dict[str, Any] = {"shape": list(array.shape), "dtype": str(array.dtype)}
    if array.dtype.kind not in "biuf" or not array.shape:
        return entry, None
    statistics, n = Statistics(), array.shape[0]
    row_bytes = array.dtype.itemsize * math.prod(array.shape[1:])
    step = max(1, 2**24 // max(1, row_bytes))
    stride = step * max(1, math.ceil(n * row_bytes / BYTES_READ))
    for start in range(0, n, stride):
        statistics.update(np.asarray(array[start : start + step]), start)
    if stride > step:
        entry["looked at"] = f"1 / {stride // step} of the rows"
    problem = None
    if statistics.first_bad_row is not None:
        problem = f"{where}: row {statistics.first_bad_row} holds NaN or infinity"
    if n == 0:
        problem = f"{where}: holds no rows"
    return entry | statistics.to_dict(), problem


def _plain(value: Any) -> float | int:
    number = np.asarray(value).item()
    return int(number) if isinstance(number, int | bool) else float(f"{number:.6g}")
