"""Looking at latent spaces: what a sample becomes as its noise is moved along one entry."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from physgen.errors import InputError
from physgen.surrogates.base import FromNoise, Surrogate


@torch.no_grad()
def traverse(
    surrogate: Surrogate,
    entries: Sequence[int],
    *,
    span: float = 2.5,
    steps: int = 9,
    start: Tensor | None = None,
    condition: Tensor | None = None,
) -> Tensor:
    """Return (len(entries), steps, *shape): rows of samples, each row along one entry of the noise.

    Args:
        surrogate: any `FromNoise`; the first entries of an autoencoder's noise are its latent
            vector, which are normal where it was well trained.
        entries: of the noise, flattened, in the order of the rows.
        span: the entry goes from -span to span.
        steps: in a row.
        start: noise of the other entries; 0 if `None`, which is the middle of the latent space.
        condition: (C,) in physical units, of all samples.

    Raises:
        InputError: the surrogate is no map of noise, or has no such entry.
    """
    if not isinstance(surrogate, FromNoise):
        raise InputError(f"{type(surrogate).__name__} is no map of noise: it cannot be traversed")
    shape = surrogate.noise_shape
    origin = torch.zeros(shape) if start is None else start
    origin = origin.to(device=surrogate.device, dtype=surrogate.dtype).flatten()
    bad = [entry for entry in entries if not 0 <= entry < len(origin)]
    if bad:
        raise InputError(f"entry {bad[0]}: the noise has entries from 0 to {len(origin) - 1}")
    noise = origin.repeat(len(entries), steps, 1)
    for row, entry in zip(noise, entries, strict=True):
        row[:, entry] = torch.linspace(-span, span, steps).to(row)
    rows = noise.reshape(-1, *shape)
    if condition is not None:
        condition = condition.to(rows).expand(len(rows), -1)
    x = surrogate.push(rows, condition)
    return x.reshape(len(entries), steps, *x.shape[1:])
