r"""Exploring the latent space of any map of noise: what lies between samples, and around them.

Normal noise in D dimensions lies near the sphere of radius sqrt(D), which a straight line between
two points leaves. The path

    z(t) = cos(\pi t / 2) z_0 + sin(\pi t / 2) z_1

of two independent normal points is normal at every t.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from physgen.errors import InputError
from physgen.surrogates.base import FromNoise, Surrogate
from physgen.surrogates.decoding import DecodedNoise


@torch.no_grad()
def interpolate(
    surrogate: Surrogate,
    start: Tensor,
    end: Tensor,
    *,
    steps: int = 10,
    condition: Tensor | None = None,
) -> Tensor:
    """Return (n, steps, *shape): samples on the way from one noise to another.

    Args:
        surrogate: any `FromNoise`.
        start, end: (n, *noise_shape).
        steps: in a row, both ends included.
        condition: (n, C) in physical units, of each row.

    Raises:
        InputError: the surrogate is no map of noise.
    """
    if not isinstance(surrogate, FromNoise):
        raise InputError(
            f"{type(surrogate).__name__} is no map of noise: there is nothing to interpolate"
        )
    angle = torch.linspace(0, math.pi / 2, steps).to(start)
    along = angle.reshape(-1, *(1,) * (start.ndim - 1))
    noise = along.cos() * start[:, None] + along.sin() * end[:, None]
    rows = None if condition is None else condition.repeat_interleave(steps, 0)
    x = surrogate.from_noise(noise.flatten(0, 1), rows)
    return x.reshape(len(start), steps, *x.shape[1:])


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
    x = surrogate.from_noise(rows, condition)
    return x.reshape(len(entries), steps, *x.shape[1:])


@torch.no_grad()
def widest(
    surrogate: DecodedNoise, n: int, *, span: float = 2.5, condition: Tensor | None = None
) -> list[int]:
    """Return the `n` latent entries that move samples the most, the widest first.

    What is measured is the distance of the samples at both ends of `traverse`.

    Args:
        surrogate: one with a latent vector.
        n: how many; fewer if there are fewer.
        span: the entry goes from -span to span.
        condition: (C,) in physical units, of all samples.
    """
    entries = range(surrogate.n_latent)
    ends = traverse(surrogate, entries, span=span, steps=2, condition=condition)
    distance = (ends[:, 1] - ends[:, 0]).flatten(1).square().sum(1)
    result: list[int] = distance.argsort(descending=True)[:n].tolist()
    return result


@torch.no_grad()
def moments(
    surrogate: Surrogate, n: int, condition: Tensor | None = None, *, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation, each (*shape), of `n` samples.

    Args:
        surrogate: any.
        n: how many.
        condition: (C,) in physical units, of all samples; drawn from those seen in training if
            `None`.
        generator: on the device of the parameters.
    """
    rows = None if condition is None else condition.expand(n, -1)
    x = surrogate.sample(n, rows, generator=generator).x
    return x.mean(0), x.std(0)


def latent_moments(noise: Tensor, label: Tensor, n_labels: int) -> tuple[Tensor, Tensor]:
    """Return means and standard deviations, each (n_labels, *noise_shape), of the noise of a label.

    A mean, pushed, shows what the samples of a label have in common, and differences of means
    are directions from one to another (Radford, Metz & Chintala, arXiv 1511.06434, section 6.3).

    Args:
        noise: (N, *noise_shape) behind N samples.
        label: (N,) integers that somebody gave to the samples, such as a classifier.
        n_labels: how many there are; one that fewer than two samples have gives NaN.
    """
    chosen = [noise[label == k] for k in range(n_labels)]
    nothing = torch.full_like(noise[0], math.nan)
    means = [rows.mean(0) if len(rows) > 1 else nothing for rows in chosen]
    deviations = [rows.std(0) if len(rows) > 1 else nothing for rows in chosen]
    return torch.stack(means), torch.stack(deviations)
