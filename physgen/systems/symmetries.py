"""Symmetries of an action on a periodic lattice, tested on random fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from physgen.errors import RecipeError, suggest
from physgen.systems.base import Moves


def broken(
    action: Callable[[Tensor], Tensor], x: Tensor, moves: Moves, names: Sequence[str]
) -> tuple[str, ...]:
    """Return those of the symmetries `names` under which the action of some field changes.

    Args:
        action: (B, *shape) fields to (B,).
        x: fields to try.
        moves: the symmetries by name.
        names: of those that are tried.

    Raises:
        RecipeError: there is no symmetry of a name.
    """
    with torch.no_grad():
        before = action(x)
        scale = 1 + before.abs().max()

        def changes(name: str) -> bool:
            if name not in moves:
                raise RecipeError(f"no symmetry is called {name!r}{suggest(name, moves)}")
            return any(
                bool((action(y) - before).abs().max() > 1e-6 * scale) for y in moves[name](x)
            )

        return tuple(name for name in names if changes(name))


def scalar_moves() -> Moves:
    """Return the symmetries that the action of a scalar field (B, *shape) may have.

    An even translation moves the field by two sites.
    """
    return {
        "translation": lambda x: (torch.roll(x, 1, axis) for axis in range(1, x.ndim)),
        "even translation": lambda x: (torch.roll(x, 2, axis) for axis in range(1, x.ndim)),
        "reflection": lambda x: (x.flip(axis) for axis in range(1, x.ndim)),
        "axis exchange": _exchanged,
        "sign": lambda x: iter([-x]),
    }


def _exchanged(x: Tensor) -> Iterator[Tensor]:
    """Yield (B, *shape) fields with two axes of the same length exchanged."""
    for axis in range(1, x.ndim):
        for other in range(axis + 1, x.ndim):
            if x.shape[other] == x.shape[axis]:
                yield x.transpose(axis, other)
