r"""Independence Metropolis: a Markov chain of the target out of independent proposals of a model.

A proposal x' of q is accepted with probability min(1, w(x') / w(x)), w = exp(-S) / q; so the chain
needs of each proposal its log-weight alone, and the proposals can be drawn beforehand
(Albergo, Kanwar & Shanahan, Phys. Rev. D 100 (2019) 034515).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from physgen.batch import Batch
from physgen.errors import InputError


@dataclass(frozen=True)
class State:
    """Where a set of chains stands.

    Attributes:
        log_weight: (C,), of the current sample of each chain.
        index: (C,), which proposal of its own chain that sample is.
        time: number of proposals each chain has seen, less one.
    """

    log_weight: Tensor
    index: Tensor
    time: int


def init(log_weight: Tensor) -> State:
    """Start (C,) chains at their first proposals."""
    return State(log_weight, torch.zeros_like(log_weight, dtype=torch.long), 0)


def step(state: State, log_weight: Tensor, uniform: Tensor) -> tuple[State, Tensor]:
    """Offer each chain its next proposal.

    Args:
        log_weight: (C,), of the proposals.
        uniform: (C,), uniform random numbers in [0, 1).

    Returns:
        the new state, and (C,) whether the proposal was accepted. A NaN log-weight is refused.
    """
    accepted = uniform.log() < log_weight - state.log_weight
    time = state.time + 1
    index = torch.where(accepted, torch.full_like(state.index, time), state.index)
    return State(torch.where(accepted, log_weight, state.log_weight), index, time), accepted


@dataclass(frozen=True)
class Chains:
    """Samples of the target.

    Attributes:
        batch: the chains one after the other, with `chain`; without log-weights, since these
            samples have the right distribution as they are.
        acceptance: fraction of proposals accepted.
        longest_rejection: the longest run of steps for which a chain stood still; if it is not
            short against a chain, the errors of what follows cannot be trusted.

    >>> generator = torch.Generator().manual_seed(0)
    >>> x = 2 * torch.randn(20_000, 1, generator=generator)  # too wide by a factor of 2
    >>> proposals = Batch(x, log_weight=-(x**2)[:, 0] / 2 + (x**2)[:, 0] / 8)
    >>> chains = independence_metropolis(proposals, generator=generator)
    >>> abs(float(chains.batch.x.std()) - 1) < 0.05
    True
    """

    batch: Batch
    acceptance: float
    longest_rejection: int


def independence_metropolis(
    proposals: Batch, *, generator: torch.Generator, n_chains: int = 1, burn_in: int = 0
) -> Chains:
    """Make chains of the target out of independent proposals with their log-weights.

    The first proposal of each chain is its start, which may be untypical: about exp(max w) further
    ones are spent in finding typical samples (`burn_in`).

    Args:
        proposals: N samples of the model with `log_weight`.
        generator: on the device of the proposals.
        n_chains: consecutive proposals are dealt to so many chains of N // n_chains each.
        burn_in: so many states of each chain are left out of the samples.

    Raises:
        InputError: if there are no log-weights, or a chain would start where the target vanishes.

    >>> generator = torch.Generator().manual_seed(1)
    >>> x = 2 * torch.randn(20000, 1, generator=generator)  # proposals of variance 4
    >>> log_weight = (-x.square() / 2 + x.square() / 8)[:, 0]  # for a target of variance 1
    >>> chains = independence_metropolis(Batch(x, log_weight=log_weight), generator=generator)
    >>> round(float(chains.batch.x.var()), 1)
    1.0
    """
    if proposals.log_weight is None:
        raise InputError("independence Metropolis needs proposals with log-weights")
    length = len(proposals) // n_chains
    if length - burn_in < 2:
        raise InputError(f"{len(proposals)} proposals are too few for {n_chains} chains")
    used = proposals[: n_chains * length]
    # On the host in double precision: a step is one comparison, and there are many.
    log_weight = proposals.log_weight[: n_chains * length].detach().double().cpu()
    by_chain = log_weight.reshape(n_chains, length)
    if not by_chain[:, 0].isfinite().all():
        raise InputError("a chain starts at a proposal whose log-weight is not finite")
    uniform = torch.rand(
        n_chains, length, generator=generator, device=generator.device, dtype=torch.float64
    ).cpu()
    state, indices, n_accepted = init(by_chain[:, 0]), [torch.zeros(n_chains, dtype=torch.long)], 0
    for time in range(1, length):
        state, accepted = step(state, by_chain[:, time], uniform[:, time])
        indices.append(state.index)
        n_accepted += int(accepted.sum())
    index = torch.stack(indices, 1)[:, burn_in:]
    rows = (index + torch.arange(n_chains)[:, None] * length).flatten()
    chain = torch.arange(n_chains).repeat_interleave(length - burn_in)
    device = proposals.x.device
    batch = used.replace(log_weight=None)[rows.to(device)].replace(chain=chain.to(device))
    standing = torch.arange(burn_in, length) - index
    return Chains(batch, n_accepted / (n_chains * (length - 1)), int(standing.max()))
