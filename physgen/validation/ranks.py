"""Ranks of true parameters among draws of estimated posteriors; see `calibration`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy import float64
from numpy.typing import NDArray

Array = NDArray[float64]


@dataclass(frozen=True)
class PosteriorDraws:
    """Draws of estimated posteriors beside the parameters that the data came from.

    Attributes:
        theta: (N, P), that simulated the data.
        draws: (N, L, P), of the posterior given the data.
        reference: (N, P), points of TARP, anywhere, which may depend on the data.
        log_prob: (N, 1 + L), of theta and of the draws, up to a constant a row; `None` if unknown.

    >>> generator = np.random.default_rng(0)
    >>> theta, draws = generator.normal(size=(500, 1)), generator.normal(size=(500, 50, 1))
    >>> exact = PosteriorDraws(theta, draws, reference=generator.normal(size=(500, 1)))
    >>> {name: f"{u.mean():.1f}" for name, u in calibrations(exact, ("mu",), 0).items()}
    {'SBC ranks of mu': '0.5', 'TARP coverage': '0.5'}
    """

    theta: Array
    draws: Array
    reference: Array
    log_prob: Array | None = None


def fractions(smaller: NDArray[np.bool_], seed: int) -> Array:
    """Return (N,) randomised ranks in [0, 1] of (N, L) comparisons with draws."""
    n, n_draws = smaller.shape
    away = np.random.default_rng(seed).uniform(size=n)
    return np.asarray((smaller.sum(1) + away) / (n_draws + 1))


def calibrations(posterior: PosteriorDraws, names: tuple[str, ...], seed: int) -> dict[str, Array]:
    """Return (N,) numbers in [0, 1], by the question they answer, uniform if calibrated."""
    theta, draws = posterior.theta, posterior.draws
    result = {
        f"SBC ranks of {name}": fractions(draws[:, :, i] < theta[:, i, None], seed)
        for i, name in enumerate(names)
    }
    scale = theta.std(0)
    near = (((draws - posterior.reference[:, None]) / scale) ** 2).sum(2)
    own = (((theta - posterior.reference) / scale) ** 2).sum(1)
    result["TARP coverage"] = fractions(near < own[:, None], seed)
    if posterior.log_prob is not None:
        log_prob = posterior.log_prob
        result["expected coverage"] = fractions(log_prob[:, 1:] > log_prob[:, :1], seed)
    return result
