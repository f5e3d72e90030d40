"""Errors of means and of functions of means without derivatives: jackknife and bootstrap."""

from __future__ import annotations

import numpy as np
from numpy import float64
from numpy.typing import ArrayLike

from physgen.validation.uncertainty import Estimate, Function, evaluate, means_of, prepare


def jackknife(
    columns: ArrayLike,
    *,
    function: Function | None = None,
    weight: ArrayLike | None = None,
    n_blocks: int = 50,
) -> Estimate:
    """Estimate by leaving out one of `n_blocks` consecutive blocks at a time.

    Blocks longer than the autocorrelation time make the error right for a single Markov chain.
    `value` is corrected for the leading 1/N bias of a non-linear function. Arguments as in
    `gamma_method`.
    """
    samples, weights = prepare(columns, weight)
    n_blocks = min(n_blocks, len(samples))
    if n_blocks < 2:
        return Estimate(evaluate(function, means_of(samples, weights)), float("nan"))
    edges = np.linspace(0, len(samples), n_blocks + 1).astype(int)[:-1]
    sums = np.add.reduceat(np.where(weights != 0, samples, 0) * weights, edges, axis=0)
    norms = np.add.reduceat(weights, edges, axis=0)
    left = (sums.sum(0) - sums) / (norms.sum(0) - norms)
    parts = np.array([evaluate(function, row) for row in left])
    whole = evaluate(function, means_of(samples, weights))
    error = float(np.sqrt((n_blocks - 1) * np.mean((parts - parts.mean()) ** 2)))
    value = n_blocks * whole - (n_blocks - 1) * float(parts.mean())
    return Estimate(value, error, error / float(np.sqrt(2 * (n_blocks - 1))))


def bootstrap(
    columns: ArrayLike,
    *,
    function: Function | None = None,
    weight: ArrayLike | None = None,
    seed: int,
    n_resamples: int = 200,
) -> Estimate:
    """Estimate from `n_resamples` resamplings of independent samples with replacement.

    Resampling is by Poisson(1) multiplicities, which keeps event weights with their events and
    needs no copy of the samples. Arguments as in `gamma_method`.
    """
    samples, weights = prepare(columns, weight)
    weighted = np.where(weights != 0, samples, 0) * weights
    generator = np.random.default_rng(seed)
    parts = []
    for _ in range(n_resamples):
        times = generator.poisson(1.0, len(samples)).astype(float64)
        parts.append(evaluate(function, (times @ weighted) / (times @ weights)))
    error = float(np.std(parts, ddof=1))
    value = evaluate(function, means_of(samples, weights))
    return Estimate(value, error, error / float(np.sqrt(2 * (n_resamples - 1))))
