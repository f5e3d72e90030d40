r"""Exact conditionals of spins out of an action.

An action that is linear in every single spin, as those of Ising models on any lattice are, has

    p(s_i | all others) = sigmoid(2 s_i f_i),    f_i = - dS / ds_i,

where f_i does not depend on s_i. Sites of which no two interact are independent given all others:
a whole sublattice is drawn at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from physgen.errors import RecipeError
from physgen.systems.base import HasAction, HasValueFields
from physgen.systems.family import Family

Action = Callable[[Tensor, Tensor | None], Tensor]

_ROWS = 1024
"""Configurations whose action is taken together."""


def fields(action: Action, x: Tensor, condition: Tensor | None = None) -> Tensor:
    """Return f, (B, *shape), of (B, *shape) spins; a spin of 0 is one that is not there.

    >>> from physgen.systems.ising import Ising
    >>> float(fields(Ising(shape=(4, 4), temperature=2.0).action, torch.ones(1, 4, 4))[0, 0, 0])
    2.0
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(action(x, condition).sum(), x)
    return -gradient


def interactions(action: Action, shape: tuple[int, ...], condition: Tensor | None = None) -> Tensor:
    """Return (N, N), whether the field at a site depends on the spin of another.

    Args:
        action: of (B, *shape) spins.
        shape: of one configuration.
        condition: (1, C), at which there are all interactions.

    Raises:
        RecipeError: the action is not linear in each spin.
    """
    n = math.prod(shape)
    # Numbers between -1 and 1 in the place of spins: no two interactions cancel.
    here = 2 * torch.rand(1, n, generator=torch.Generator().manual_seed(0)).double() - 1
    parts = []
    for start in range(0, n, _ROWS):
        sites = torch.arange(start, min(start + _ROWS, n))
        given = None if condition is None else condition.expand(len(sites), -1)
        x = here.expand(len(sites), n)
        changed = x.scatter(1, sites[:, None], -x.gather(1, sites[:, None]))
        before, after = (part.reshape(-1, *shape) for part in (x, changed))
        field, moved = (fields(action, part, given).flatten(1) for part in (before, after))
        expected = 2 * (x * field).gather(1, sites[:, None])[:, 0]
        found = action(after, given) - action(before, given)
        if not torch.allclose(found, expected, rtol=1e-6, atol=1e-6):
            raise RecipeError(
                "the action is not linear in each spin, so that its gradient does not give the "
                "distribution of a spin; set surrogate.heat_bath=false, and "
                "sampling.correction=independence-metropolis"
            )
        parts.append((moved - field).abs() > 1e-9)
    return torch.cat(parts)


def groups(neighbours: Tensor) -> list[list[int]]:
    """Return all sites in groups of which no two interact, the largest first: sublattices.

    Args:
        neighbours: (N, N), see `interactions`.

    >>> ring = torch.eye(4).roll(1, 0) + torch.eye(4).roll(-1, 0)
    >>> groups(ring > 0)
    [[0, 2], [1, 3]]
    """
    left, result = torch.ones(len(neighbours), dtype=torch.bool), []
    while left.any():
        chosen = torch.zeros_like(left)
        for site in left.nonzero()[:, 0].tolist():
            chosen[site] = not bool((neighbours[site] & chosen).any())
        result.append([int(site) for site in chosen.nonzero()[:, 0]])
        left &= ~chosen
    return sorted(result, key=len, reverse=True)


def sweep(
    action: Action,
    x: Tensor,
    groups: Sequence[Sequence[int]],
    condition: Tensor | None = None,
    *,
    generator: torch.Generator,
) -> Tensor:
    """Draw every spin of (B, *shape) configurations from its distribution, group by group."""
    for sites in groups:
        chance = (2 * fields(action, x, condition)).sigmoid().flatten(1)[:, sites]
        uniform = torch.rand(
            chance.shape, generator=generator, device=chance.device, dtype=chance.dtype
        )
        x = (
            x.flatten(1)
            .index_copy(
                1,
                torch.tensor(sites, device=x.device),
                torch.where(uniform < chance, 1.0, -1.0).to(x),
            )
            .reshape_as(x)
        )
    return x


def of_sublattice(system: object, shape: tuple[int, ...]) -> tuple[Action, list[int]]:
    """Return the action, and sites of which no two interact, in raster order.

    They are a sublattice, where there is one.

    Raises:
        RecipeError: there is no action, or it is not linear in each spin.
    """
    if not isinstance(system, HasAction):
        raise RecipeError(
            "surrogate.heat_bath=true draws spins by the action of the system, and there is none; "
            "set surrogate.heat_bath=false"
        )
    condition = system.bounds[0][None] if isinstance(system, Family) else None
    return system.action, groups(interactions(system.action, shape, condition))[0]


def value_sublattice(system: object, shape: tuple[int, ...], q: int) -> list[int]:
    """Return sites of Potts spins of which no two interact, in raster order.

    Args:
        system: with the fields of each value.
        shape: of one configuration.
        q: number of values.

    Raises:
        RecipeError: there are no such fields.
    """
    if not isinstance(system, HasValueFields):
        raise RecipeError(
            "surrogate.heat_bath=true draws values by the fields of a Potts model at one "
            "temperature, which this system has not; set surrogate.heat_bath=false"
        )
    n = math.prod(shape)
    here = torch.randint(q, (1, n), generator=torch.Generator().manual_seed(0)).double()
    changed = torch.where(torch.eye(n, dtype=torch.bool), (here + 1) % q, here)
    before, after = (system.value_fields(x.reshape(-1, *shape)) for x in (here, changed))
    return groups(((after - before).abs() > 1e-9).any(1).flatten(1))[0]
