"""Symmetries of an action on a periodic lattice, tested on random fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

MOVES = ("translation", "even translation", "reflection", "axis exchange", "sign")
"""All symmetries that `broken` knows; an even translation moves the field by two sites."""


def broken(
    action: Callable[[Tensor], Tensor], shape: tuple[int, ...], names: tuple[str, ...]
) -> tuple[str, ...]:
    """Return those of the symmetries `names` under which the action of some field changes."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((4, *shape), generator=generator, dtype=torch.float64)
    with torch.no_grad():
        before = action(x)
        scale = 1 + before.abs().max()

        def changes(name: str) -> bool:
            images = _images(x, name)
            return any(bool((action(y) - before).abs().max() > 1e-6 * scale) for y in images)

        return tuple(name for name in names if changes(name))


def _images(x: Tensor, name: str) -> Iterator[Tensor]:
    """Yield the images of (B, *shape) fields under the generators of a symmetry."""
    axes = range(1, x.ndim)
    if name == "sign":
        yield -x
    for axis in axes:
        if name == "translation":
            yield torch.roll(x, 1, axis)
        elif name == "even translation":
            yield torch.roll(x, 2, axis)
        elif name == "reflection":
            yield x.flip(axis)
        elif name == "axis exchange":
            yield from (
                x.transpose(axis, other)
                for other in axes
                if other > axis and x.shape[other] == x.shape[axis]
            )
