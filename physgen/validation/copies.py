"""What is remembered of rows to know their copies: keys that are equal where rows are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from physgen.batch import Batch
from physgen.validation.comparison import Comparison, in_blocks

Keys = NDArray[np.uint64]

EMPTY = np.uint64(0)
"""The key of a row of zeros."""

MOST = 100_000
"""Rows of which features are held, evenly spread; all are looked at for copies."""


@dataclass(frozen=True)
class Learned:
    """What is remembered of training rows after one reading.

    Attributes:
        keys: (n,), equal where rows are, see `keys_of`.
        features: (m, F) of high level, of at most `MOST` rows.
    """

    keys: Keys
    features: NDArray[float64]


def learned(comparison: Comparison) -> Learned | None:
    """Read the training rows of a comparison, if they are known."""
    training = comparison.training
    if training is None or training.n == 0:
        return None
    step = -(-training.n // MOST)
    keys, features, start = [], [], 0
    for part in (piece for batch in training.parts() for piece in in_blocks(batch)):
        keys.append(keys_of(part))
        chosen = part[(-start) % step :: step]
        if len(chosen):
            features.append(comparison.features(chosen, "high").astype(float64))
        start += len(part)
    return Learned(np.concatenate(keys), np.concatenate(features))


def keys_of(batch: Batch) -> Keys:
    """Return (N,) keys that are equal where rows are, bit by bit in float32.

    >>> import torch
    >>> keys = keys_of(Batch(torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0]])))
    >>> bool(keys[0] == keys[2]), bool(keys[0] == keys[1])
    (True, False)
    """
    keys = []
    for part in in_blocks(batch):
        bits = part.x.flatten(1).float().contiguous().cpu().numpy()
        words = (bits + 0.0).view(np.uint32).astype(np.uint64)  # -0 is 0.
        factors = np.random.default_rng(0).integers(0, 2**63, words.shape[1], dtype=np.uint64)
        keys.append((words * (2 * factors + 1)).sum(1, dtype=np.uint64))
    return np.concatenate(keys)
