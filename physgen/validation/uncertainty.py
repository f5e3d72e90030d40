"""Errors of means and of functions of means: Gamma-method, jackknife, bootstrap.

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
serve importance weights and event weights of either sign. Where rows come in groups (candidates of
one collision), the fluctuations of a group are summed before they are squared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy import float64
from numpy.typing import ArrayLike, NDArray

from physgen.errors import DomainError

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
        converged: whether a window was found, and the samples span `ENOUGH` times tau_int.
        correlation: rho(t) for t = 0, 1, ... a few windows; empty for independent samples.
    """

    value: float
    error: float
    error_of_error: float = float("nan")
    tau_int: float = 0.5
    tau_int_error: float = 0.0
    window: int = 0
    converged: bool = True
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
    """
    samples, weights = _prepare(columns, weight)
    means = _means(samples, weights)
    delta = _fluctuations(samples, weights, means, function)
    value = _evaluate(function, means)
    n_used = int(np.count_nonzero(np.any(weights != 0, axis=1)))
    if n_used < 2:
        return Estimate(value, float("nan"))
    if chain is None:
        sums = delta
        if group is not None:
            numbers = np.unique(np.asarray(group), return_inverse=True)[1]
            sums = np.asarray(np.bincount(numbers, weights=delta), dtype=float64)
            n_used = min(n_used, len(sums))
            if n_used < 2:
                return Estimate(value, float("nan"))
        error = float(np.sqrt(np.sum(sums**2) / (n_used - 1) * n_used)) / len(delta)
        return Estimate(value, error, error / np.sqrt(2 * n_used))
    return _windowed(value, _replicas(delta, chain), s_tau)


def _windowed(value: float, replicas: list[NDArray[float64]], s_tau: float) -> Estimate:
    """Cut the autocorrelation sum of the fluctuations automatically."""
    lengths = np.array([len(replica) for replica in replicas])
    n = int(lengths.sum())
    longest = int(lengths.max())
    padded = np.zeros((len(replicas), longest))
    for row, replica in zip(padded, replicas, strict=True):
        row[: len(replica)] = replica
    t_max = longest // 2
    gamma = _autocovariance(padded, lengths, t_max)
    if gamma[0] <= 0:  # A constant: exactly known, as far as these samples tell.
        return Estimate(value, 0.0, 0.0)
    window, converged = _automatic_window(gamma, n, s_tau)
    # Subtracting the mean of the same samples shifts Gamma(t) by -C/N (Wolff, equation 49).
    gamma = gamma + (gamma[0] + 2 * gamma[1 : window + 1].sum()) / n
    tau = max(0.5, float(0.5 + gamma[1 : window + 1].sum() / gamma[0]))
    converged = converged and n >= ENOUGH * tau
    error = float(np.sqrt(2 * tau * gamma[0] / n))
    error_of_error = error * float(np.sqrt((window + 0.5) / n))
    if not converged and len(replicas) >= MANY_REPLICAS:
        means = padded.sum(1) / lengths
        spread = float(np.sum(lengths**2 * means**2)) / n**2
        error = float(np.sqrt(spread * len(replicas) / (len(replicas) - 1)))
        error_of_error = error / float(np.sqrt(2 * (len(replicas) - 1)))
        tau, converged = max(0.5, error**2 * n / (2 * gamma[0])), True
        tau_error = 2 * tau * error_of_error / error
    else:
        tau_error = 2 * tau * float(np.sqrt(max(window + 0.5 - tau, 0.0) / n))
    rho = gamma[: 3 * window + 20] / gamma[0]
    return Estimate(
        value, error, error_of_error, tau, tau_error, window, converged, tuple(rho.tolist())
    )


def _autocovariance(
    padded: NDArray[float64], lengths: NDArray[np.int64], t_max: int
) -> NDArray[float64]:
    """Gamma(0..t_max) over all replicas, (R, longest) padded with zeros."""
    longest = padded.shape[1]
    spectrum = np.fft.rfft(padded, n=2 * longest, axis=1)
    sums = np.fft.irfft((np.abs(spectrum) ** 2).sum(0), n=2 * longest)[: t_max + 1]
    t = np.arange(t_max + 1)
    # sum_r max(N_r - t, 0) without a (R, t_max) table: from the cumulated sorted lengths.
    ordered = np.sort(lengths)
    first = np.searchsorted(ordered, t, side="right")
    tail = np.concatenate([[0], np.cumsum(ordered[::-1])])[::-1]
    pairs = tail[first] - t * (len(lengths) - first)
    result: NDArray[float64] = sums / np.maximum(pairs, 1)
    return result


def _automatic_window(gamma: NDArray[float64], n: int, s_tau: float) -> tuple[int, bool]:
    """Return the first W with a negative g(W) (Wolff, equation 52), and whether there is one."""
    if len(gamma) == 1:
        return 0, True  # Chains of one sample: independent.
    t = np.arange(1, len(gamma))
    tau_int = 0.5 + np.cumsum(gamma[1:]) / gamma[0]
    tau = np.full(len(t), 1e-12)
    positive = tau_int > 0.5
    tau[positive] = s_tau / np.log((2 * tau_int[positive] + 1) / (2 * tau_int[positive] - 1))
    negative = np.exp(-t / tau) - tau / np.sqrt(t * float(n)) < 0
    if not negative.any():
        return len(t), False
    return int(t[np.argmax(negative)]), True


def autocorrelation(values: ArrayLike, chain: ArrayLike | None = None) -> NDArray[float64]:
    """Return rho(t) of (N,) values, up to half of the longest chain."""
    samples, weights = _prepare(values, None)
    delta = _fluctuations(samples, weights, _means(samples, weights), None)
    labels = np.zeros(len(delta), dtype=np.int64) if chain is None else chain
    replicas = _replicas(delta, labels)
    lengths = np.array([len(replica) for replica in replicas])
    padded = np.zeros((len(replicas), int(lengths.max())))
    for row, replica in zip(padded, replicas, strict=True):
        row[: len(replica)] = replica
    gamma = _autocovariance(padded, lengths, int(lengths.max()) // 2)
    result: NDArray[float64] = gamma / (gamma[0] if gamma[0] > 0 else 1.0)
    return result


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
    samples, weights = _prepare(columns, weight)
    n_blocks = min(n_blocks, len(samples))
    if n_blocks < 2:
        return Estimate(_evaluate(function, _means(samples, weights)), float("nan"))
    edges = np.linspace(0, len(samples), n_blocks + 1).astype(int)[:-1]
    sums = np.add.reduceat(np.where(weights != 0, samples, 0) * weights, edges, axis=0)
    norms = np.add.reduceat(weights, edges, axis=0)
    left = (sums.sum(0) - sums) / (norms.sum(0) - norms)
    parts = np.array([_evaluate(function, row) for row in left])
    whole = _evaluate(function, _means(samples, weights))
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
    samples, weights = _prepare(columns, weight)
    weighted = np.where(weights != 0, samples, 0) * weights
    generator = np.random.default_rng(seed)
    parts = []
    for _ in range(n_resamples):
        times = generator.poisson(1.0, len(samples)).astype(float64)
        parts.append(_evaluate(function, (times @ weighted) / (times @ weights)))
    error = float(np.std(parts, ddof=1))
    value = _evaluate(function, _means(samples, weights))
    return Estimate(value, error, error / float(np.sqrt(2 * (n_resamples - 1))))


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


def _means(samples: NDArray[float64], weights: NDArray[float64]) -> NDArray[float64]:
    result: NDArray[float64] = (samples * weights).sum(0) / weights.sum(0)
    return result


def _evaluate(function: Function | None, means: NDArray[float64]) -> float:
    if function is not None:
        with np.errstate(divide="ignore", invalid="ignore"):  # Undefined is NaN, and shown as such.
            return float(function(means))
    if len(means) != 1:
        raise DomainError(f"{len(means)} columns but no function: say which function of the means")
    return float(means[0])


def _fluctuations(
    samples: NDArray[float64],
    weights: NDArray[float64],
    means: NDArray[float64],
    function: Function | None,
) -> NDArray[float64]:
    """Return (N,) delta_i of the module's first formula."""
    parts = weights / weights.mean(0) * (samples - means)
    if function is None:
        return np.asarray(parts.sum(1))
    # Central differences over a quarter of each mean's naive error, as Wolff does: small enough
    # to be linear, large enough for rounding not to matter.
    steps = np.sqrt((parts**2).mean(0) / len(parts)) / 4
    gradient = np.zeros(len(means))
    for column, step in enumerate(steps):
        if step > 0:
            shift = np.zeros(len(means))
            shift[column] = step
            rise = _evaluate(function, means + shift) - _evaluate(function, means - shift)
            gradient[column] = rise / (2 * step)
    result: NDArray[float64] = parts @ gradient
    return result


def _replicas(delta: NDArray[float64], chain: ArrayLike) -> list[NDArray[float64]]:
    """Cut the fluctuations into chains, keeping the order within each."""
    labels = np.asarray(chain)
    if labels.shape != delta.shape:
        raise DomainError(
            f"{len(delta)} samples but chain labels of shape {labels.shape}: one label a sample"
        )
    order = np.argsort(labels, kind="stable")
    cuts = np.flatnonzero(np.diff(labels[order])) + 1
    return np.split(delta[order], cuts)
