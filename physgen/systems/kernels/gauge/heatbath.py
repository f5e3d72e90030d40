"""Heat bath and overrelaxation of gauge links, many chains at once: U(1), SU(2), SU(3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from physgen.errors import DomainError
from physgen.systems.kernels.gauge import draws, lanes, su2, su3, u1
from physgen.systems.kernels.gauge.ensemble import Ensemble, Schedule

_RUN = {1: u1.run, 2: su2.run, 3: su3.run}


class Chains:
    """Markov chains of gauge theories with Wilson's action, S = -(beta / N) sum_P Re tr P.

    Args:
        links: (C, d, *shape) angles of U(1), or (C, d, *shape, N, N, 2) real and imaginary parts of
            SU(2) or SU(3), where the chains begin. They are copied.
        beta: the inverse coupling, one or (C,).
        seed: of the random numbers; each chain has its own.

    Raises:
        DomainError: the links have none of these shapes, or a beta is negative or not finite.

    >>> chains = Chains(np.zeros((16, 2, 8, 8)), beta=2.0, seed=1)
    >>> chains.sweep(50, 2)
    >>> theta = chains.links()
    >>> x, y = theta[:, 0], theta[:, 1]
    >>> plaquette = np.cos(x + np.roll(y, -1, 1) - np.roll(x, -1, 2) - y).mean()
    >>> bool(0.6 < plaquette < 0.8)  # I_1(2) / I_0(2) = 0.698
    True
    """

    def __init__(
        self,
        links: NDArray[np.float64],
        beta: float | Sequence[float] | NDArray[np.float64],
        seed: int,
    ) -> None:
        self.n, self.shape = lanes.group_of(links)
        self._like = links.shape
        self.packed = lanes.pack(links)
        self._table = lanes.table_of(self.shape)
        n_lanes = len(self.packed) * lanes.LANES
        self._counters = draws.counters(seed, n_lanes).reshape(-1, lanes.LANES)
        self._pools = [draws.pool(of_group) for of_group in self._counters]
        self.set_beta(beta)

    def set_beta(self, beta: float | Sequence[float] | NDArray[np.float64]) -> None:
        """Go on at another coupling, one or (C,); raises `DomainError` as the constructor does."""
        values = np.broadcast_to(np.asarray(beta, np.float64), self._like[:1])
        if not (np.isfinite(values).all() and (values >= 0).all()):
            raise DomainError(f"beta = {beta}: it must be finite and not negative")
        every = np.full(len(self.packed) * lanes.LANES, values[-1] if values.size else 0.0)
        every[: len(values)] = values
        self._beta = every.reshape(-1, lanes.LANES)
        self._ensembles = [
            Ensemble(self._table, beta, pool)
            for beta, pool in zip(self._beta, self._pools, strict=True)
        ]

    def sweep(self, n_heatbath: int, n_overrelaxation: int = 0, *, backwards: bool = False) -> None:
        """Do `n_heatbath` heat-bath sweeps, each followed by so many of overrelaxation.

        Or all updates in the opposite order, `backwards`, which is the reverse of this kernel with
        respect to exp(-S): p(x) T(x -> y) = p(y) T'(y -> x).
        """
        schedule = Schedule(n_heatbath, n_overrelaxation, backwards)
        for packed, ensemble in zip(self.packed, self._ensembles, strict=True):
            _RUN[self.n](packed, ensemble, schedule)

    def links(self, out: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Return where the chains stand, in the shape in which they were given, or write it."""
        result = np.empty(self._like) if out is None else out
        lanes.unpack(self.packed, result)
        return result


def sweeps(
    links: NDArray[np.float64],
    beta: float | Sequence[float] | NDArray[np.float64],
    n_heatbath: int,
    n_overrelaxation: int,
    seed: int,
    *,
    backwards: bool = False,
) -> None:
    """Update links of C chains in place: `Chains` for one call.

    >>> links = np.zeros((3, 2, 4, 4))
    >>> sweeps(links, 1.0, 10, 1, seed=1)
    >>> bool((abs(links) <= np.pi).all() and links.std() > 0.1)
    True
    """
    chains = Chains(links, beta, seed)
    chains.sweep(n_heatbath, n_overrelaxation, backwards=backwards)
    chains.links(links)
