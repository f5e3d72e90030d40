"""Whether compiled kernels can be kept for the next process."""

from __future__ import annotations

import numba


def _can_cache() -> bool:
    """Whether numba finds a folder for compiled kernels; where it does not, it would not compile.

    It looks beside the package and in the user's cache folder, which may both be read-only.
    """
    try:
        numba.njit(cache=True)(lambda: None)
    except RuntimeError:
        return False
    return True


CACHE = _can_cache()
