"""Random numbers that follow from names alone: generator = f(seed, step, purpose, ...).

Nothing about randomness needs saving then: step 1000 of a resumed run draws what step 1000 of an
uninterrupted run would have drawn.
"""

from __future__ import annotations

import hashlib

import torch


def keyed_seed(*key: int | str) -> int:
    """Return 63 bits that depend on every part of `key`."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in key)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def seed_global(seed: int, device: torch.device) -> None:
    """Seed the generators that operations without a `generator` argument use (dropout).

    `torch.manual_seed` seeds every backend there is and takes 80 microseconds; this takes two.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed)
