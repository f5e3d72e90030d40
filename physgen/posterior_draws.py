"""Draws of an estimated posterior for many data at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from physgen.batch import Batch
from physgen.surrogates.base import Surrogate, density_of
from physgen.validation.calibration import Calibration
from physgen.validation.judging import Metric
from physgen.validation.ranks import PosteriorDraws

_ROWS = 8192
"""Of which densities are computed at once."""


@torch.no_grad()
def posterior_draws(
    surrogate: Surrogate, truth: Batch | None, metrics: Sequence[Metric], seed: int
) -> PosteriorDraws | None:
    """Return draws given the data of true pairs, if a metric is `Calibration`; else `None`.

    The points of TARP are the true parameters in the order of the data: they depend on these, and
    so find a posterior that does not.

    Args:
        surrogate: of parameters given data.
        truth: parameters, and the data as their conditions.
        metrics: of the scorecard, of which one says how many.
        seed: of the draws.
    """
    asked = next((one for one in metrics if isinstance(one, Calibration)), None)
    if asked is None or truth is None or truth.condition is None:
        return None
    truth = truth[: asked.n]
    assert truth.condition is not None
    n, n_draws = len(truth), asked.draws
    generator = torch.Generator(device=surrogate.device).manual_seed(seed)
    given = truth.condition.to(surrogate.device, surrogate.dtype)
    surrogate.conditions.extrapolate, before = True, surrogate.conditions.extrapolate
    drawn = surrogate.sample(n * n_draws, given.repeat_interleave(n_draws, 0), generator=generator)
    surrogate.conditions.extrapolate = before
    draws = drawn.x.double().cpu().reshape(n, n_draws, -1)
    log_prob = None
    density = density_of(surrogate)
    if density is not None:
        every = torch.cat([truth.x.double()[:, None], draws], 1).flatten(0, 1)
        rows = given.cpu().repeat_interleave(1 + n_draws, 0)
        parts = [
            density.log_prob(surrogate.accept(Batch(every[i : i + _ROWS], rows[i : i + _ROWS])))
            for i in range(0, len(every), _ROWS)
        ]
        log_prob = torch.cat(parts).double().cpu().reshape(n, 1 + n_draws).numpy()
    ranks = truth.condition.double().argsort(0).argsort(0).sum(1).argsort()
    order = truth.x.double()[:, 0].argsort()
    reference = torch.empty_like(truth.x.double())
    reference[ranks] = truth.x.double()[order]
    return PosteriorDraws(truth.x.double().numpy(), draws.numpy(), reference.numpy(), log_prob)
