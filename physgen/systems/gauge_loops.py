r"""Loops of gauge links, differentiable, in any dimension: links are complex (B, d, *shape, N, N).

With TA(X) = (X - X^+) / 2 - trace / N, and the sum C_mu nu(x) of the four plaquettes that begin at
x in a plane and run round it in the same sense, field strength, energy density and charge are

    F_mu nu = TA(C_mu nu) / 4,    E = - sum_(mu < nu) tr F_mu nu^2,
    Q = - (1 / 4 pi^2) sum_x tr (F_01 F_23 - F_02 F_13 + F_03 F_12)

(Luescher, JHEP 08 (2010) 071, with anti-Hermitian F).
"""

from __future__ import annotations

import itertools
import math
from functools import reduce

import torch
from torch import Tensor


def line(links: Tensor, axis: int, length: int) -> Tensor:
    """Return (B, *shape, N, N), products of `length` links along an axis from every site."""
    one = links[:, axis]
    return reduce(torch.matmul, (torch.roll(one, -step, 1 + axis) for step in range(length)))


def rectangles(links: Tensor, a: int, b: int, r: int, t: int) -> Tensor:
    """Return (B,), the mean of Re tr / N of rectangles of r links along axis a and t along b."""
    along_a, along_b = line(links, a, r), line(links, b, t)
    there = along_a @ torch.roll(along_b, -r, 1 + a)
    back = along_b @ torch.roll(along_a, -t, 1 + b)
    trace = (there * back.conj()).sum((-2, -1)).real / links.shape[-1]
    return trace.flatten(1).mean(1)


def wilson(links: Tensor, r: int, t: int) -> Tensor:
    """Return (B,), the mean of Re tr / N of all rectangles of r by t links."""
    axes = range(links.shape[1])
    pairs = itertools.combinations(axes, 2) if r == t else itertools.permutations(axes, 2)
    return torch.stack([rectangles(links, *pair, r, t) for pair in pairs]).mean(0)


def plaquettes(links: Tensor) -> tuple[Tensor, Tensor]:
    """Return (B,) means over the planes without, and with, the first axis, which is time."""
    d = links.shape[1]
    space = [rectangles(links, *pair, 1, 1) for pair in itertools.combinations(range(1, d), 2)]
    time = [rectangles(links, 0, axis, 1, 1) for axis in range(1, d)]
    return torch.stack(space).mean(0), torch.stack(time).mean(0)


def winding(links: Tensor) -> Tensor:
    """Return (B,) complex, the mean of tr / N of the lines that wind once round the first axis."""
    lines = line(links, 0, links.shape[2])[:, 0]
    return lines.diagonal(dim1=-2, dim2=-1).mean(-1).flatten(1).mean(1)


def field_strength(links: Tensor, mu: int, nu: int) -> Tensor:
    """Return (B, *shape, N, N), F_mu nu of the clover, anti-Hermitian and traceless."""
    one, two = links[:, mu], links[:, nu]
    across = torch.roll(one, -1, 1 + nu)
    up = torch.roll(two, -1, 1 + mu) @ across.mH @ two.mH
    corner = torch.roll(two, (-1, 1), (1 + mu, 1 + nu))
    down = corner.mH @ torch.roll(one, 1, 1 + nu).mH @ torch.roll(two, 1, 1 + nu)
    # The leaves ahead begin with U_mu(x), those behind end with U_mu(x - mu).
    half = up - down
    clover = one @ half + torch.roll(half @ one, 1, 1 + mu)
    f = (clover - clover.mH) / 8
    trace = f.diagonal(dim1=-2, dim2=-1).mean(-1)
    if links.shape[-1] == 1:
        return f
    return f - trace[..., None, None] * torch.eye(f.shape[-1], dtype=f.dtype, device=f.device)


def energy_and_charge(links: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return (B,) means of E over the sites and, in four dimensions, (B,) Q."""
    d = links.shape[1]
    planes = list(itertools.combinations(range(d), 2))
    f = {plane: field_strength(links, *plane) for plane in planes}
    energy = torch.stack([_trace(one, one) for one in f.values()]).sum(0)
    density = -energy / math.prod(links.shape[2:-2])
    if d != 4:
        return density, None
    pairs = (((0, 1), (2, 3), 1), ((0, 2), (1, 3), -1), ((0, 3), (1, 2), 1))
    charge = torch.stack([sign * _trace(f[a], f[b]) for a, b, sign in pairs]).sum(0)
    return density, -charge / (4 * math.pi**2)


def _trace(f: Tensor, g: Tensor) -> Tensor:
    """Return (B,), the sum of tr f g, which is real, over the sites."""
    return -(f * g.conj()).sum((-2, -1)).real.flatten(1).sum(1)


def plaquette_angles(x: Tensor) -> Tensor:
    """Return (B, planes, *shape), what the angles (B, d, *shape) of U(1) add up to round each."""
    return torch.stack(
        [
            x[:, a] + torch.roll(x[:, b], -1, 1 + a) - torch.roll(x[:, a], -1, 1 + b) - x[:, b]
            for a, b in itertools.combinations(range(x.shape[1]), 2)
        ],
        1,
    )
