"""Blocks of rows that are relabelled together: of equal size, of whole groups, or of pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BLOCKS = 1000
"""Blocks that the rows of both samples are dealt into: enough to know a null distribution well."""


def equal_blocks(
    sizes: tuple[int, int], size: int, generator: np.random.Generator
) -> tuple[NDArray[np.int64], tuple[int, int]]:
    """Return the block of each row, and how many whole blocks each sample has.

    Rows are dealt in random order, since a file may be sorted; rows that fill no block make one
    more for each sample, which is not permuted.
    """
    counts = (sizes[0] // size, sizes[1] // size)
    start = (0, counts[0])
    rest = counts[0] + counts[1]
    blocks = []
    for n, count, begin in zip(sizes, counts, start, strict=True):
        block = begin + generator.permutation(n) // size
        left = block >= begin + count
        block[left] = rest
        rest += int(left.any())
        blocks.append(block)
    return np.concatenate(blocks), counts


def blocks_of_groups(
    keys: Sequence[NDArray[np.int64]], generator: np.random.Generator
) -> tuple[NDArray[np.int64], tuple[int, int]]:
    """Return the block of each row, whole groups in one, and how many blocks each sample has."""
    blocks, counts, begin = [], [], 0
    n = sum(len(part) for part in keys)
    for part in keys:
        number = np.unique(part, return_inverse=True)[1]
        n_groups = int(number.max()) + 1
        count = min(n_groups, max(500, BLOCKS * len(part) // n))
        blocks.append(begin + (generator.permutation(n_groups) % count)[number])
        counts.append(count)
        begin += count
    return np.concatenate(blocks), (counts[0], counts[1])


def blocks_of_pairs(
    keys: Sequence[NDArray[np.int64]], generator: np.random.Generator
) -> tuple[NDArray[np.int64], tuple[int, int]]:
    """Return the block of each row, and their number in each sample: block i of both is a pair."""
    number = np.unique(np.concatenate(keys), return_inverse=True)[1]
    n_units = int(number.max()) + 1
    count = min(n_units, BLOCKS)
    block = (generator.permutation(n_units) % count)[number]
    block[len(keys[0]) :] += count
    return block, (count, count)
