r"""Bonds of spins on periodic lattices: chain, square, triangular and cubic.

Every site x has a bond with x - d for each direction d of its lattice, so that z = 2 n_directions
neighbours lie around it:

    chain (0-th axis): (1);    square: (0, 1), (1, 0);    cubic: the three axes;
    triangular: (0, 1), (1, 0), (1, -1), rows of a square lattice with one diagonal.

Where an extent is 2, two sites are neighbours twice. Signs of bonds are arrays (n_directions,
*shape), that of x - d and x at [d, x].
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from physgen.errors import DomainError, FormatError
from physgen.io.arrays import stated, text_in

LatticeName = Literal["square", "chain", "cubic", "triangular"]

DIRECTIONS: dict[str, tuple[tuple[int, ...], ...]] = {
    "square": ((0, 1), (1, 0)),
    "chain": ((1,),),
    "cubic": ((0, 0, 1), (0, 1, 0), (1, 0, 0)),
    "triangular": ((0, 1), (1, 0), (1, -1)),
}
"""From which neighbours the bonds of a site come, by lattice."""
_EXTENTS = {
    "square": "rows and columns",
    "chain": "one extent",
    "cubic": "three extents",
    "triangular": "rows and columns",
}
_EXAMPLES = {"square": "[16,16]", "chain": "[64]", "cubic": "[8,8,8]", "triangular": "[16,16]"}


def check_lattice(kind: str, lattice: str, shape: tuple[int, ...]) -> None:
    """Raise `DomainError` unless `shape` are extents of such a lattice, at least 2 each."""
    if lattice not in DIRECTIONS:
        raise DomainError(f"{kind} on a lattice {lattice!r}: take {', '.join(DIRECTIONS)}")
    if len(shape) != len(DIRECTIONS[lattice][0]) or min(shape) < 2:
        raise DomainError(
            f"{kind} of shape {list(shape)}: a {lattice} lattice has {_EXTENTS[lattice]}, at least "
            f"2 of each, as in system.shape={_EXAMPLES[lattice]} system.lattice={lattice}"
        )


def check_temperature(kind: str, temperature: float) -> None:
    """Raise `DomainError` unless a temperature is positive and finite."""
    if not (temperature > 0 and math.isfinite(temperature)):
        raise DomainError(f"{kind} at temperature {temperature:g}: it must be positive")


def check_bonds(lattice: str, shape: tuple[int, ...], coupling: int, disorder: int | None) -> None:
    """Raise `DomainError` unless there are Ising spins with such bonds on a lattice."""
    if coupling not in (1, -1):
        raise DomainError(
            f"ising with system.coupling={coupling}: it is 1 or -1, in units of which "
            "temperature and field are"
        )
    if coupling < 0 and bipartite(lattice) and any(n % 2 for n in shape):
        raise DomainError(
            f"ising antiferromagnet of shape {list(shape)}: at odd extents two sites of "
            "one sublattice become neighbours; make system.shape even"
        )
    if disorder is not None and (disorder < 0 or coupling != 1):
        raise DomainError(
            f"ising with system.disorder={disorder} and system.coupling={coupling}: "
            "a seed is not negative, and random bonds have both signs; leave the coupling out"
        )


def bipartite(lattice: str) -> bool:
    """Whether the sites have two colours, with neighbours of the other one, at even extents."""
    return lattice != "triangular"


def behind(x: Tensor, lattice: str) -> list[Tensor]:
    """Return of each direction d the fields (B, *shape) of the sites x - d.

    >>> import torch
    >>> behind(torch.tensor([[1, 2, 3]]), "chain")
    [tensor([[3, 1, 2]])]
    """
    axes = tuple(range(1 - x.ndim, 0))
    moved = []
    for direction in DIRECTIONS[lattice]:
        steps = [(s, axis) for s, axis in zip(direction, axes, strict=True) if s]
        moved.append(x.roll([s for s, _ in steps], [axis for _, axis in steps]))
    return moved


def neighbours(lattice: str, shape: tuple[int, ...]) -> NDArray[np.int32]:
    """Return (N, 2 n_directions) flat numbers of neighbours: x - d, x + d for each direction.

    >>> neighbours("chain", (4,)).tolist()
    [[3, 1], [0, 2], [1, 3], [2, 0]]
    """
    sites = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
    axes = tuple(range(len(shape)))
    moved = [
        np.roll(sites, [sign * s for s in direction], axes).ravel()
        for direction in DIRECTIONS[lattice]
        for sign in (1, -1)
    ]
    return np.ascontiguousarray(np.stack(moved, axis=1))


def at_neighbours(
    bonds: NDArray[np.int8], lattice: str, shape: tuple[int, ...]
) -> NDArray[np.int8]:
    """Return (N, 2 n_directions) signs of bonds in the order of `neighbours`."""
    table = neighbours(lattice, shape)
    flat = bonds.reshape(len(bonds), -1)
    result = np.empty(table.shape, np.int8)
    for d, signs in enumerate(flat):
        result[:, 2 * d], result[:, 2 * d + 1] = signs, signs[table[:, 2 * d + 1]]
    return result


def random_signs(lattice: str, shape: tuple[int, ...], seed: int) -> NDArray[np.int8]:
    """Return (n_directions, *shape) signs, -1 and +1 alike, the same on every machine.

    >>> random_signs("chain", (8,), 1).tolist() == random_signs("chain", (8,), 1).tolist()
    True
    """
    n = len(DIRECTIONS[lattice]) * math.prod(shape)
    bits = np.random.SeedSequence(seed).generate_state(n, np.uint32) & 1
    signs: NDArray[np.int8] = np.where(bits == 1, np.int8(1), np.int8(-1)).reshape(-1, *shape)
    return signs


def staggered(shape: tuple[int, ...]) -> NDArray[np.int8]:
    """Return (*shape), +1 where the sum of the coordinates is even, else -1."""
    parity = np.indices(shape).sum(0) % 2
    return np.asarray(1 - 2 * parity, np.int8)


def check_stated_lattice(path: Path, lattice: str) -> None:
    """Raise `FormatError` if a file says that its spins are on another lattice."""
    said = text_in(path, "lattice")
    if said in get_args(LatticeName) and said != lattice:
        raise FormatError(
            f"{path} says lattice = {said}, and this system has {lattice}; set "
            f"system.lattice={said}, or choose another file"
        )


def check_stated_bonds(path: Path, coupling: int, disorder: int | None) -> None:
    """Raise `FormatError` if a file says that its spins were coupled by other bonds.

    Args:
        path: of the file.
        coupling: of this system, the same for all bonds.
        disorder: seed of its bonds, if they differ.
    """
    said = {name.lower(): v for name, v in stated(path, ("coupling", "disorder"), "").items()}
    ours = f"coupling = {coupling}" if disorder is None else f"disorder = {disorder}"
    uniform = coupling if disorder is None else None
    for name, mine in (("disorder", disorder), ("coupling", uniform)):
        if name in said and [float(value) for value in said[name]] != [mine]:
            theirs = ",".join(f"{value:g}" for value in said[name][:4])
            other = " and leave system.disorder out" if name == "coupling" and disorder else ""
            raise FormatError(
                f"{path} says {name} = {theirs}, and this system has {ours}: its spins are coupled "
                f"by other bonds; set system.{name}={theirs}{other}, or choose another file"
            )
