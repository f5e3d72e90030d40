r"""Parallel tempering of spins with a network's samples as global moves.

Chains of every condition, such as a temperature, are offered samples of the network there, accepted
by their exact probability; then the heat bath draws all spins, sublattice by sublattice; then
neighbouring conditions exchange configurations (`physgen.sampling.tempering`). Each leaves the
product of all targets as it is. Where the network covers a target badly, chains move by the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from physgen.batch import Batch
from physgen.errors import InputError
from physgen.sampling.local import Turns
from physgen.sampling.tempering import with_proposals
from physgen.surrogates.autoregressive.heat_bath import Action, groups, interactions, sweep


def tempered(
    proposals: Sequence[Batch],
    action: Action,
    log_weight: Callable[[Batch], Tensor],
    chains: Turns,
    *,
    generator: torch.Generator,
) -> list[Batch]:
    """Make chains of each target, which exchange configurations.

    Args:
        proposals: N samples of a network at each condition with `log_weight`, neighbours behind
            one another, dealt to the chains.
        action: of the targets, linear in each spin.
        log_weight: of configurations at conditions.
        chains: how many there are of each target, of N // n_chains proposals each.
        generator: the only source of randomness.

    Returns the chains of each target one after the other, with `chain`.

    Raises:
        InputError: there are too few proposals, or they have no log-weights.
        RecipeError: the action is not linear in each spin.
    """
    n_chains, n_warm = chains
    length = min(len(batch) for batch in proposals) // n_chains
    x, offered, conditions = [], [], []
    for batch in proposals:
        if batch.log_weight is None or length - n_warm < 1:
            raise InputError(
                f"{n_chains} chains need more than {n_chains * n_warm} proposals of each target, "
                "with log-weights"
            )
        rows = batch[: n_chains * length]
        x.append(rows.x.reshape(n_chains, length, *rows.x.shape[1:]))
        offered.append(batch.log_weight[: n_chains * length].reshape(n_chains, length))
        conditions.append(None if rows.condition is None else rows.condition[:n_chains])
    first = conditions[0]
    one = None if first is None else first[:1]
    sublattices = groups(interactions(action, x[0].shape[2:], one))

    def log_ratio(y: Tensor, before: float, after: float) -> Tensor:
        return action(y, conditions[int(before)]) - action(y, conditions[int(after)])

    def local(y: Tensor, number: float, generator: torch.Generator) -> Tensor:
        return sweep(action, y, sublattices, conditions[int(number)], generator=generator)

    states = with_proposals(
        x,
        offered,
        lambda y, number: log_weight(Batch(y, conditions[number])),
        log_ratio,
        local,
        generator=generator,
    )
    numbers = torch.arange(n_chains).repeat_interleave(length - n_warm).to(x[0].device)
    return [
        Batch(
            chain[:, n_warm:].flatten(0, 1),
            None if given is None else given.repeat_interleave(length - n_warm, 0),
            chain=numbers,
        )
        for chain, given in zip(states, conditions, strict=True)
    ]
