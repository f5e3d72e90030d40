"""Random numbers that follow from names alone: generator = f(seed, step, purpose, ...).

Nothing about randomness needs saving then: step 1000 of a resumed run draws what step 1000 of an
uninterrupted run would have drawn.
"""

from __future__ import annotations

import hashlib

import torch


def keyed_seed(*key: int | str, number: int = 0) -> int:
    """Return a seed that depends on every part of `key`, Python's integers and text, plus `number`.

    Torch's CPU generator uses the lower 32 bits of a seed only, so that hashes of 10^5 keys would
    meet each other. What is counted (steps, blocks) is therefore added, not hashed: the numbers of
    one key never share a seed.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in key)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") + number) % 2**63


def seed_global(seed: int, device: torch.device) -> None:
    """Seed the generators that operations without a `generator` argument use (dropout).

    `torch.manual_seed` seeds every backend there is and takes 80 microseconds; this takes two.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed)
