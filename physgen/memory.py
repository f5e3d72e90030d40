"""Freed memory goes back to the system.

The C library keeps freed arrays of up to 32 MiB for later, and cannot give back those that lie
below one that is still in use. After samples were read and measured that is a third of all memory.
"""

from __future__ import annotations

import ctypes
import sys


def release() -> None:
    """Give back what is free, also in between, where the C library can.

    It takes milliseconds: for the end of a stage, not of a step.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
