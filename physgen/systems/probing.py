r"""Probing of an action far out: can exp(-S) be normalised, and where are its wells?

Along a ray r u the integral of exp(-S(r u)) converges only if S grows faster than ln r. Rays
through all sites alike, through single sites, through waves along the axes and at random, and those
along which the action is smallest at some distance, find directions in which it is flat, goes up
and down between bounds, or falls without limit. That is a test of necessary conditions: an action
that passes may still have no normaliser, for which it would have to be exotic.

One value a distance could be high by chance where the action oscillates. So all values around the
larger distance must be above all around the smaller one. An action that oscillates by more than it
grows between 1280 and 10,240 a site is refused too, though it may have a normaliser.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from physgen.errors import DomainError

Action = Callable[[Tensor], Tensor]

_NEAR, _FAR = 1280.0, 10_240.0
"""Of a site: farther out than any field wants to be, near enough for rounding."""

_AROUND = 12
"""Distances looked at around each of the two: of values drawn at random, those here are all higher
than those there once in 3 million times."""

_WIDTH = 1.1
"""The largest of them, relative to the smallest."""

_SINGLE_SITES = 256
"""At most so many sites are moved alone."""


def check_normalisable(action: Action, shape: tuple[int, ...], name: str) -> None:
    """Refuse an action of (B, *shape) fields whose exp(-S) has no finite integral.

    Raises:
        DomainError: there is a direction in which the action stays flat, or falls without limit.
    """
    rays, names = _rays(action, shape)
    near_low, near_high = _bounds(action, _NEAR, rays)
    far_low, far_high = _bounds(action, _FAR, rays)
    # Infinity is higher than anything, also than itself; what is not a number tells nothing.
    growth = torch.where(far_low == math.inf, math.inf, far_low - near_high).nan_to_num(
        nan=math.inf, posinf=math.inf, neginf=-math.inf
    )
    refused = growth <= math.log(_FAR / (_WIDTH * _NEAR))
    if not refused.any():
        return
    # An oscillation is a little lower somewhere by chance.
    falls = refused & (far_low < near_low - 10 * (near_high - near_low) - math.log(2))
    # What falls says most. Of several rays the first ones are the easiest to understand.
    ray = int((falls if falls.any() else refused).int().argmax())
    if falls[ray]:
        what = "an unbounded direction, where it falls"
    elif max(far_high[ray], near_high[ray]) - min(far_low[ray], near_low[ray]) < math.log(2):
        what = "a flat direction, where it stays"
    else:
        what = "a flat direction, where it goes up and down or hardly grows"
    radii = (10.0, _NEAR, _FAR)
    values = ", ".join(f"{float(_at(action, r * rays[ray : ray + 1])):.6g}" for r in radii)
    raise DomainError(
        f"{name} is not normalisable: it has {what}: S = {values} at fields of {radii[0]:g}, "
        f"{_NEAR:g} and {_FAR:g}, {names[ray]}; add a term that bounds the field, such as a mass, "
        "or fix the flat mode"
    )


def wells(action: Action, shape: tuple[int, ...]) -> list[float]:
    """Return the values of uniform fields at which the action has a local minimum, lowest first."""
    size = torch.logspace(-2, 2, 81, dtype=torch.float64)
    values = torch.cat([-size.flip(0), torch.zeros(1, dtype=torch.float64), size])
    result = _at(action, values.reshape(-1, *[1] * len(shape)).expand(-1, *shape))
    result = result.nan_to_num(nan=math.inf)
    lowest = (result[1:-1] < result[:-2]) & (result[1:-1] <= result[2:])
    minima = [i + 1 for i in lowest.nonzero().flatten().tolist()]
    return [float(values[i]) for i in sorted(minima, key=lambda i: float(result[i]))]


def _bounds(action: Action, radius: float, rays: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lowest and the highest action (R,) along each ray from `radius` on."""
    generator = torch.Generator().manual_seed(0)
    around = torch.rand(_AROUND, generator=generator, dtype=torch.float64)
    values = torch.stack([_at(action, r * rays) for r in (radius * _WIDTH**around).tolist()])
    return values.amin(0), values.amax(0)


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
    result = on_the_sphere().detach()
    return torch.where(result.flatten(1).isfinite().all(1).reshape(each), result, start)
