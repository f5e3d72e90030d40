"""What groups of lanes are updated with, and in which order."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from physgen.systems.kernels.gauge.draws import Pool


class Ensemble(NamedTuple):
    """The distribution of a group of lanes, and the random numbers that its updates take.

    Attributes:
        table: (V, 2 d), see `lanes.table_of`.
        beta: (LANES,), the inverse couplings.
        pool: of candidates; used up.

    >>> from physgen.systems.kernels.gauge import draws, lanes, u1
    >>> u = lanes.pack(np.zeros((lanes.LANES, 2, 4, 4)))[0]
    >>> pool = draws.pool(draws.counters(1, lanes.LANES))
    >>> ensemble = Ensemble(lanes.table_of((4, 4)), np.full(lanes.LANES, 2.0), pool)
    >>> u1.run(u, ensemble, Schedule(n_heatbath=20, n_relax=1, backwards=False))
    >>> planes = np.empty((1, lanes.LANES))
    >>> u1.plaquettes(u, ensemble.table, planes)
    >>> bool(0.6 < planes.mean() < 0.8)  # I_1(2) / I_0(2) = 0.698
    True
    """

    table: NDArray[np.int32]
    beta: NDArray[np.float64]
    pool: Pool


class Schedule(NamedTuple):
    """The sweeps of a call.

    Attributes:
        n_heatbath: sweeps of heat bath.
        n_relax: sweeps of overrelaxation after each of them.
        backwards: do all updates in the opposite order.
    """

    n_heatbath: int
    n_relax: int
    backwards: bool
