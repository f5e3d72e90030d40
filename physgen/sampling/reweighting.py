r"""Importance weights: from samples of a model q to averages under a target p = exp(-S) / Z.

With log-weights w_i = -S(x_i) - log q(x_i) of samples of q,

    Z = <exp w>_q,    <O>_p = <O exp w>_q / <exp w>_q,    ESS = <exp w>_q^2 / <exp 2w>_q,

and with samples of p instead, which see where q is missing,

    ESS = 1 / (<exp w>_p <exp -w>_p).

The ESS of few samples is too good: the rare large weights that make it small are not among them.
For Gaussian log-weights of variance 2 its true value is 0.135, and 64 samples read 0.26. So quote
it at `ENOUGH` samples or more; the jackknife's error, too, is too small for few samples.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from physgen.errors import InputError

ENOUGH = 16384
"""Samples below which an effective sample size must not be quoted without a word of warning."""

_BLOCKS = 64


class FewSamplesWarning(UserWarning):
    """An effective sample size was computed from so few samples that it is too good."""


class Reference(NamedTuple):
    """What the mean weight of ways is Z in units of.

    Attributes:
        name: such as "Z(beta=6)".
        log_partition: its logarithm, where it is exactly known.
    """

    name: str
    log_partition: float | None


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error.

    >>> log_weight = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    >>> ess = effective_sample_size(log_weight)  # exp(-sigma^2) of normal numbers
    >>> abs(ess.value - math.exp(-1)) < 3 * ess.error
    True
    """

    value: float
    error: float


def normalised_weights(log_weight: Tensor) -> Tensor:
    """Return (N,) weights that sum to one, for log-weights of any magnitude.

    Raises:
        InputError: if a log-weight is NaN or +infinite, or all are -infinite.
    """
    _check(log_weight)
    return torch.softmax(log_weight, 0)


def effective_sample_size(log_weight: Tensor) -> Estimate:
    """Return the ESS a sample, in (0, 1], from log-weights (N,) on samples of the model.

    Warns:
        FewSamplesWarning: for fewer than `ENOUGH` samples (the trap of the module's head).
    """
    _check(log_weight)
    _warn_if_few(len(log_weight))
    terms = torch.stack([log_weight, 2 * log_weight])
    return _jackknife(terms, lambda means: (2 * means[0] - means[1]).exp())


def forward_effective_sample_size(log_weight: Tensor) -> Estimate:
    """Return the ESS a sample from log-weights (N,) on samples of the target (Monte Carlo).

    It sees modes that the model misses, to which the samples of the model are blind. The error
    holds for samples that are nearly independent: thin a Markov chain.

    Warns:
        FewSamplesWarning: for fewer than `ENOUGH` samples.
    """
    _check(log_weight)
    _warn_if_few(len(log_weight))
    terms = torch.stack([log_weight, -log_weight])
    return _jackknife(terms, lambda means: (-means[0] - means[1]).exp())


def log_partition_function(log_weight: Tensor) -> Estimate:
    """Return ln Z from log-weights (N,) on samples of the model."""
    _check(log_weight)
    return _jackknife(log_weight[None], lambda means: means[0])


def reweighted_mean(values: Tensor, log_weight: Tensor) -> Estimate:
    """Return the mean of (N,) values under the target, from log-weights on samples of the model.

    Raises:
        InputError: if the shapes differ, or a log-weight is not a number.

    >>> x = 2 * torch.randn(20000, generator=torch.Generator().manual_seed(1))
    >>> log_weight = -x.square() / 2 + x.square() / 8  # from variance 4 to variance 1
    >>> estimate = reweighted_mean(x.square(), log_weight)
    >>> abs(estimate.value - 1) < 3 * estimate.error < 0.1
    True
    """
    if values.shape != log_weight.shape:
        raise InputError(
            f"values of shape {tuple(values.shape)} and log-weights of shape "
            f"{tuple(log_weight.shape)}: both must be (N,)"
        )
    weight = normalised_weights(log_weight.double())
    sums = _block_sums(torch.stack([weight * values.double(), weight]))
    rest = sums.sum(1, keepdim=True) - sums
    total = sums.sum(1)
    return _estimate(total[0] / total[1], rest[0] / rest[1])


def _jackknife(logs: Tensor, function: Callable[[Tensor], Tensor]) -> Estimate:
    """Estimate a function of the logarithms of means of exp(logs), (R, N).

    `function` maps (R, ...) log-means to (...) values. The block jackknife works on logarithms, so
    that a block which holds nearly all of the weight does not leave the difference of two equal
    numbers behind.
    """
    logs = logs.double()
    pieces = logs.tensor_split(min(_BLOCKS, logs.shape[1]), dim=1)
    blocks = torch.stack([piece.logsumexp(1) for piece in pieces], 1)
    sizes = torch.tensor([piece.shape[1] for piece in pieces], device=logs.device).double()
    n = len(pieces)
    own = torch.eye(n, dtype=torch.bool, device=logs.device)
    others = blocks[:, None, :].masked_fill(own, -math.inf).logsumexp(2)
    rest = others - (sizes.sum() - sizes).log()
    return _estimate(function(blocks.logsumexp(1) - sizes.sum().log()), function(rest))


def _block_sums(terms: Tensor) -> Tensor:
    """Return (R, blocks) sums over consecutive blocks of (R, N)."""
    pieces = terms.tensor_split(min(_BLOCKS, terms.shape[1]), dim=1)
    return torch.stack([piece.sum(1) for piece in pieces], 1)


def _estimate(value: Tensor, without: Tensor) -> Estimate:
    """Combine a value and its (blocks,) leave-one-out values."""
    n = len(without)
    spread = (without - without.mean()).pow(2).sum() * (n - 1) / n
    return Estimate(float(value), float(spread.sqrt()) if n > 1 else math.nan)


def _check(log_weight: Tensor) -> None:
    """Raise `InputError` unless these are (N,) logarithms of weights that can be normalised."""
    if log_weight.ndim != 1 or len(log_weight) == 0:
        raise InputError(f"log-weights of shape {tuple(log_weight.shape)}: expected (N,), N > 0")
    bad = torch.isnan(log_weight) | (log_weight == math.inf)
    if bad.any() or not (log_weight > -math.inf).any():
        raise InputError(
            f"{int(bad.sum())} of {len(log_weight)} log-weights are NaN or infinite, or all "
            "weights vanish: the action or the model's density is not finite on these samples"
        )


def _warn_if_few(n: int) -> None:
    if n < ENOUGH:
        warnings.warn(
            f"an effective sample size from {n} samples is too good; quote it at {ENOUGH} or more",
            FewSamplesWarning,
            stacklevel=3,
        )
