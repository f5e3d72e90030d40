"""Which axis of an array of links is which, where no format says it.

An order is written as words: t, z, y, x, mu, a, b (row and column), c (real and imaginary part) and
n (configurations). Of mu the directions follow in brackets: "t z y x mu(x y z t) a b".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physgen.errors import FormatError
from physgen.io.lattice.configuration import Links

DIRECTIONS = {2: "tx", 3: "tyx", 4: "tzyx"}
"""Axes of a lattice of so many dimensions, time first."""

_LARGEST_N = 8
"""Of SU(N) in an array that is taken for links though its order is not known."""
_WORD = re.compile(r"mu\s*\(([^)]*)\)|\S+")


@dataclass(frozen=True)
class Order:
    """The axes of an array of links.

    Attributes:
        axes: their names in the order of the array.
        directions: what mu counts, in its order.

    >>> Order.of("mu(t x) t x a b c").directions
    ('t', 'x')
    """

    axes: tuple[str, ...]
    directions: tuple[str, ...]

    @classmethod
    def of(cls, text: str, where: str = "order") -> Order:
        """Return the order that words say; `FormatError` if they cannot be understood."""
        axes: list[str] = []
        directions: tuple[str, ...] = ()
        for word in _WORD.finditer(text.replace(",", " ")):
            axes.append("mu" if word[1] is not None else word[0])
            if word[1] is not None:
                directions = tuple(word[1].split())
        lattice = {axis for axis in axes if axis in "xyzt"}
        wanted = [{"mu", "a", "b", *more, *lattice} for more in ("", "c", "n", "cn")]
        if (
            len(set(axes)) != len(axes)
            or set(axes) not in wanted
            or sorted(directions) != sorted(lattice)
            or "".join(sorted(lattice)) not in ("tx", "txy", "txyz")
        ):
            raise FormatError(
                f"{where}: {text!r} is no order of axes; write it as 't z y x mu(x y z t) a b', "
                "with c for real and imaginary parts and n for configurations where there are such "
                "axes"
            )
        return cls(tuple(axes), directions)

    def shape(self, extents: tuple[int, ...]) -> tuple[int, ...]:
        """Return the lattice's extents, time first, of the extents of the array."""
        sizes = dict(zip(self.axes, extents, strict=True))
        return tuple(sizes[axis] for axis in DIRECTIONS[len(self.directions)])

    def links(self, array: NDArray[Any]) -> Links:
        """Return (T, ..., d, N, N) links, directions in the order x, ..., t, of one configuration.

        Args:
            array: in this order, without the axis n; complex, or real with an axis c.
        """
        axes = [axis for axis in self.axes if axis != "n"]
        names = DIRECTIONS[len(self.directions)]
        if "c" in axes:
            moved = np.moveaxis(array, axes.index("c"), -1)
            kind = np.complex64 if array.dtype.itemsize == 4 else np.complex128
            array = np.ascontiguousarray(moved).view(kind)[..., 0]
            axes.remove("c")
        array = array.transpose([axes.index(axis) for axis in (*names, "mu", "a", "b")])
        places = [self.directions.index(axis) for axis in reversed(names)]
        return array[..., places, :, :]


def guessed(shape: tuple[int, ...], is_complex: bool, *, stacked: bool, where: str) -> Order:
    """Return the order that an array of this shape most likely has.

    Two are known: that of the files of the field, t z y x mu(x y z t) a b, alone or several after
    one another, and that of ensembles of physgen, n mu(t z y x) t z y x a b c.

    Args:
        shape: of the array.
        is_complex: whether its numbers are complex; else the last axis is of two parts.
        stacked: whether it is known that the first axis counts configurations, and mu follows.
        where: path and dataset, for the message.

    Raises:
        FormatError: it has neither, or may have both.
    """
    found = fitting(shape, is_complex)
    if stacked:
        found = [text for text in found if text.startswith("n mu")] or found
    if len(found) == 1:
        return Order.of(found[0])
    stated = "may be " + " or ".join(map(repr, found)) if found else "is not that of links"
    raise FormatError(
        f"{where}: shape {shape} {stated}; say which axis is which, as in "
        "--order 't z y x mu(x y z t) a b'"
    )


def fitting(shape: tuple[int, ...], is_complex: bool) -> list[str]:
    """Return the orders, of those that are known, that an array of this shape can have.

    >>> fitting((8, 4, 4, 3, 3, 3), is_complex=True)
    ['t y x mu(x y t) a b']
    """
    inner = shape if is_complex else shape[:-1]
    tail = " a b" if is_complex else " a b c"
    found: list[str] = []
    for d, names in DIRECTIONS.items():
        of_field, own = _known(names)
        for first, text in (("", of_field), ("n ", of_field), ("n ", own)):
            if len(inner) == d + 3 + len(first) // 2:
                at = len(first) // 2 + (d if text is of_field else 0)
                if inner[at] == d and inner[-1] == inner[-2] and (is_complex or shape[-1] == 2):
                    found.append(first + text + tail)
    return found


def likely(shape: tuple[int, ...], is_complex: bool) -> list[str]:
    """Return orders that an array may have that looks like links, none where it does not.

    Links have an axis of directions, as long as there are of them, and matrices on two axes that
    are neighbours; real numbers have them, and the two parts, at the end.

    >>> likely((12, 3, 3, 8, 4, 4, 4, 4), is_complex=True)
    ['n t z y x mu(x y z t) a b']
    >>> likely((1000, 8, 8, 8), is_complex=False)
    []
    """
    if found := fitting(shape, is_complex):
        return found
    inner = shape if is_complex else shape[:-1]
    pairs = range(len(inner) - 1) if is_complex else [len(inner) - 2]
    if not is_complex and shape[-1:] != (2,):
        return []
    return [
        "n " * (len(inner) - d - 3) + _known(names)[0] + (" a b" if is_complex else " a b c")
        for d, names in DIRECTIONS.items()
        if len(inner) - d - 3 in (0, 1)
        and any(
            1 < inner[i] == inner[i + 1] <= _LARGEST_N and d in inner[:i] + inner[i + 2 :]
            for i in pairs
        )
    ]


def _known(names: str) -> tuple[str, str]:
    """Return the orders of sites and directions in files of the field, and in those of physgen."""
    axes = " ".join(names)
    return f"{axes} mu({' '.join(reversed(names))})", f"mu({axes}) {axes}"
