r"""Hybrid Monte Carlo of the Schwinger model with pseudofermions, many chains at once.

At the beginning of a trajectory phi = Q eta with |eta|^2 of density exp(-|eta|^2) is drawn, which
then stands still in

    H = K - beta sum_P cos theta_P + phi^+ Q^-2 phi    (Weingarten & Petcher, Phys. Lett. B 99
                                                        (1981) 333; Gottlieb et al., Phys. Rev.
                                                        D 35 (1987) 2531)

with the Q of `physgen.systems.kernels.gauge.fermions`. Solutions begin at zero, so that the force
is a function of links and phi, and trajectories are reversible.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from physgen.errors import DomainError
from physgen.systems.kernels.gauge import fermions, lanes, motion
from physgen.systems.kernels.gauge.hmc import HybridChains, Integrator

Real = NDArray[np.float64]

RESIDUAL = 1e-12
"""|phi - Q^2 X| / |phi| in energies."""
FORCE_RESIDUAL = 1e-6
"""The same in forces, which need not be exact, but reversible."""


class PseudofermionChains(HybridChains):
    """Chains of the Schwinger model with two flavours that move by Hybrid Monte Carlo.

    Args:
        links: (C, 2, T, L) angles where the chains begin.
        beta: the inverse coupling.
        kappa: the hopping parameter.
        seed: of the random numbers.

    Attributes:
        unsolved: trajectories that were refused since conjugate gradients did not reach their
            residual at one of their ends, those of repeated chains counted, too.

    Raises:
        DomainError: the links are not those of U(1) in two dimensions.

    >>> chains = PseudofermionChains(np.zeros((8, 2, 4, 4)), beta=1.0, kappa=0.2, seed=1)
    >>> step = chains.tune()
    >>> done = chains.run(20, step, round(1 / step))
    >>> bool(done.accepted.mean() > 0.7), chains.unsolved
    (True, 0)
    """

    def __init__(self, links: Real, beta: float, kappa: float, seed: int) -> None:
        super().__init__(links, beta, seed)
        if self.n != 1 or len(self.shape) != 2:
            raise DomainError(f"links of shape {links.shape}: expected (C, 2, T, L) angles of U(1)")
        self.unsolved = 0
        self._fermions = fermions.fermions_on(self.shape, kappa)
        self._phi = np.zeros((math.prod(self.shape), 4 * lanes.LANES))
        self._x, self._z = np.empty_like(self._phi), np.empty_like(self._phi)

    def _trajectory(
        self, group: int, step: float, n_steps: int, integrator: Integrator
    ) -> tuple[Real, NDArray[np.bool_]]:
        self._draw(group)
        return super()._trajectory(group, step, n_steps, integrator)

    def _draw(self, group: int) -> None:
        """Draw phi of a group of lanes; its eta has real numbers of variance 1/2."""
        outer = self._fermions.outer
        normal = np.empty((4 * len(outer), lanes.LANES))
        motion.momenta(normal, 1, self._pools[group])
        eta = np.zeros_like(self._phi)
        eta[outer] = math.sqrt(0.5) * normal.reshape(len(outer), -1)
        fermions.hermitian(self.packed[group], self._fermions, eta, self._x, self._phi, lanes.LANES)

    def _kick(self, u: Real, p: Real, group: int, size: float) -> None:
        super()._kick(u, p, group, size)
        self._solve(u, FORCE_RESIDUAL)
        fermions.kick(u, self._fermions, self._x, self._z, size, p)

    def _energy(self, u: Real, p: Real, group: int) -> Real:
        energy, of_fermions = super()._energy(u, p, group), np.empty(lanes.LANES)
        solved = self._solve(u, RESIDUAL)
        fermions.squares(self._z, self._fermions.outer, of_fermions, lanes.LANES)
        # Next to a zero of the determinant forces are such that links leave the circle.
        length = np.hypot(u[:, : lanes.LANES], u[:, lanes.LANES :])
        ran_away = ~(np.abs(length - 1) < 1e-9).all(0)
        self.unsolved += int(np.count_nonzero(~solved & ~ran_away))
        return np.where(solved & ~ran_away, energy + of_fermions, np.nan)  # A NaN is refused.

    def _solve(self, u: Real, residual: float) -> NDArray[np.bool_]:
        solved: NDArray[np.bool_] = fermions.solve(
            u, self._fermions, self._phi, residual, self._x, self._z
        )
        return solved
