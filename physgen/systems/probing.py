r"""Probing of an action far out: can exp(-S) be normalised, and where are its wells?

Along a ray r u the integral of exp(-S(r u)) converges only if S grows faster than ln r, that is, by
more than ln 2 whenever r doubles. Rays through all sites alike, through single sites, through waves
along the axes and at random, and those along which the action is smallest at some distance, find
directions in which it is flat, or falls without limit. That is a test of necessary conditions: an
action that passes may still have no normaliser, for which it would have to be exotic.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from physgen.errors import DomainError

Action = Callable[[Tensor], Tensor]

_RADII = tuple(10.0 * 2.0**k for k in range(11))
"""From 10 to 10,000 a site: farther out than any field wants to be, near enough for rounding."""

_FAR = 3
"""Doublings at the end of a ray in each of which the action must grow."""

_SINGLE_SITES = 256
"""At most so many sites are moved alone."""


def check_normalisable(action: Action, shape: tuple[int, ...], name: str) -> None:
    """Refuse an action of (B, *shape) fields whose exp(-S) has no finite integral.

    Raises:
        DomainError: there is a direction in which the action stays flat, or falls without limit.
    """
    rays, names = _rays(action, shape)
    table = torch.stack([_at(action, radius * rays) for radius in _RADII])
    growth = table[-_FAR:] - table[-_FAR - 1 : -1]
    # Infinity is higher than anything, also than itself; what is not a number tells nothing.
    growth = torch.where(table[-_FAR:] == math.inf, math.inf, growth).nan_to_num(
        nan=math.inf, posinf=math.inf, neginf=-math.inf
    )
    worst = growth.max(0).values
    ray = int(worst.argmin())
    if worst[ray] > math.log(2):
        return
    falls = bool(growth[-1, ray] < -math.log(2))
    what = "an unbounded direction, where it falls" if falls else "a flat direction, where it stays"
    values = ", ".join(f"{float(table[k, ray]):.6g}" for k in (0, -2, -1))
    raise DomainError(
        f"{name} is not normalisable: it has {what}: S = {values} at fields of {_RADII[0]:g}, "
        f"{_RADII[-2]:g} and {_RADII[-1]:g}, {names[ray]}; add a term that bounds the field, such "
        "as a mass, or fix the flat mode"
    )


def wells(action: Action, shape: tuple[int, ...]) -> list[float]:
    """Return the values of uniform fields at which the action has a local minimum, lowest first."""
    size = torch.logspace(-2, 2, 81, dtype=torch.float64)
    values = torch.cat([-size.flip(0), torch.zeros(1, dtype=torch.float64), size])
    found = _at(action, values.reshape(-1, *[1] * len(shape)).expand(-1, *shape))
    found = found.nan_to_num(nan=math.inf)
    lowest = (found[1:-1] < found[:-2]) & (found[1:-1] <= found[2:])
    minima = [i + 1 for i in lowest.nonzero().flatten().tolist()]
    return [float(values[i]) for i in sorted(minima, key=lambda i: float(found[i]))]


def _at(action: Action, x: Tensor) -> Tensor:
    """Return (B,) actions of fields, in pieces that fit into memory."""
    with torch.no_grad():
        parts = [action(part.clone()).double() for part in torch.split(x, 256)]
    return torch.cat(parts)


def _rays(action: Action, shape: tuple[int, ...]) -> tuple[Tensor, list[str]]:
    """Return (R, *shape) directions, the largest entry of each 1 in size, and what they are."""
    n_sites = math.prod(shape)
    generator = torch.Generator().manual_seed(0)
    sites = torch.arange(n_sites)
    if n_sites > _SINGLE_SITES:
        sites = torch.randperm(n_sites, generator=generator)[:_SINGLE_SITES]
    single = torch.eye(n_sites, dtype=torch.float64)[sites].reshape(-1, *shape)
    index = torch.stack(
        torch.meshgrid(*(torch.arange(extent) for extent in shape), indexing="ij")
    ).double()
    waves = [torch.ones(shape, dtype=torch.float64), (-1.0) ** index.sum(0)]
    for axis, extent in enumerate(shape):
        phase = 2 * math.pi * index[axis] / extent
        waves += [(-1.0) ** index[axis], phase.cos()]
        waves += [phase.sin()] if extent > 2 else []
    random = torch.randn((16, *shape), generator=generator, dtype=torch.float64)
    plain = torch.cat([torch.stack(waves), random, random.sign()])
    both = torch.cat([plain, -plain, single, -single, _softest(action, shape, generator)])
    names = (
        ["alike on all sites", "of alternating sign"]
        + ["waves along an axis"] * (len(waves) - 2)
        + ["at random"] * 32
    )
    names = names * 2 + ["on one site alone"] * (2 * len(single)) + ["in the softest direction"] * 4
    size = both.flatten(1).abs().amax(1).reshape(-1, *[1] * len(shape))
    return both / size, names


def _softest(action: Action, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return four directions (4, *shape) in which the action is smallest far out, by descent."""
    start = torch.randn((4, *shape), generator=generator, dtype=torch.float64)
    x = start.clone().requires_grad_()
    radius = 100 * math.sqrt(math.prod(shape))
    each = (-1, *[1] * len(shape))
    optimiser = torch.optim.LBFGS([x], max_iter=40, line_search_fn="strong_wolfe")

    def on_the_sphere() -> Tensor:
        scaled: Tensor = radius * x / x.flatten(1).norm(dim=1).reshape(each)
        return scaled

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = action(on_the_sphere()).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimiser.step(closure)  # type: ignore[no-untyped-call]
    found = on_the_sphere().detach()
    return torch.where(found.flatten(1).isfinite().all(1).reshape(each), found, start)
