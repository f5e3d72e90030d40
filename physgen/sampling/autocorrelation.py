r"""Autocorrelation of Markov chains, and whether several of them have forgotten where they began.

With the fluctuations delta_r(i) of R chains of lengths N_r around a common mean,

    Gamma(t) = sum_r sum_i delta_r(i) delta_r(i + t) / sum_r (N_r - t),    C = sum_t Gamma(t),

summed over -W <= t <= W. Chains that mix have means that scatter as Gamma allows, those of L
samples with the variance

    v(L) = sum_{|t| < L} (1 - |t| / L) Gamma(t) / L

(C / L where L is large: Wolff, hep-lat/0306017, equation 29), with Gamma from fluctuations of the
longest chains around each one's own mean; chains that are stuck in different places do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy import float64
from numpy.typing import NDArray
from scipy.special import fdtrc

DISAGREEMENT = 1e-4
"""Chains whose means agree with less than this probability have not mixed."""

SLOW_MODE_SIGMAS = 5.0
"""Standard errors by which tau_int must grow beyond a window for the window to be too early."""

PIECES = 16
"""How many pieces of chains are compared with the errors that they state themselves."""

ENOUGH_CHAINS = 8
"""From so many chains on, beginnings and ends can be correlated over the chains."""


def by_chain(
    values: NDArray[float64], chain: NDArray[Any]
) -> tuple[NDArray[float64], NDArray[np.int64]]:
    """Return (R, T, ...) chains, filled up with zeros, and their (R,) lengths.

    Args:
        values: (N, ...), in the order of time within a chain.
        chain: (N,) labels.

    >>> table, lengths = by_chain(np.array([1.0, 2.0, 3.0]), np.array([0, 1, 0]))
    >>> table.tolist(), lengths.tolist()
    ([[1.0, 3.0], [2.0, 0.0]], [2, 1])
    """
    order = np.argsort(chain, kind="stable")
    starts = np.flatnonzero(np.diff(chain[order])) + 1
    lengths = np.diff(np.concatenate([[0], starts, [len(chain)]]))
    table = np.zeros((len(lengths), int(lengths.max()), *values.shape[1:]))
    table[_filled(table, lengths)] = values[order]
    return table, lengths


def _filled(table: NDArray[float64], lengths: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.asarray(np.arange(table.shape[1]) < lengths[:, None])


def autocovariance(
    table: NDArray[float64], lengths: NDArray[np.int64], t_max: int
) -> NDArray[float64]:
    """Return Gamma(0), ..., Gamma(t_max) over all chains, of fluctuations as `by_chain` gives."""
    longest = table.shape[1]
    spectrum = np.fft.rfft(table, n=2 * longest, axis=1)
    sums = np.fft.irfft((np.abs(spectrum) ** 2).sum(0), n=2 * longest)[: t_max + 1]
    t = np.arange(t_max + 1)
    # sum_r max(N_r - t, 0) without a (R, t_max) table: from the cumulated sorted lengths.
    ordered = np.sort(lengths)
    first = np.searchsorted(ordered, t, side="right")
    tail = np.concatenate([[0], np.cumsum(ordered[::-1])])[::-1]
    pairs = tail[first] - t * (len(lengths) - first)
    result: NDArray[float64] = sums / np.maximum(pairs, 1)
    return result


@dataclass(frozen=True)
class Window:
    """Where the sum of Gamma(t) is cut.

    Attributes:
        size: W.
        found: whether there is a W at which it may be cut.
        slow_mode: whether W is that of a slow mode below others, and not that of Wolff's g(W).
    """

    size: int
    found: bool = True
    slow_mode: bool = False


def automatic_window(gamma: NDArray[float64], n: int, s_tau: float) -> Window:
    """Return the first W with a negative g(W) (Wolff, equation 52), if there is one.

    His g(W) takes all time scales for one, and cuts at once what begins small or negative: a slow
    mode below noise or below anticorrelations, the strides of interleaved chains. Where tau_int
    goes on growing by more than `SLOW_MODE_SIGMAS` of its errors, 2 tau_int (W / n)^1/2, W is where
    tau_int less one error is largest.
    """
    t = np.arange(1, len(gamma))
    tau_int = 0.5 + np.cumsum(gamma[1:]) / gamma[0]
    tau = np.full(len(t), 1e-12)
    positive = tau_int > 0.5
    tau[positive] = s_tau / np.log((2 * tau_int[positive] + 1) / (2 * tau_int[positive] - 1))
    negative = np.exp(-t / tau) - tau / np.sqrt(t * float(n)) < 0
    if not negative.any():
        return Window(len(t), found=False)
    window = int(t[np.argmax(negative)])
    known = np.maximum(tau_int, 0.5)
    errors = 2 * np.sqrt(t / n)
    grown = (
        known[window:] - known[window - 1] > SLOW_MODE_SIGMAS * known[window - 1] * errors[window:]
    )
    if not grown.any():
        return Window(window)
    return Window(int(t[np.argmax(known * (1 - errors))]), slow_mode=True)


def agreement(table: NDArray[float64], lengths: NDArray[np.int64]) -> float:
    """Return the p-value of several chains having one mean; NaN if these chains cannot tell.

    Long chains are judged by the scatter of their means, in units of their own errors; shorter ones
    beside them by what the long ones say of the means of so short chains. Where all chains are too
    short to know their own errors, but `ENOUGH_CHAINS`, it is asked whether their
    beginnings know their ends: by the rank correlation of the means of the first and of the last
    third. Correlated they are, too, where chains are shorter than a few autocorrelation times.
    """
    if len(lengths) < 2:
        return float("nan")
    p_value = _scatter_of_means(table, lengths)
    return _rank_correlation(table, lengths)[0] if np.isnan(p_value) else p_value


def in_pieces(
    table: NDArray[float64], lengths: NDArray[np.int64]
) -> tuple[NDArray[float64], NDArray[np.int64]]:
    """Cut (R, T) chains into `PIECES` or more shorter ones; returns what `by_chain` does."""
    each = -(-PIECES // len(lengths))
    rows, times = np.nonzero(_filled(table, lengths))
    return by_chain(table[rows, times], rows * each + times * each // lengths[rows])


def has_slow_mode(table: NDArray[float64], lengths: NDArray[np.int64]) -> bool:
    """Return whether the means of pieces of chains scatter by more than their errors allow.

    A mode that is slower than pieces are long makes them, however small it is beside the noise.
    """
    return _scatter_of_means(*in_pieces(table, lengths)) < DISAGREEMENT


def mixed(series: NDArray[float64]) -> bool:
    """Return whether nothing in (T, C) series of C chains says that they have not mixed."""
    table = np.ascontiguousarray((series - series.mean()).T)
    return not agreement(table, np.full(len(table), table.shape[1])) < DISAGREEMENT


def decorrelated(table: NDArray[float64], lengths: NDArray[np.int64]) -> bool:
    """Return whether many short chains show that their ends know nothing of their beginnings.

    The rank correlation of the first and the last third must be below 0.2 by two of its standard
    errors, and compatible with zero.
    """
    p_value, correlation = _rank_correlation(table, lengths)
    return p_value > 0.01 and correlation + 2 / np.sqrt(len(lengths) - 1) < 0.2


def _scatter_of_means(table: NDArray[float64], lengths: NDArray[np.int64]) -> float:
    """Return the p-value of the means of chains, given the autocovariance of the longest ones.

    Chains of like lengths are set against each other, and the means of such classes against each
    other: many short chains hide no long one, and long ones hide no short ones.
    """
    means, class_of = table.sum(1) / lengths, _like_lengths(lengths)
    within = np.where(_filled(table, lengths), table - means[:, None], 0.0)
    known = class_of == 0
    within, long = within[known], lengths[known]
    if long.max() == 1:  # Nobody knows whether they stand still.
        return float("nan")
    n, rounding = int(long.sum()), 1e-24 * float((means**2).max())
    gamma = autocovariance(within, long, table.shape[1] // 2)
    if not gamma[0] > rounding:  # Every chain stands still.
        return 0.0 if np.ptp(means) ** 2 > rounding else 1.0
    cut_at = automatic_window(gamma, n, 1.5)
    window = cut_at.size
    cut = (2 * window + 1) * len(long) / n
    if not cut_at.found or cut > 1 / 3:
        return float("nan")
    # Around their own means Gamma(t) comes out too low by C / N_r (Wolff, equation 49).
    gamma = gamma[: window + 1]
    gamma = gamma + (gamma[0] + 2 * gamma[1:].sum()) / (1 - cut) * len(long) / n
    cumulants = _cumulants(within[_filled(within, long)] / np.sqrt(gamma[0]))
    shape = _Shape(float(gamma[0]), n / (2 * window + 1), cumulants)
    classes = [class_of == number for number in range(class_of.max() + 1)]
    variances = _variances_of_means(gamma, lengths)
    found = [_p_value(means[one], variances[one], shape) for one in classes]
    weights = [1 / variances[one] for one in classes]
    centres = [np.average(means[one], weights=w) for one, w in zip(classes, weights, strict=True)]
    found.append(_p_value(np.array(centres), np.array([1 / w.sum() for w in weights]), shape))
    p_values = [one for one in found if not np.isnan(one)]
    return min(len(p_values) * min(p_values), 1.0)  # Bonferroni


def _like_lengths(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the class of each chain: 0 for those longer than half of where samples are, and on."""
    class_of = np.full(len(lengths), -1)
    while (left := class_of < 0).any():
        longer = 2 * lengths * lengths[left].sum() >= (lengths[left] ** 2).sum()
        class_of[left & longer] = class_of.max() + 1
    return class_of


def _variances_of_means(gamma: NDArray[float64], lengths: NDArray[np.int64]) -> NDArray[float64]:
    """Return v(L) of (R,) lengths, from Gamma(0), ..., Gamma(W)."""
    t = np.arange(len(gamma))
    last = np.minimum(lengths, len(gamma)) - 1
    sums = 2 * (np.cumsum(gamma)[last] - np.cumsum(t * gamma)[last] / lengths) - gamma[0]
    # Not below that of independent samples: a window cannot be found for alternating chains.
    return np.asarray(np.maximum(sums, gamma[0]) / lengths)


@dataclass(frozen=True)
class _Shape:
    """Gamma(0), how many samples it is known from, and cumulants over powers of Gamma(0)."""

    gamma_0: float
    degrees: float
    cumulants: tuple[float, float, float]


def _cumulants(x: NDArray[float64]) -> tuple[float, float, float]:
    """Return the third, fourth and sixth cumulant of samples of mean 0 and variance 1."""
    third, fourth, sixth = (float((x**k).mean()) for k in (3, 4, 6))
    return third, max(fourth - 3, 0.0), max(sixth - 15 * fourth - 10 * third**2 + 30, 0.0)


def _p_value(means: NDArray[float64], variances: NDArray[float64], shape: _Shape) -> float:
    """Return the p-value of X = sum_r (mean_r - centre)^2 / variance_r; NaN of a single one.

    X is that of chi^2 but for its variance and third moment, which grow as means are not normal;
    their cumulants are those of as many independent samples as their variance tells.
    """
    free = len(means) - 1
    if not free:
        return float("nan")
    x = ((means - np.average(means, weights=1 / variances)) ** 2 / variances).sum()
    share = variances / shape.gamma_0
    k3, k4, k6 = shape.cumulants
    variance = 2 * free + k4 * share.sum()
    third = 8 * free + (12 * k4 + 10 * k3**2) * share.sum() + k6 * (share**2).sum()
    degrees = 8 * variance**3 / third**2
    ratio = 1 + (x - free) * np.sqrt(2 / (variance * degrees))
    return float(fdtrc(degrees, shape.degrees, max(ratio, 0.0)))


def _rank_correlation(table: NDArray[float64], lengths: NDArray[np.int64]) -> tuple[float, float]:
    """Return p-value and rank correlation of the first and last thirds of chains; NaN if few."""
    long = lengths > 1
    if np.count_nonzero(long) < ENOUGH_CHAINS:
        return float("nan"), float("nan")
    sums, ends = np.cumsum(table[long], axis=1), lengths[long]
    thirds, rows = np.maximum(ends // 3, 1), np.arange(len(ends))
    first = sums[rows, thirds - 1] / thirds
    last = (sums[rows, ends - 1] - sums[rows, ends - 1 - thirds]) / thirds
    if np.ptp(first) == 0 or np.ptp(last) == 0:
        return float("nan"), float("nan")
    from scipy.stats import spearmanr  # It takes a second to import.

    result = spearmanr(first, last, alternative="greater")
    return float(result.pvalue), float(result.statistic)
