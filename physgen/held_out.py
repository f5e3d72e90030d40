"""Log-likelihoods of samples that were not trained on, as far as a surrogate knows them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy import float64
from numpy.typing import NDArray
from torch import Tensor

from physgen.batch import Batch
from physgen.errors import DomainError
from physgen.sampling.annealing import InvertedBracket
from physgen.surrogates.base import (
    HasEstimatedLikelihood,
    HasImportanceBound,
    Surrogate,
    bound_of,
    density_of,
)
from physgen.transforms.images import Dequantise
from physgen.validation.comparison import HeldOut, evenly_spaced

BLOCK = 256
"""Samples given to a surrogate at once."""

_DISCRETE = {"binary", "spin", "integer"}


@torch.no_grad()
def held_out(
    surrogate: Surrogate, truth: Batch, floor: Batch | None, *, n: int, draws: int, seed: int
) -> dict[str, HeldOut]:
    """Return the log-likelihoods of true samples, by what they are called, the closest first.

    Args:
        surrogate: may know its density, a bound on it, or an estimate; else there is nothing.
        truth, floor: two samples, of which `evenly_spaced` spaced rows are used.
        n: at most so many rows of each.
        draws: latent vectors a sample of an importance-weighted bound.
        seed: of bounds and estimates.
    """
    model: Any = surrogate
    generator = torch.Generator(device=surrogate.device).manual_seed(seed)
    samples = [_rows(batch, n, surrogate) for batch in (truth, floor) if batch is not None]
    likelihoods: dict[str, HeldOut] = {}

    def known(
        values: list[NDArray[float64]], note: str = "", *, exact: bool = False, error: float = 0.0
    ) -> HeldOut:
        floor_values = values[1] if len(values) > 1 else None
        return HeldOut(values[0], floor_values, exact, error, _is_discrete(surrogate), note)

    def blockwise(likelihood: Callable[[Batch], Tensor]) -> list[NDArray[float64]]:
        return [_in_blocks(likelihood, sample) for sample in samples]

    density, bounded = density_of(surrogate), bound_of(surrogate)
    if density is not None:
        likelihoods["exact"] = known(blockwise(density.log_prob), exact=True)
    if isinstance(surrogate, HasEstimatedLikelihood):
        joined = Batch.concatenate(samples)
        try:
            log_q, error = model.log_likelihood(joined, generator=generator)
            values = np.split(log_q.double().cpu().numpy(), [len(samples[0])])
            note = "with the error of its estimated normalisation"
            exact = surrogate.transform.exact
            likelihoods["estimated"] = known(
                values[: len(samples)], note, exact=exact, error=float(error)
            )
        except InvertedBracket as inverted:
            unknown = np.full(len(samples[0]), np.nan)
            likelihoods["estimated"] = HeldOut(unknown, exact=False, warning=str(inverted))
    if bounded is None:
        return likelihoods
    try:
        if isinstance(surrogate, HasImportanceBound):
            bound = partial(model.importance_bound, draws=draws, generator=generator)
            likelihoods[f"bound of {draws} draws"] = known(blockwise(bound))
        likelihoods["bound"] = known(blockwise(partial(bounded.elbo, generator=generator)))
    except DomainError:
        # A transform that rounds leaves a bound in its own space, and none in that of samples.
        if _keeps_bounds(surrogate, samples[0], generator):
            raise
    return likelihoods


def _rows(batch: Batch, n: int, surrogate: Surrogate) -> Batch:
    rows = batch[torch.from_numpy(evenly_spaced(len(batch), n))]
    return surrogate.accept(Batch(rows.x, rows.condition, mask=rows.mask))


def _in_blocks(likelihood: Callable[[Batch], Tensor], sample: Batch) -> NDArray[float64]:
    parts = [
        likelihood(sample[start : start + BLOCK]).double().cpu()
        for start in range(0, len(sample), BLOCK)
    ]
    values: NDArray[float64] = torch.cat(parts).numpy()
    return values


def _keeps_bounds(surrogate: Surrogate, sample: Batch, generator: torch.Generator) -> bool:
    try:
        surrogate.transform.bound(sample[:1], generator)
    except DomainError:
        return False
    return True


def _is_discrete(surrogate: Surrogate) -> bool:
    """Return whether a likelihood of samples is a probability, not a density."""
    spread = any(isinstance(part, Dequantise) for part in surrogate.transform.modules())
    return spread or {v.domain for v in surrogate.schema.variables} <= _DISCRETE
