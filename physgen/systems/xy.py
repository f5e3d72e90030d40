r"""What the XY model has besides all O(N) models: a helicity modulus, and vortices.

With theta the angles of the spins, d axes, V sites and S = -beta sum cos(theta_x - theta_{x+mu}),

    j^2 = mean over mu of [1/V sum_x sin(theta_x - theta_{x+mu})]^2,
    helicity = <s.s> - beta V <j^2>,

which is the second derivative of the free energy, over its value without thermal motion, by a twist
of all bonds along an axis (Teitel & Jayaprakash, Phys. Rev. B 27 (1983) 598). In two dimensions it
jumps from 2 / (pi beta) to 0 (Nelson & Kosterlitz, Phys. Rev. Lett. 39 (1977) 1201). A plaquette
holds a vortex where angles, the differences of neighbours taken between -pi and pi, turn by 2 pi.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from physgen.systems.base import Derived


def currents(x: Tensor) -> Tensor:
    """Return (B,), j^2 of (B, *shape, 2) unit vectors."""
    squares = []
    for axis in range(1, x.ndim - 1):
        near = x.roll(-1, axis)
        sine = x[..., 1] * near[..., 0] - x[..., 0] * near[..., 1]
        squares.append(sine.flatten(1).mean(1).square())
    return torch.stack(squares).mean(0)


def vortices(x: Tensor) -> Tensor:
    """Return (B,), the share of plaquettes of (B, *shape, 2) unit vectors that hold a vortex.

    >>> i, j = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    >>> angle = torch.atan2(i - 1.5, j - 1.5)
    >>> vortices(torch.stack([angle.cos(), angle.sin()], -1)[None]) >= 1 / 16
    tensor([True])
    """
    angle = torch.atan2(x[..., 1], x[..., 0])
    shares = []
    for one, other in itertools.combinations(range(1, angle.ndim), 2):
        corners = [angle, angle.roll(-1, one), angle.roll((-1, -1), (one, other))]
        corners += [angle.roll(-1, other), angle]
        steps = [
            torch.remainder(b - a + math.pi, 2 * math.pi) - math.pi
            for a, b in itertools.pairwise(corners)
        ]
        turns = (torch.stack(steps).sum(0) / (2 * math.pi)).round().abs()
        shares.append(turns.flatten(1).mean(1))
    return torch.stack(shares).mean(0)


def helicity(beta: float, n_sites: int) -> Derived:
    """Return the helicity modulus, in units of the coupling."""

    def modulus(means: NDArray[np.float64]) -> float:
        return float(means[0] - beta * n_sites * means[1])

    return Derived(("s.s", "j^2"), modulus)


def ring(length: int, beta: float) -> dict[str, float]:
    r"""Return the exact helicity modulus of a ring.

    A twist phi of every bond makes Z = sum_l I_l(beta)^L exp(i l L phi), so that helicity = L <l^2>
    / beta.

    >>> round(ring(4, 100.0)["helicity"], 3)  # 1 but for spin waves
    0.996
    """
    from scipy.special import ive

    order = np.arange(-64 - math.ceil(4 * beta), 65 + math.ceil(4 * beta))
    weight = (ive(abs(order), beta) / ive(0, beta)) ** length
    return {"helicity": float(length * (order**2 @ weight) / (beta * weight.sum()))}
