r"""Parallel tempering: replicas at several beta exchange configurations (Swendsen & Wang 1986).

Each replica moves by a kernel that leaves its own density f_beta invariant; then neighbours i, j
exchange their configurations with the probability

    min(1, f_i(x_j) f_j(x_i) / (f_i(x_i) f_j(x_j))),

so that the product of all densities stays invariant, and cold chains leave their modes by way of
the hot ones. The f_beta of the exchange must be the very density that the moves leave invariant:
where a move samples a joint density (x, h) at exp(-beta E(x, h)), f_beta is its marginal, whose
logarithm is not beta times that of the cold one.

Moves may be global: independent proposals of a model at the same beta, accepted by Metropolis, in
turn with local moves (of spins IsingFormer, arXiv 2509.23043).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from physgen.sampling import metropolis
from physgen.sampling.annealing import LogRatio, Move


def step(
    replicas: Sequence[Tensor],
    log_ratio: LogRatio,
    move: Move,
    betas: Sequence[float],
    *,
    odd: bool,
    generator: torch.Generator,
) -> tuple[list[Tensor], Tensor]:
    """Move every replica, then exchange neighbours.

    Args:
        replicas: (C, ...) chains at each of `betas`.
        log_ratio: log f_{beta'}(x) - log f_beta(x), (C,).
        move: leaves f_beta invariant.
        betas: neighbours of which overlap.
        odd: which pairs meet: (1, 2), (3, 4), ..., or (0, 1), (2, 3), ...; take turns.
        generator: the only source of randomness.

    Returns:
        the replicas, and the (pairs, C) exchanges that took place.
    """
    moved = [move(x, beta, generator) for x, beta in zip(replicas, betas, strict=True)]
    exchanged = []
    for i in range(int(odd), len(betas) - 1, 2):
        x, y, here, there = moved[i], moved[i + 1], betas[i], betas[i + 1]
        gain = log_ratio(x, here, there) + log_ratio(y, there, here)
        uniform = torch.rand(gain.shape, generator=generator, device=gain.device, dtype=gain.dtype)
        accepted = uniform.log() < gain
        each = accepted.reshape(-1, *[1] * (x.ndim - 1))
        moved[i], moved[i + 1] = torch.where(each, y, x), torch.where(each, x, y)
        exchanged.append(accepted)
    return moved, torch.stack(exchanged) if exchanged else torch.empty(0, len(moved[0]))


def with_proposals(
    proposals: Sequence[Tensor],
    offered: Sequence[Tensor],
    log_weight: Callable[[Tensor, int], Tensor],
    log_ratio: LogRatio,
    local: Move,
    *,
    generator: torch.Generator,
) -> list[Tensor]:
    """Offer every replica a proposal, move it, and exchange neighbours, in turn.

    Densities are numbered 0, 1, ...: neighbours overlap.

    Args:
        proposals: (C, T, ...) independent samples of a model of each density: T of each chain,
            which begins at its first.
        offered: (C, T) log-weights of the proposals, log f - log q.
        log_weight: of any (C, ...) configurations at a density.
        log_ratio: log f_j(x) - log f_i(x), (C,), of x, i, j.
        local: leaves a density invariant.
        generator: the only source of randomness.

    Returns (C, T, ...) configurations at each density, one behind each exchange.
    """
    numbers = [float(number) for number in range(len(proposals))]
    replicas, states = [each[:, 0] for each in proposals], []
    for time in range(proposals[0].shape[1]):

        def move(x: Tensor, number: float, generator: torch.Generator, time: int = time) -> Tensor:
            k = int(number)
            uniform = torch.rand(len(x), generator=generator, device=x.device, dtype=torch.float64)
            state = metropolis.init(log_weight(x, k))
            _, accepted = metropolis.step(state, offered[k][:, time], uniform.to(state.log_weight))
            each = accepted.reshape(-1, *[1] * (x.ndim - 1))
            return local(torch.where(each, proposals[k][:, time], x), number, generator)

        replicas, _ = step(
            replicas, log_ratio, move, numbers, odd=bool(time % 2), generator=generator
        )
        states.append(replicas)
    return [torch.stack(list(chain), 1) for chain in zip(*states, strict=True)]
