"""Draws of an estimated posterior for many data at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from physgen.batch import Batch
from physgen.surrogates.base import HasRelativeDensity, Surrogate, density_of
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
    density, log_density = density_of(surrogate), None
    if density is not None:
        log_density = density.log_prob
    elif isinstance(surrogate, HasRelativeDensity):  # Of one datum they are compared alone.
        log_density = surrogate.relative_log_prob
    if log_density is not None:
        every = torch.cat([truth.x.double()[:, None], draws], 1).flatten(0, 1)
        rows = given.cpu().repeat_interleave(1 + n_draws, 0)
        parts = [
            log_density(surrogate.accept(Batch(every[i : i + _ROWS], rows[i : i + _ROWS])))
            for i in range(0, len(every), _ROWS)
        ]
        log_prob = torch.cat(parts).double().cpu().reshape(n, 1 + n_draws).numpy()
    reference = _points(truth.x.double(), truth.condition.double())
    return PosteriorDraws(truth.x.double().numpy(), draws.numpy(), reference.numpy(), log_prob)


def _points(theta: Tensor, data: Tensor) -> Tensor:
    """Return (N, P) points of TARP, true parameters of other rows in the order of the data.

    They depend on the data, and so find a posterior that does not. Each half of the rows has those
    of the other half: were a row's own parameters among them, the points would know more of these
    than the data say, and the exact posterior would fail.
    """
    points = torch.empty_like(theta)
    halves = torch.arange(len(theta)).tensor_split(2)
    for rows, others in (halves, halves[::-1]):
        ranks = data[rows].argsort(0).argsort(0).sum(1).argsort().argsort()
        ordered = theta[others][theta[others, 0].argsort()]
        points[rows] = ordered[ranks * len(others) // max(len(rows), 1)]
    return points
