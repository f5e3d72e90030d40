r"""Annealed importance sampling: ratios of normalisers along a path of densities (Neal 2001).

Between unnormalised densities f_0 and f_K stand f_1, ..., f_{K-1}. Chains start as samples of f_0
and take turns in

    log w <- log w + log f_k(x) - log f_{k-1}(x),    x <- T_k(x),    k = 1, ..., K,

where T_k leaves f_k invariant. Then <w> = Z_K / Z_0 at any K and however badly T_k mixes; what
suffers is the variance of w. By Jensen's inequality log <w> is too low on average. Walked backwards
from samples of f_K with reversible T_k, the same sum estimates Z_0 / Z_K, and minus its logarithm
is too high on average: the two enclose log Z_K / Z_0 (Grosse, Ancha & Roy, arXiv 1511.02543), as
far as the samples of f_K deserve the name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from physgen.errors import InputError
from physgen.sampling.reweighting import Estimate, log_partition_function, normalised_weights

LogRatio = Callable[[Tensor, float, float], Tensor]
"""Maps (C, ...) configurations x and beta, beta' to (C,) log f_{beta'}(x) - log f_beta(x)."""

Move = Callable[[Tensor, float, torch.Generator], Tensor]
"""Moves (C, ...) configurations by a kernel that leaves f_beta invariant."""


@dataclass(frozen=True)
class Annealed:
    """Chains at the end of a path.

    Attributes:
        x: (C, ...), where they are; with their weights, samples of the last density.
        log_weight: (C,), in double precision.
    """

    x: Tensor
    log_weight: Tensor

    @property
    def log_ratio(self) -> Estimate:
        """Estimate of log Z_last / Z_first, too low on average."""
        return log_partition_function(self.log_weight)

    @property
    def effective_samples(self) -> float:
        """Number of equally weighted chains worth as much; near 1, trust neither value nor error.

        Like every such number it is too good where large weights are rare.
        """
        return float(normalised_weights(self.log_weight).square().sum().reciprocal())


class InvertedBracket(InputError):
    """The lower estimate of a normaliser is above the upper one, so that neither bounds it."""


@dataclass(frozen=True)
class Bracket:
    """The logarithm of a normaliser, from below and from above.

    Attributes:
        forward: too low on average.
        reverse: too high on average, if its chains started as samples of the last density.
        effective_samples: of the forward chains.
    """

    forward: Estimate
    reverse: Estimate
    effective_samples: float

    def shifted(self, constant: float) -> Bracket:
        """Return the bracket of a normaliser that is exp(constant) times as large."""
        forward, reverse = (
            Estimate(one.value + constant, one.error) for one in (self.forward, self.reverse)
        )
        return Bracket(forward, reverse, self.effective_samples)

    @property
    def inverted(self) -> bool:
        """Whether the lower is above the upper, by more than three standard errors."""
        low, high = self.forward, self.reverse
        return low.value - high.value > 3 * math.hypot(low.error, high.error)

    @property
    def middle(self) -> Estimate:
        """The middle of the two; half of their distance counts as an error.

        Raises:
            InvertedBracket: they enclose nothing.
        """
        low, high = self.forward, self.reverse
        if self.inverted:
            raise InvertedBracket(
                f"the bracket of ln Z is inverted: {low.value:.2f} +- {low.error:.2f} from below, "
                f"{high.value:.2f} +- {high.error:.2f} from above. The chains that the upper one "
                "starts from are no samples of the model: give them longer (surrogate.burn_in), "
                "or tempering (surrogate.replicas)"
            )
        statistical = math.hypot(low.error, high.error) / 2
        return Estimate(
            (low.value + high.value) / 2,
            math.hypot(statistical, (high.value - low.value) / 2),
        )


def anneal(
    x: Tensor,
    log_ratio: LogRatio,
    move: Move,
    betas: Sequence[float],
    *,
    generator: torch.Generator,
) -> Annealed:
    """Take samples (C, ...) of the density at betas[0] to the one at betas[-1].

    Raises:
        InputError: fewer than two betas, or densities that are not finite where the chains are.

    >>> # From a Gaussian of variance 1 to one of variance 1/4: Z_1 / Z_0 = 1/2.
    >>> def log_ratio(x, before, after):
    ...     return (before - after) * 1.5 * x.flatten(1).square().sum(1).double()
    >>> def move(x, beta, generator):
    ...     return torch.randn(x.shape, generator=generator) / math.sqrt(1 + 3 * beta)
    >>> generator = torch.Generator().manual_seed(1)
    >>> x, betas = torch.randn(4096, 1, generator=generator), [0, 0.25, 0.5, 0.75, 1]
    >>> end = anneal(x, log_ratio, move, betas, generator=generator)
    >>> abs(end.log_ratio.value - math.log(0.5)) < 3 * end.log_ratio.error
    True
    """
    if len(betas) < 2:
        raise InputError(f"a path of densities needs at least two of them, not {len(betas)}")
    log_weight = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for before, after in pairwise(betas):
        log_weight += log_ratio(x, before, after)
        x = move(x, after, generator)
    if not bool(log_weight.isfinite().all()):
        raise InputError(
            "annealing met densities that are not finite: the chains diverged, or the parameters "
            "are not numbers"
        )
    return Annealed(x, log_weight)


def bracket(
    first: Tensor,
    last: Tensor,
    log_ratio: LogRatio,
    move: Move,
    *,
    n_steps: int,
    generator: torch.Generator,
) -> Bracket:
    """Estimate log Z_1 / Z_0 of the densities at beta = 0 and 1 from both ends.

    Args:
        first: (C, ...) samples at beta = 0.
        last: (C', ...) samples at beta = 1.
        log_ratio: of two densities of the path.
        move: reversible with respect to the density at beta.
        n_steps: number of steps of beta, all equal.
        generator: the only source of randomness.
    """
    betas = [step / n_steps for step in range(n_steps + 1)]
    forward = anneal(first, log_ratio, move, betas, generator=generator)
    reverse = anneal(last, log_ratio, move, betas[::-1], generator=generator).log_ratio
    return Bracket(
        forward.log_ratio, Estimate(-reverse.value, reverse.error), forward.effective_samples
    )
