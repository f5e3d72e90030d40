"""Checksums of rotated words, as SciDAC and MILC have them."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK = 2**14
"""Periods that are looked at together: their words stay in the cache."""


def rotated(words: NDArray[np.unsignedinteger[Any]], period: int) -> int:
    """Return the exclusive or of 32-bit words, the k-th rotated left by k mod `period` bits.

    Words that are rotated alike are combined before they are rotated.

    >>> rotated(np.array([1, 1, 1], np.uint32), 2)  # 1 ^ (1 << 1) ^ 1
    2
    """
    combined = np.zeros(period, np.uint32)
    whole = len(words) // period * period
    for start in range(0, whole, _BLOCK * period):
        block = words[start : min(start + _BLOCK * period, whole)].astype(np.uint32, copy=False)
        combined ^= np.bitwise_xor.reduce(block.reshape(-1, period), axis=0)
    combined[: len(words) - whole] ^= words[whole:].astype(np.uint32)
    result = 0
    for shift, word in enumerate(combined.tolist()):
        result ^= (word << shift | word >> (32 - shift)) & 0xFFFFFFFF
    return result


def crc32_of_sites(content: NDArray[np.uint8], sites: int) -> NDArray[np.uint32]:
    """Return the CRC-32 of the bytes of each of `sites` sites.

    zlib's loop over the bytes of a site takes several times longer than Python's over sites.
    """
    rows = content.reshape(-1).view(f"V{content.size // sites}")
    return np.fromiter(map(zlib.crc32, rows), np.uint32, sites)


def scidac(content: NDArray[np.uint8], sites: int) -> dict[str, int]:
    """Return suma and sumb of the bytes of `sites` sites in the order of their ranks."""
    sums = crc32_of_sites(content, sites)
    return {"suma": rotated(sums, 29), "sumb": rotated(sums, 31)}
