r"""Gradient flow of gauge links: Wilson flow, by Luescher's Runge-Kutta integrator of third order.

    dU/dt = Z(U) U,    Z = -TA(U M),    TA(X) = (X - X^+) / 2 - trace,

M being the sum of the staples: down the gradient of g_0^2 S, so that sqrt(8 t) is how far links are
smeared (Luescher, JHEP 08 (2010) 071, equations 1.4 and C.2; of U(1), Z = -i Im U M). With
Z_i = step Z(W_i),

    W_1 = exp(Z_0 / 4) U,    W_2 = exp(8 Z_1 / 9 - 17 Z_0 / 36) W_1,
    U(t + step) = exp(3 Z_2 / 4 - 8 Z_1 / 9 + 17 Z_0 / 36) W_2.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from physgen.errors import DomainError
from physgen.systems.kernels.gauge import lanes, motion, su2, su3, u1

_KICK = {1: motion.kick_1, 2: motion.kick_2, 3: motion.kick_3}
_DRIFT = {1: motion.drift_1, 2: motion.drift_2, 3: motion.drift_3}
_NORMALISE = {1: u1.normalise, 2: su2.normalise, 3: su3.normalise}

LARGEST_STEP = 0.1
"""Beyond 0.15 the integrator is not stable in four dimensions."""


def flowed(links: NDArray[np.float64], time: float, step: float = 0.02) -> NDArray[np.float64]:
    """Return links (C, d, *shape) or (C, d, *shape, N, N, 2) after a flow time, in float64.

    Args:
        links: angles of U(1), or numbers of SU(2) or SU(3).
        time: t >= 0, in units of the lattice spacing squared.
        step: at most so large are the equal steps that lead there.

    Raises:
        DomainError: the links have another shape, or time or step are out of their ranges.

    >>> angles = np.random.default_rng(1).uniform(-1, 1, (2, 2, 4, 4))
    >>> def plaquette(x):
    ...     return np.cos(x[:, 0] + np.roll(x[:, 1], -1, 1) - np.roll(x[:, 0], -1, 2) - x[:, 1])
    >>> bool(plaquette(flowed(angles, 0.5)).mean() > plaquette(angles).mean())
    True
    """
    if not (0 <= time < math.inf and 0 < step <= LARGEST_STEP):
        raise DomainError(
            f"gradient flow to t = {time:g} in steps of {step:g}: t must not be negative, and a "
            f"step be in (0, {LARGEST_STEP:g}]"
        )
    n, shape = lanes.group_of(links)
    table = lanes.table_of(shape)
    n_steps = math.ceil(time / step - 1e-9)
    result = np.empty(links.shape)
    for first in range(0, len(links), lanes.LANES):
        part = slice(first, first + lanes.LANES)
        (u,) = lanes.pack(np.asarray(links[part], np.float64))
        p = np.zeros((len(u), motion.VELOCITIES[n] * lanes.LANES))
        for _ in range(n_steps):
            for keep, c in ((0.0, 1 / 4), (-17 / 9, 8 / 9), (-1.0, 3 / 4)):
                _KICK[n](u, p, table, keep, np.full(lanes.LANES, c * time / n_steps))
                _DRIFT[n](u, p, 1.0, lanes.LANES)
        _NORMALISE[n](u)
        lanes.unpack(u[None], result[part])
    return result
