"""Random words of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014).

The state is a counter, so that one draw does not wait for the one before.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from physgen.systems.kernels.cache import CACHE

STRIDE = np.uint64(0x9E3779B97F4A7C15)
"""By which the counter goes on from one word to the next."""
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31 = (np.uint64(n) for n in (27, 30, 31))


@njit(cache=CACHE, inline="always")
def mix(counter: Any) -> Any:
    """Return the random word of a counter."""
    z = (counter ^ (counter >> _S30)) * _MIX_1
    z = (z ^ (z >> _S27)) * _MIX_2
    return z ^ (z >> _S31)
