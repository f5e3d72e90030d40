r"""What a sample x is, given what a decoder says of it, y = (y_1, ..., y_D).

gaussian   log p(x | y) = -\sum_i [(x_i - m_i)^2 / 2 s_i^2 + \log s_i + \log(2 \pi) / 2],
           m = y + b;
bernoulli  log p(x | y) = \sum_i [x_i \log p_i + (1 - x_i) \log(1 - p_i)],
           p = 1 / (1 + e^{-y - b});
binomial   log p(x | y) = \sum_i [log C(N, k_i) + k_i \log p_i + (N - k_i) \log(1 - p_i)
           + log((N + 1) / range)],  p as above: of N + 1 equal cells of its range, x_i lies in cell
           k_i (what dequantisation makes of a count k_i out of N), evenly.

b is what the data's means ask for, so that a new decoder, whose y is small, starts there; the
deviations s are learnt. A grey x in [0, 1] under a Bernoulli likelihood is the probability that a
pixel is on: log p is then the mean over images whose pixels were drawn so, and a sample is p.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from physgen.batch import Batch, Variable
from physgen.errors import DomainError, RecipeError
from physgen.io.weights import moments
from physgen.surrogates.flows.spline import softclip

LikelihoodKind = Literal["gaussian", "bernoulli", "binomial"]

LOG_SCALE_LIMIT = 8.0
"""Bound on |log deviation|."""

SMALLEST_VARIANCE = 1e-6
"""Of an entry that never varies: what its deviation starts from."""

SMALLEST_SHARE = 1e-3
"""Of the data in a pixel that is never (or always) on: what its bias starts from."""


class Gaussian(nn.Module):
    """Independent normal entries whose deviations are learnt.

    Args:
        features: number of entries.

    >>> likelihood = Gaussian(3)
    >>> likelihood.log_prob(torch.zeros(5, 3), torch.zeros(5, 3)).shape
    torch.Size([5])
    """

    offset: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.n_noise = features
        self.register_buffer("offset", torch.zeros(features))
        self.log_scale = nn.Parameter(torch.zeros(features))

    def fit(self, data: Batch) -> None:
        """Start at the means and deviations of mapped data."""
        mean, variance = moments(data.x.flatten(1).float(), data)
        log_scale = 0.5 * variance.clamp_min(SMALLEST_VARIANCE).log()
        with torch.no_grad():
            self.offset.copy_(mean)
            # The inverse of `softclip`.
            self.log_scale.copy_(log_scale / (1 - log_scale.abs() / LOG_SCALE_LIMIT))

    def mean(self, decoded: Tensor) -> Tensor:
        """Return (..., features), the mean of x."""
        return decoded + self.offset

    def log_prob(self, x: Tensor, decoded: Tensor) -> Tensor:
        """Return (...), log p(x | decoded) of (..., features)."""
        log_scale = softclip(self.log_scale, LOG_SCALE_LIMIT)
        pull = (x - self.mean(decoded)) * (-log_scale).exp()
        return -(0.5 * pull.square() + log_scale + 0.5 * math.log(2 * math.pi)).sum(-1)

    def draw(self, decoded: Tensor, noise: Tensor) -> Tensor:
        """Return (B, features) draws of x; `noise` is standard normal."""
        return self.mean(decoded) + softclip(self.log_scale, LOG_SCALE_LIMIT).exp() * noise


class Bernoulli(nn.Module):
    """Independent entries of 0 and 1, or of spins -1 and +1, or greys in [0, 1].

    Args:
        features: number of entries.
        variables: of the schema.

    Raises:
        RecipeError: a variable can lie outside [0, 1] and is no spin.
    """

    offset: Tensor

    def __init__(self, features: int, variables: tuple[Variable, ...]) -> None:
        super().__init__()
        for variable in variables:
            grey = variable.domain == "real" and variable.low == 0 and variable.high == 1
            if variable.domain not in ("binary", "spin") and not grey:
                raise RecipeError(
                    "surrogate.likelihood: bernoulli is for spins, binaries and greys in [0, 1]; "
                    f"{variable.name} is {variable.domain} in [{_end(variable.low)}, "
                    f"{_end(variable.high)}]: take gaussian"
                )
        domains = {variable.domain for variable in variables}
        if len(domains) > 1:
            raise RecipeError(
                "surrogate.likelihood: bernoulli takes variables of one domain, and these are "
                f"{' and '.join(sorted(domains))}: take gaussian"
            )
        self.spins, self.grey = domains == {"spin"}, domains == {"real"}
        self.n_noise = 0 if self.grey else features
        self.register_buffer("offset", torch.zeros(features))

    def fit(self, data: Batch) -> None:
        """Start at the shares of mapped data; `DomainError` for values that are none."""
        low = -1.0 if self.spins else 0.0
        if data.x.min() < low or data.x.max() > 1:
            raise DomainError(
                f"a Bernoulli likelihood needs values in [{low:g}, 1], and behind the transform "
                f"these reach from {data.x.min().item():g} to {data.x.max().item():g}: leave "
                "`transform` out, or take surrogate.likelihood=gaussian"
            )
        share = _mean(self.bits(data.x), data)
        self.offset.copy_(share.clamp(SMALLEST_SHARE, 1 - SMALLEST_SHARE).logit())

    def bits(self, x: Tensor) -> Tensor:
        """Return x with spins as 0 and 1."""
        return (x + 1) / 2 if self.spins else x

    def mean(self, decoded: Tensor) -> Tensor:
        """Return (..., features), the mean of x."""
        p = (decoded + self.offset).sigmoid()
        return 2 * p - 1 if self.spins else p

    def log_prob(self, x: Tensor, decoded: Tensor) -> Tensor:
        """Return (...), log p(x | decoded) of (..., features)."""
        logits = decoded + self.offset
        return (self.bits(x) * logits - functional.softplus(logits)).sum(-1)

    def draw(self, decoded: Tensor, noise: Tensor) -> Tensor:
        """Return (B, features) draws of x (of greys, their means); `noise` is standard normal."""
        if self.grey:
            return self.mean(decoded)
        # A normal number lies below its own distribution's quantile with that probability.
        on = torch.special.ndtr(noise) < (decoded + self.offset).sigmoid()
        x: Tensor = on.to(decoded)
        return 2 * x - 1 if self.spins else x


class Binomial(nn.Module):
    """Independent counts out of N, spread over cells of [0, 1] or [-1, 1] by dequantisation.

    Args:
        features: number of entries.
        counts: N; 16 for scikit-learn's digits, whose pixels count white pixels of 4x4.
    """

    offset: Tensor
    low: Tensor
    ways: Tensor

    def __init__(self, features: int, counts: int) -> None:
        super().__init__()
        self.n_noise, self.counts = features, counts
        self.register_buffer("offset", torch.zeros(features))
        self.register_buffer("low", torch.zeros(()))
        k = torch.arange(counts + 1, dtype=torch.float64)
        ways = math.lgamma(counts + 1) - (k + 1).lgamma() - (counts - k + 1).lgamma()
        self.register_buffer("ways", ways.float(), persistent=False)

    def fit(self, data: Batch) -> None:
        """Start at the shares of mapped data; `DomainError` for values that are not dequantised."""
        low = -1.0 if data.x.min() < 0 else 0.0
        self.low.fill_(low)
        counts = (data.x - low) / (1 - low) * self.counts
        bare = ((counts - counts.round()).abs() < 1e-3).all()
        if bare or counts.min() < 0 or counts.max() > self.counts:
            raise DomainError(
                f"a binomial likelihood needs counts out of {self.counts} that are spread over "
                f"[0, 1] or [-1, 1]: put transform dequantise (levels: {self.counts + 1}) first, "
                "and after it none but rescale"
            )
        share = _mean(self._count(data.x) / self.counts, data)
        self.offset.copy_(share.clamp(SMALLEST_SHARE, 1 - SMALLEST_SHARE).logit())

    def log_prob(self, x: Tensor, decoded: Tensor) -> Tensor:
        """Return (...), log p(x | decoded) of (..., features)."""
        terms = self._log_probability(self._count(x), decoded + self.offset)
        width = (1 - self.low) / (self.counts + 1)
        return (terms - width.log()).sum(-1)

    def draw(self, decoded: Tensor, noise: Tensor) -> Tensor:
        """Return (B, features) draws of x, amid their cells; `noise` is standard normal."""
        logits, level = decoded + self.offset, torch.special.ndtr(noise)
        count, below = torch.zeros_like(logits), torch.zeros_like(logits)
        for k in range(self.counts):
            below = below + self._log_probability(torch.full_like(logits, k), logits).exp()
            count = count + (level > below)
        return self.low + (1 - self.low) * (count + 0.5) / (self.counts + 1)

    def _log_probability(self, k: Tensor, logits: Tensor) -> Tensor:
        return self.ways[k.long()] + k * logits - self.counts * functional.softplus(logits)

    def _count(self, x: Tensor) -> Tensor:
        place = (x - self.low) / (1 - self.low) * (self.counts + 1)
        return place.floor().clamp(0, self.counts)


def _mean(x: Tensor, data: Batch) -> Tensor:
    return moments(x.flatten(1).float(), data)[0]


def _end(value: float | None) -> str:
    return "?" if value is None else f"{value:g}"
