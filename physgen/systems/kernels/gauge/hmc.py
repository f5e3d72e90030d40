r"""Hybrid Monte Carlo of gauge links, many chains at once, with the force in closed form.

With velocities A of density exp(-K), K = sum |A|^2 (of U(1), A = i p, K = sum p^2 / 2), the
equations of motion of H = K + S are integrated by leapfrog, or by the minimum-norm integrator of
second order (Omelyan, Mryglod & Folk, Comput. Phys. Commun. 146 (2002) 188), lambda = 0.1931833:

    kick lambda eps, drift eps / 2, kick (1 - 2 lambda) eps, drift eps / 2, kick lambda eps

in a step. Both are reversible and keep the volume; the end is accepted with probability
min(1, exp(-dH)), so that <exp(-dH)> = 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from physgen.errors import InputError
from physgen.systems.kernels.gauge import draws, lanes, motion, su2, su3, u1
from physgen.systems.kernels.gauge.heatbath import Chains

Integrator = Literal["leapfrog", "minimum-norm"]
Real = NDArray[np.float64]

_KICK = {1: motion.kick_1, 2: motion.kick_2, 3: motion.kick_3}
_DRIFT = {1: motion.drift_1, 2: motion.drift_2, 3: motion.drift_3}
_PLAQUETTES = {1: u1.plaquettes, 2: su2.plaquettes, 3: su3.plaquettes}
_NORMALISE = {1: u1.normalise, 2: su2.normalise, 3: su3.normalise}

_LAMBDA = 0.1931833275037836
ACCEPTANCE = {"leapfrog": 0.7, "minimum-norm": 0.9}
"""What step sizes are tuned to."""


@dataclass(frozen=True)
class Trajectories:
    """What trajectories did: dH and whether they were accepted, (T, C) each."""

    change: Real
    accepted: NDArray[np.bool_]


class HybridChains(Chains):
    """Chains that move by Hybrid Monte Carlo.

    >>> chains = HybridChains(np.zeros((16, 2, 4, 4)), beta=1.0, seed=1)
    >>> step = chains.tune("minimum-norm")
    >>> done = chains.run(20, step, round(1 / step), "minimum-norm")
    >>> bool(done.accepted.mean() > 0.7)
    True
    """

    def run(
        self, n: int, step: float, n_steps: int, integrator: Integrator = "minimum-norm"
    ) -> Trajectories:
        """Do `n` trajectories of `n_steps` steps of size `step`."""
        n_lanes = self.packed.shape[0] * lanes.LANES
        change, accepted = np.empty((n, n_lanes)), np.empty((n, n_lanes), bool)
        for row in range(n):
            for group in range(len(self.packed)):
                here = slice(group * lanes.LANES, (group + 1) * lanes.LANES)
                change[row, here], accepted[row, here] = self._trajectory(
                    group, step, n_steps, integrator
                )
        chains = self._like[0]
        return Trajectories(change[:, :chains], accepted[:, :chains])

    def tune(self, integrator: Integrator = "minimum-norm", n: int = 40) -> float:
        """Return the step of trajectories of length 1 that are accepted as `ACCEPTANCE` says.

        Raises:
            InputError: not even tiny steps are accepted.
        """
        log_step = math.log(0.2)
        for trial in range(n):
            step = math.exp(log_step)
            done = self.run(1, step, max(1, round(1 / step)), integrator)
            probability = np.exp(np.minimum(0.0, -done.change))
            rate = float(np.nan_to_num(probability).mean())
            log_step += 1.5 * (rate - ACCEPTANCE[integrator]) / (1 + trial) ** 0.6
            log_step = min(log_step, 0.0)
            if log_step < -8:
                raise InputError(f"HMC does not accept even steps of {step:.1e}: are links finite?")
        return math.exp(log_step)

    def _trajectory(
        self, group: int, step: float, n_steps: int, integrator: Integrator
    ) -> tuple[Real, NDArray[np.bool_]]:
        u, pool = self.packed[group], self._pools[group]
        p = np.empty((len(u), motion.VELOCITIES[self.n] * lanes.LANES))
        motion.momenta(p, self.n, pool)
        before = u.copy()
        start = self._energy(u, p, group)
        self._integrate(u, p, group, step, n_steps, integrator)
        change = self._energy(u, p, group) - start
        uniform = np.array([draws.uniform(pool.counters, k) for k in range(lanes.LANES)])
        # A NaN compares false, so that a trajectory that ran away is refused.
        accepted = np.log(uniform) < -change
        numbers = u.reshape(len(u), -1, lanes.LANES)
        numbers[..., ~accepted] = before.reshape(numbers.shape)[..., ~accepted]
        _NORMALISE[self.n](u)
        return change, accepted

    def _integrate(
        self, u: Real, p: Real, group: int, step: float, n_steps: int, integrator: Integrator
    ) -> None:
        def kick(size: float) -> None:
            self._kick(u, p, group, size)

        def drift(size: float) -> None:
            _DRIFT[self.n](u, p, size, lanes.LANES)

        if integrator == "leapfrog":
            kick(0.5 * step)
            for number in range(n_steps):
                drift(step)
                kick(step if number + 1 < n_steps else 0.5 * step)
            return
        kick(_LAMBDA * step)
        for number in range(n_steps):
            drift(0.5 * step)
            kick((1 - 2 * _LAMBDA) * step)
            drift(0.5 * step)
            kick((2 if number + 1 < n_steps else 1) * _LAMBDA * step)

    def _kick(self, u: Real, p: Real, group: int, size: float) -> None:
        """Move the velocities of a group of lanes by the force, for a time `size`."""
        beta = self._beta[group]
        force = beta if self.n == 1 else beta / (2 * self.n)
        _KICK[self.n](u, p, self._table, 1.0, size * force)

    def _energy(self, u: Real, p: Real, group: int) -> Real:
        d = len(self.shape)
        planes, energy = np.empty((d * (d - 1) // 2, lanes.LANES)), np.empty(lanes.LANES)
        _PLAQUETTES[self.n](u, self._table, planes)
        motion.kinetic(p, self.n, energy)
        energy -= self._beta[group] * len(self._table) * planes.sum(0)
        return energy
