"""How long a surrogate takes for a sample: the protocol of CaloChallenge (arXiv:2410.21611)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy import float64
from numpy.typing import NDArray

from physgen.surrogates.base import Surrogate

ENOUGH = 30.0
"""Seconds after which a batch size is not drawn again."""


@torch.no_grad()
def milliseconds(
    surrogate: Surrogate,
    condition: torch.Tensor | None,
    *,
    batches: Sequence[int],
    repeats: int,
    seed: int,
) -> dict[int, NDArray[float64]]:
    """Return milliseconds of wall time a sample, by batch size, on one thread, a number a repeat.

    Each size is drawn once before, for what is only done once, and not again after `ENOUGH`.

    Args:
        surrogate: on its device; a GPU is waited for.
        condition: (N, C) rows to draw the conditions of samples from, or `None`.
        batches: how many samples are drawn at once.
        repeats: how often at most.
        seed: of the samples.
    """
    generator = torch.Generator(device=surrogate.device).manual_seed(seed)
    found = {}
    with _one_thread():
        for size in batches:
            given = None
            if condition is not None:
                rows = torch.arange(size) * len(condition) // size
                given = condition[rows].to(device=surrogate.device, dtype=surrogate.dtype)
            _seconds(surrogate, size, given, generator)
            taken: list[float] = []
            while len(taken) < repeats and sum(taken) < ENOUGH:
                taken.append(_seconds(surrogate, size, given, generator))
            found[size] = 1000 * np.array(taken) / size
    return found


def _seconds(
    surrogate: Surrogate, n: int, condition: torch.Tensor | None, generator: torch.Generator
) -> float:
    start = time.perf_counter()
    surrogate.sample(n, condition, generator=generator)
    if surrogate.device.type == "cuda":
        torch.cuda.synchronize(surrogate.device)
    return time.perf_counter() - start


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
