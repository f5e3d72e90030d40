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
