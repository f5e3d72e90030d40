"""Grids: numbers that are multiples of one step, whatever type they have in files.

Counts, codes and readings of converters are often stored as floats, or rounded to so many decimals.
A grid is taken for one only if it is seen: values repeat, and its step is far wider than what the
type resolves, so that numbers which are integers only because single precision has no others there
are none. Numbers rounded to so many digits, be they binary or decimal, have steps of many widths.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]
Numbers = TypeVar("Numbers", Floats, "Tensor")

FEWEST = 10
"""So many distinct values make a grid at least."""
SHARED = 0.1
"""At least this share of the rows have the value of another row, or the grid is not seen."""
RESOLVED = 32
"""A step is so many times as wide as what the type resolves, at least, unless it is an integer."""
ROUNDED = 4
"""So many times what the type resolves may a value be off, by how it was computed."""
CERTAIN = 40.0
"""Factors of two by which values are less probable to be on the grid by chance than not."""


@dataclass(frozen=True)
class Grid:
    """The values (offset + k step) / divisor, k any integer.

    Two integers say a decimal step, so that its multiples are the doubles that are nearest to them.

    Attributes:
        offset, step: over the divisor, in the unit of the values.
        divisor: 1 for integers.

    >>> import numpy as np
    >>> tenths = Grid(step=1.0, divisor=10.0)
    >>> tenths.nearest(np.array([0.234, 0.5])).tolist(), str(tenths)
    ([0.2, 0.5], 'multiples of 0.1')
    """

    offset: float = 0.0
    step: float = 1.0
    divisor: float = 1.0

    @property
    def spacing(self) -> float:
        """The distance of neighbours, in the unit of the values."""
        return self.step / self.divisor

    @property
    def is_integer(self) -> bool:
        """Whether its values are integers."""
        return self.divisor == 1 and self.step % 1 == 0 and self.offset % 1 == 0

    def numbers(self, values: Floats) -> Floats:
        """Return which point of the grid, counted from its offset, is nearest; of any shape."""
        return np.asarray(number(values, *astuple(self)).round())

    def nearest(self, values: Floats) -> Floats:
        """Return the points of the grid that are nearest to values of any shape."""
        return np.asarray(nearest(values, *astuple(self)))

    def __str__(self) -> str:
        if self.offset:
            return f"{self.offset / self.divisor:g} plus multiples of {self.spacing:g}"
        return "integers" if self.spacing == 1 else f"multiples of {self.spacing:g}"


INTEGERS = Grid()


def number(x: Numbers, offset: Any, step: Any, divisor: Any) -> Numbers:
    """Return how many steps x is from the offset of a grid, with fractions.

    Args:
        x: (..., D) numbers.
        offset, step, divisor: of one `Grid`, or (D,) of one a column.
    """
    result: Numbers = (x * divisor - offset) / step
    return result


def nearest(x: Numbers, offset: Any, step: Any, divisor: Any) -> Numbers:
    """Return the points of grids that are nearest to x (..., D); arguments as of `number`."""
    result: Numbers = (number(x, offset, step, divisor).round() * step + offset) / divisor
    return result


def grid_of(values: Floats, counts: NDArray[np.int64]) -> Grid | None:
    """Return the widest grid on which all values are, `None` if none is seen.

    Args:
        values: (n,) distinct and rising, without values that are apart (zeros, sentinels).
        counts: (n,) rows that have them.
    """
    shared = counts[counts > 1].sum()
    if len(values) < FEWEST or shared < SHARED * counts.sum() or not np.isfinite(values).all():
        return None
    resolved = resolution(values)
    if (values == np.rint(values)).all() and np.abs(values).max() < 2**53:
        whole = values.astype(np.int64)
        step = int(np.gcd.reduce(np.diff(whole)))
        grid: Grid | None = Grid(float(whole[0] % step), float(step))
    else:
        grid = _fractional(values, float(values[counts.argmax()]), resolved)
    if grid is None:
        return None
    chances = np.clip(resolved / grid.spacing, 2.0**-24, 1)
    if -np.log2(chances).sum() < CERTAIN:
        return None
    return None if _digits(grid.numbers(values)) else grid


def resolution(values: Floats) -> Floats:
    """Return the distance to the next number, of single precision if that holds all values."""
    with np.errstate(over="ignore", invalid="ignore"):
        single = values.astype(np.float32)
        exact = (single == values) | np.isnan(values)
        return np.spacing(np.abs(single if exact.all() else values)).astype(np.float64)


def _fractional(values: Floats, anchor: float, resolved: Floats) -> Grid | None:
    """Return a grid whose points are no integers: the greatest common divisor of all gaps."""
    gaps = np.diff(values)
    step, coarsest = float(gaps.min()), float(resolved.max())
    while step >= RESOLVED * coarsest:
        times = np.rint(gaps / step)
        rest = np.abs(gaps - times * step)
        # Gaps of many steps have the error of the step as often.
        rest = rest[rest > np.maximum(step / 8, 2 * (times + 1) * coarsest)]
        if not len(rest):
            break
        step = float(rest.min())
    else:
        return None
    step = _fitted(values - anchor, step)
    beyond = anchor / step - round(anchor / step)
    if abs(beyond) * step <= ROUNDED * coarsest:
        beyond, step = 0.0, _fitted(values, step)
    beyond %= 1
    shift, parts = Fraction(beyond).limit_denominator(1000).as_integer_ratio()
    for simple in _simple(step):
        p, q = simple.as_integer_ratio()
        exact = Grid(float(shift * p), float(parts * p), float(parts * q))
        # Values may have been read as decimals, or be products of the step.
        for grid in (exact, Grid(exact.offset / exact.divisor, exact.spacing)):
            if (np.abs(grid.nearest(values) - values) <= 0.51 * resolved).all():
                return grid
    grid = Grid(beyond * step, step)
    return grid if np.abs(grid.nearest(values) - values).max() <= ROUNDED * coarsest else None


def _simple(step: float) -> Iterator[Fraction]:
    """Give the numbers that a positive step may have been before it was rounded."""
    for digits in (3, 6):
        yield Fraction(f"{step:.{digits}g}")
    for limit in (10, 100, 1000, 10_000):
        fraction = Fraction(max(step, 1 / step)).limit_denominator(limit)
        yield fraction if step > 1 else 1 / fraction


def _fitted(x: Floats, step: float) -> float:
    """Return a step with the precision that multiples x, (n,), far away have, by least squares."""
    reach, furthest = 4 * step, np.abs(x).max()
    while True:
        near = x[np.abs(x) <= reach]
        times = np.rint(near / step)
        if times.any():
            step = float(near @ times / (times @ times))
        if reach >= furthest:
            return step
        reach *= 2


def _digits(numbers: Floats) -> bool:
    """Whether the values, as numbers on a grid, are rounded to so many digits, not to one step.

    Then they leave most of the grid empty, and wide gaps are as wide as the ones beside them.
    """
    gaps = np.diff(numbers)
    wide = gaps[:-1] > 1
    if occupied(numbers) or not wide.any():
        return False
    return bool((gaps[1:] == gaps[:-1])[wide].mean() > 0.5)


def occupied(numbers: Floats) -> bool:
    """Whether distinct rising integers (n,), but for the outermost, fill half their range."""
    low, high = np.quantile(numbers, [0.05, 0.95])
    inner = (numbers >= low) & (numbers <= high)
    return bool(2 * inner.sum() >= high - low + 1)
