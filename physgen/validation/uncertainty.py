"""Errors of means and of functions of means by the Gamma-method.

A function F of weighted means A_a = sum_i w_i a_i / sum_i w_i has, to first order, the fluctuation
of one sample

    delta_i = sum_a dF/dA_a  w_i (a_i - A_a) / <w>,          F - F_exact ~ mean_i delta_i,

and everything below is the error of the mean of delta. For a Markov chain (Wolff,
hep-lat/0306017) with R replicas of lengths N_r and N samples in all

    Gamma(t) = sum_r sum_i delta_r(i) delta_r(i + t) / sum_r (N_r - t),
    C(W) = Gamma(0) + 2 sum_{t=1}^W Gamma(t),
    tau_int(W) = C(W) / 2 Gamma(0),    error^2 = C(W) / N

where W is the first window at which the systematic error of cutting the sum falls below the
statistical one (his equations 50-52). Independent samples have tau_int = 1/2. The same formulae
serve importance weights and event weights of either sign. A function of means is biased by
1/2 sum_ab d2F/dA_a dA_b cov(A_a, A_b) to second order, which is taken away. Where rows come in
groups (candidates of one collision), the fluctuations of a group are summed before they are
squared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy import float64
from numpy.typing import ArrayLike, NDArray

from physgen.errors import DomainError
from physgen.sampling.autocorrelation import (
    DISAGREEMENT,
    agreement,
    autocovariance,
    automatic_window,
    by_chain,
    decorrelated,
    has_slow_mode,
    in_pieces,
)

Function = Callable[[NDArray[float64]], float]

ENOUGH = 50
"""Samples must span this many tau_int for the error to be believed."""

MANY_REPLICAS = 16
"""From so many chains on, their spread gives the error where no window can be found."""


@dataclass(frozen=True)
class Estimate:
    """A number and how well it is known.

    Attributes:
        value, error: in the unit of the quantity.
        error_of_error: statistical error of `error` itself.
        tau_int, tau_int_error: integrated autocorrelation time in steps of the chain; 1/2 without.
        window: where the autocorrelation sum was cut.
        converged: whether a window was found, the samples span `ENOUGH` times tau_int (and the
            window, if it is that of a slow mode below others), and several chains, and pieces of
            chains, agree within their errors. Else `error` is a lower limit.
        agreement: p-value of all chains having one mean; NaN where that cannot be told.
        correlation: rho(t) for t = 0, 1, ... a few windows; empty for independent samples.
    """

    value: float
    error: float
    error_of_error: float = float("nan")
    tau_int: float = 0.5
    tau_int_error: float = 0.0
    window: int = 0
    converged: bool = True
    agreement: float = float("nan")
    correlation: tuple[float, ...] = ()


def gamma_method(
    columns: ArrayLike,
    *,
    function: Function | None = None,
    chain: ArrayLike | None = None,
    group: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    s_tau: float = 1.5,
) -> Estimate:
    """Estimate a mean, or a function of means, with its error.

    Args:
        columns: (N,) or (N, k) samples of the k observables whose means `function` takes. NaN
            means "not defined for this sample": it does not enter the mean of its column.
        function: of the (k,) means; by default the mean of the only column.
        chain: (N,) which Markov chain each sample belongs to, in order of time within a chain;
            `None` for independent samples.
        group: (N,) keys; samples that share one are not independent. Not beside `chain`.
        weight: (N,) event or importance weights.
        s_tau: Wolff's S, the guessed ratio of tau to tau_int.

    Raises:
        DomainError: if lengths differ, nothing is left to average, or the weights sum to zero.

    >>> mean = gamma_method([1.0, 2.0, 3.0, 4.0])
    >>> mean.value, round(mean.error, 4)  # the standard deviation over the square root of 4
    (2.5, 0.6455)
    """
    samples, weights = _prepare(columns, weight)
    if chain is not None:
        # Chains in which nothing is defined, such as those at other couplings, are none of these.
        chain = _checked(chain, len(samples))
        numbers = np.unique(chain, return_inverse=True)[1]
        here = np.bincount(numbers, np.any(weights != 0, axis=1))[numbers] > 0
        samples, weights, chain = samples[here], weights[here], chain[here]
    means = _means_of(samples, weights)
    parts = _fluctuations(samples, weights, means)
    if int(np.count_nonzero(np.any(weights != 0, axis=1))) < 2:
        return Estimate(_evaluate(function, means), float("nan"))
    if chain is not None:
        return _windowed(means, parts, function, chain, s_tau)
    return _independent(means, parts, function, weights, group)


def _independent(
    means: NDArray[float64],
    parts: NDArray[float64],
    function: Function | None,
    weights: NDArray[float64],
    group: ArrayLike | None,
) -> Estimate:
    """Square the fluctuations of samples, or of groups of them."""
    gradient, hessian = _derivatives(function, means, parts)
    value, n_rows = _evaluate(function, means), len(parts)
    n_used = int(np.count_nonzero(np.any(weights != 0, axis=1)))
    if group is not None:
        numbers = np.unique(np.asarray(group), return_inverse=True)[1]
        parts = np.stack([np.bincount(numbers, weights=column) for column in parts.T], axis=1)
        n_used = min(n_used, len(parts))
        if n_used < 2:
            return Estimate(value, float("nan"))
    scale = n_used / (n_used - 1) / n_rows**2
    error = float(np.sqrt(np.sum((parts @ gradient) ** 2) * scale))
    value -= _bias(hessian, parts.T @ parts * scale, error)
    return Estimate(value, error, error / np.sqrt(2 * (n_used - 1)))


def _windowed(
    means: NDArray[float64],
    parts: NDArray[float64],
    function: Function | None,
    chain: NDArray[Any],
    s_tau: float,
) -> Estimate:
    """Cut the autocorrelation sum of the fluctuations automatically."""
    gradient, hessian = _derivatives(function, means, parts)
    pieces, lengths = by_chain(parts, chain)
    table = pieces @ gradient
    value, n, n_chains = _evaluate(function, means), len(parts), len(lengths)
    gamma = autocovariance(table, lengths, table.shape[1] // 2)
    if gamma[0] <= 0:  # A constant: exactly known, as far as these samples tell.
        return Estimate(value, 0.0, 0.0)
    cut = automatic_window(gamma, n, s_tau)
    window, is_cut = cut.size, cut.found
    # Subtracting the mean of the same samples shifts Gamma(t) by -C/N (Wolff, equation 49).
    gamma = gamma + (gamma[0] + 2 * gamma[1 : window + 1].sum()) / n
    tau = max(0.5, float(0.5 + gamma[1 : window + 1].sum() / gamma[0]))
    error = float(np.sqrt(2 * tau * gamma[0] / n))
    error_of_error = error * float(np.sqrt((window + 0.5) / n))
    tau_error = 2 * tau * float(np.sqrt(max(window + 0.5 - tau, 0.0) / n))
    p_value = agreement(table, lengths)
    slow_mode = has_slow_mode(table, lengths)
    if is_cut:
        # A slow mode is known as well as it comes and goes often.
        span = max(tau, window) if cut.slow_mode else tau
        converged = n >= ENOUGH * span and not p_value < DISAGREEMENT and not slow_mode
    else:
        converged = n_chains >= MANY_REPLICAS and decorrelated(table, lengths)
    if not (is_cut and converged) and (n_chains > 1 or slow_mode):
        parts_of, sizes = in_pieces(table, lengths) if slow_mode else (table, lengths)
        spread = _spread_of_means(parts_of.sum(1), sizes)
        if spread > error or n_chains >= MANY_REPLICAS:
            error, error_of_error = spread, spread / float(np.sqrt(2 * (len(sizes) - 1)))
            tau = max(0.5, error**2 * n / (2 * gamma[0]))
            tau_error = 2 * tau * error_of_error / error
    if hessian.any():
        value -= _bias(hessian, _windowed_covariance(pieces, window) / n**2, error)
    rho = gamma[: 3 * window + 20] / gamma[0]
    correlation = tuple(rho.tolist())
    return Estimate(
        value, error, error_of_error, tau, tau_error, window, converged, p_value, correlation
    )


def _spread_of_means(sums: NDArray[float64], lengths: NDArray[np.int64]) -> float:
    """Return the error of the mean from the scatter of chains, given the sum of each."""
    r = len(sums)
    return float(np.sqrt(np.sum(sums**2) * r / (r - 1)) / lengths.sum())


def _windowed_covariance(pieces: NDArray[float64], window: int) -> NDArray[float64]:
    """Return the (k, k) sum of products of the fluctuations (R, T, k) over |t| <= window."""
    length, k = pieces.shape[1:]
    sums = np.zeros((len(pieces), length + 1, k))
    np.cumsum(pieces, axis=1, out=sums[:, 1:])
    i = np.arange(length)
    near = sums[:, np.minimum(i + window + 1, length)] - sums[:, np.maximum(i - window, 0)]
    return np.asarray(pieces.reshape(-1, k).T @ near.reshape(-1, k))


def autocorrelation(values: ArrayLike, chain: ArrayLike | None = None) -> NDArray[float64]:
    """Return rho(t) of (N,) values, up to half of the longest chain."""
    samples, weights = _prepare(values, None)
    parts = _fluctuations(samples, weights, _means_of(samples, weights))
    labels = np.zeros(len(parts), dtype=np.int64) if chain is None else chain
    table, lengths = by_chain(parts[:, 0], _checked(labels, len(parts)))
    gamma = autocovariance(table, lengths, table.shape[1] // 2)
    result: NDArray[float64] = gamma / (gamma[0] if gamma[0] > 0 else 1.0)
    return result


def _prepare(
    columns: ArrayLike, weight: ArrayLike | None
) -> tuple[NDArray[float64], NDArray[float64]]:
    """Return (N, k) samples without NaN and (N, k) weights, which are zero where one stood."""
    samples = np.asarray(columns, dtype=float64)
    samples = samples[:, None] if samples.ndim == 1 else samples
    weights = np.ones(len(samples)) if weight is None else np.asarray(weight, dtype=float64)
    if samples.ndim != 2 or weights.shape != samples.shape[:1]:
        raise DomainError(
            f"samples of shape {samples.shape} with weights of shape {weights.shape}: expected "
            "(N,) or (N, k) samples and (N,) weights"
        )
    defined = ~np.isnan(samples)
    weights = np.where(defined, weights[:, None], 0.0)
    if (weights.sum(0) == 0).any():
        raise DomainError(
            "a mean of nothing: no sample has a defined value and a non-zero weight; check the "
            "sample for NaN and its weights"
        )
    return np.where(defined, samples, 0.0), weights


def _means_of(samples: NDArray[float64], weights: NDArray[float64]) -> NDArray[float64]:
    """Return (k,) weighted means of what `_prepare` returns."""
    result: NDArray[float64] = (samples * weights).sum(0) / weights.sum(0)
    # A constant is its own mean, whatever rounding makes of the sum.
    used = weights != 0
    low = np.where(used, samples, np.inf).min(0)
    return np.where(low == np.where(used, samples, -np.inf).max(0), low, result)


def _evaluate(function: Function | None, means: NDArray[float64]) -> float:
    """Return a function of (k,) means, by default the only one of them; NaN where undefined."""
    if function is not None:
        with np.errstate(divide="ignore", invalid="ignore"):  # Undefined is NaN, and shown as such.
            return float(function(means))
    if len(means) != 1:
        raise DomainError(f"{len(means)} columns but no function: say which function of the means")
    return float(means[0])


def _fluctuations(
    samples: NDArray[float64], weights: NDArray[float64], means: NDArray[float64]
) -> NDArray[float64]:
    """Return (N, k): what each sample adds to the deviation of each mean, times N."""
    result: NDArray[float64] = weights / weights.mean(0) * (samples - means)
    return result


def _derivatives(
    function: Function | None, means: NDArray[float64], parts: NDArray[float64]
) -> tuple[NDArray[float64], NDArray[float64]]:
    """Return the (k,) gradient and the (k, k) second derivatives of a function of means.

    By central differences over a quarter of each mean's naive error, as Wolff does: small enough
    to be smooth, large enough for rounding not to matter.
    """
    k = len(means)
    gradient, hessian = np.zeros(k), np.zeros((k, k))
    if function is None:
        return np.ones(k), hessian
    steps = np.diag(np.sqrt((parts**2).mean(0) / len(parts)) / 4)
    here = _evaluate(function, means)
    moving = [i for i in range(k) if steps[i, i] > 0]
    for i in moving:
        up, down = _evaluate(function, means + steps[i]), _evaluate(function, means - steps[i])
        gradient[i] = (up - down) / (2 * steps[i, i])
        hessian[i, i] = (up + down - 2 * here) / steps[i, i] ** 2
        for j in moving[: moving.index(i)]:
            corners = [
                a * b * _evaluate(function, means + a * steps[i] + b * steps[j])
                for a in (1, -1)
                for b in (1, -1)
            ]
            hessian[i, j] = hessian[j, i] = sum(corners) / (4 * steps[i, i] * steps[j, j])
    return gradient, hessian


def _bias(hessian: NDArray[float64], covariance: NDArray[float64], error: float) -> float:
    """Return the leading bias of a function of means, 1/2 sum_ab d2F/dA_a dA_b cov_ab.

    Beyond one error the expansion is none, and nothing is corrected.
    """
    bias = 0.5 * float((hessian * covariance).sum())
    return bias if abs(bias) <= error else 0.0


def _checked(chain: ArrayLike, n: int) -> NDArray[Any]:
    """Return labels of chains; `DomainError` unless they are (n,)."""
    labels = np.asarray(chain)
    if labels.shape != (n,):
        raise DomainError(
            f"{n} samples but chain labels of shape {labels.shape}: one label a sample"
        )
    return labels


def summed_error(terms: NDArray[float64], unit: NDArray[np.int64] | None = None) -> float:
    """Return the error of the sum of (N,) terms of mean zero; those of one unit move together.

    >>> summed_error(np.array([3.0, 4.0])), summed_error(np.array([3.0, 4.0]), np.array([0, 0]))
    (5.0, 7.0)
    """
    sums = terms if unit is None else np.bincount(unit, weights=terms)
    return float(np.sqrt(np.sum(sums**2)))
