"""What is measured on links to tell whether a file is what it says: in numpy, block by block.

Matrices of a block (the last axes of the lattice, as many as fit into the cache) stand side by side
in the last axis, so that products of matrices are products of long arrays; no more than two slices
of the lattice are held besides the links.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from physgen.io.lattice.configuration import Links

_BLOCK = 2**12
"""Sites of a block."""


@dataclass(frozen=True)
class Measured:
    """What was found on the links of a configuration.

    Attributes:
        plaquette_space, plaquette_time: means of Re tr P / N over plaquettes without and with the
            direction of time; NaN where there are none.
        plaquette: of all.
        link_trace: mean of Re tr U / N.
        unitarity: largest element of |U U^+ - 1|; NaN if a link is not a number.
        determinant: largest |det U - 1|.
        typical: mean over all links but the worst of the larger one of both.
        worst: (*site, mu), in the order of the axes of the links, with the largest of both.
    """

    plaquette_space: float
    plaquette_time: float
    plaquette: float
    link_trace: float
    unitarity: float
    determinant: float
    typical: float
    worst: tuple[int, ...]


def measure(links: Links) -> Measured:
    """Measure (T, ..., d, N, N) links, the last direction of which is time, in double precision.

    >>> unit = np.broadcast_to(np.eye(3), (2, 2, 2, 2, 4, 3, 3)).astype(complex)
    >>> found = measure(unit)
    >>> found.plaquette, found.link_trace, found.unitarity
    (1.0, 1.0, 0.0)
    """
    n, d = links.shape[-1], links.shape[-3]
    shape = links.shape[:d]
    k = next((k for k in range(d, 1, -1) if math.prod(shape[-k:]) <= _BLOCK), 1)
    outer, inner = shape[: d - k], shape[d - k :]
    planes = np.zeros((d, d))
    trace, total, worst = 0.0, 0.0, (-1.0, 0.0, 0.0, (0,) * (d + 1))

    @lru_cache(maxsize=2 * math.prod(outer[1:]) + 2)
    def block(*at: int) -> Links:
        """Return (d, N, N, V), contiguous."""
        turned = np.moveaxis(links[at], (-3, -2, -1), (0, 1, 2))
        return np.ascontiguousarray(turned, np.complex128).reshape(d, n, n, -1)

    with np.errstate(all="ignore"):
        for at in np.ndindex(*outer):
            here = block(*at)
            trace += float(np.einsum("miiv->", here.real, dtype=np.float64))
            unit, det = _off_unitary(here), np.abs(_determinant(here) - 1)
            both = np.nan_to_num(np.maximum(unit, det), nan=np.inf)
            total += float(both.sum())
            index = int(both.argmax())
            if not both.flat[index] <= worst[0]:
                mu, v = divmod(index, both.shape[1])
                where = (*at, *np.unravel_index(v, inner), mu)
                worst = (float(both.flat[index]), worst[1], worst[2], tuple(map(int, where)))
            sizes = (float(unit.max()), float(det.max()))
            worst = (worst[0], *map(_larger, worst[1:3], sizes), worst[3])
            ahead = [_ahead(block, at, axis, shape) for axis in range(d)]
            for mu in range(d):
                for nu in range(mu):
                    # Direction mu goes along the axis d - 1 - mu.
                    one = _times(here[mu], ahead[d - 1 - mu](nu))
                    other = _times(here[nu], ahead[d - 1 - nu](mu))
                    planes[mu, nu] += float(np.vdot(other, one).real)
    sites = math.prod(shape)
    planes /= sites * n
    of_time = planes[d - 1, : d - 1]
    of_space = planes[: d - 1][np.tril_indices(d - 1, -1)]
    return Measured(
        float(of_space.mean()) if len(of_space) else math.nan,
        float(of_time.mean()),
        float(np.concatenate([of_time, of_space]).mean()),
        trace / (sites * d * n),
        worst[1],
        worst[2],
        (total - worst[0]) / (sites * d - 1),
        worst[3],
    )


def _larger(one: float, other: float) -> float:
    """Return the larger of two numbers, NaN if one of them is."""
    return math.nan if math.isnan(one) or math.isnan(other) else max(one, other)


def _ahead(
    block: Callable[..., Links], at: tuple[int, ...], axis: int, shape: tuple[int, ...]
) -> Callable[[int], Links]:
    """Return what gives the links (N, N, V) of a direction, one step forwards along an axis."""
    if axis < len(at):
        other = (*at[:axis], (at[axis] + 1) % shape[axis], *at[axis + 1 :])
        return lambda mu: block(*other)[mu]

    def rolled(mu: int) -> Links:
        matrices = block(*at)[mu]
        whole = matrices.reshape(*matrices.shape[:2], *shape[len(at) :])
        moved: Links = np.roll(whole, -1, 2 + axis - len(at))
        return moved.reshape(matrices.shape)

    return rolled


def _times(a: Links, b: Links) -> Links:
    """Return the products (N, N, V) of matrices that stand side by side."""
    result: Links = a[:, 0, None] * b[None, 0]
    for k in range(1, a.shape[1]):
        result += a[:, k, None] * b[None, k]
    return result


def _off_unitary(u: Links) -> NDArray[np.float64]:
    """Return (d, V), the largest element of |U U^+ - 1|."""
    result = np.zeros((len(u), u.shape[-1]))
    for i in range(u.shape[1]):
        for j in range(i + 1):
            element = (u[:, i] * u[:, j].conj()).sum(1)
            np.maximum(result, np.abs(element - (i == j)), out=result)
    return result


def _determinant(u: Links) -> Links:
    """Return (d, V) determinants of (d, N, N, V) matrices."""
    n = u.shape[1]
    if n > 3:
        general: Links = np.linalg.det(np.moveaxis(u, -1, 1))
        return general
    result: Links = u[:, 0, 0]
    if n == 2:
        result = result * u[:, 1, 1] - u[:, 0, 1] * u[:, 1, 0]
    elif n == 3:
        result = np.zeros_like(result)
        for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
            result += u[:, 0, i] * (u[:, 1, j] * u[:, 2, k] - u[:, 1, k] * u[:, 2, j])
    return result
