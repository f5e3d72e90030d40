r"""Parallel tempering: replicas at several beta exchange configurations (Swendsen & Wang 1986).

Each replica moves by a kernel that leaves its own density f_beta invariant; then neighbours i, j
exchange their configurations with the probability

    min(1, f_i(x_j) f_j(x_i) / (f_i(x_i) f_j(x_j))),

so that the product of all densities stays invariant, and cold chains leave their modes by way of
the hot ones. The f_beta of the exchange must be the very density that the moves leave invariant:
where a move samples a joint density (x, h) at exp(-beta E(x, h)), f_beta is its marginal, whose
logarithm is not beta times that of the cold one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

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
