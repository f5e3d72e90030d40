"""Exponential moving average of a surrogate: a <- d a + (1 - d) w after every step.

The decay warms up as d_t = min(d, (1 + t) / (10 + t)), so that early weights are forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """Averages parameters and finite floating buffers; other buffers are those of the module.

    Attributes:
        count: updates so far, which sets the warm-up.

    >>> layer = nn.Linear(1, 1)
    >>> average = MovingAverage(layer, decay=0.999)
    >>> average.update()
    >>> sorted(average.state()), average.count
    (['bias', 'weight'], 1)
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.count = decay, 0
        self._module = module
        # Owner and local name, since a module may put a new tensor in the place of a buffer.
        owners = [
            (f"{prefix}.{name}" if prefix else name, owner, name)
            for prefix, owner in module.named_modules()
            for name in (*owner._parameters, *owner._buffers)
        ]
        saved = module.state_dict()
        # Buffers that stand for "no bound" are infinite, and inf - inf is not a number.
        self._places = [
            place
            for place in owners
            if place[0] in saved
            and saved[place[0]].is_floating_point()
            and bool(torch.isfinite(saved[place[0]]).all())
        ]
        self._mean = {name: saved[name].clone() for name, _, _ in self._places}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the present weights."""
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        self.count += 1
        live = [getattr(owner, name).detach() for _, owner, name in self._places]
        torch._foreach_lerp_(list(self._mean.values()), live, 1 - decay)

    def state(self) -> dict[str, Tensor]:
        """Return the averaged state dict of the module."""
        return {**self._module.state_dict(), **self._mean}

    def load(self, state: Mapping[str, Tensor], count: int) -> None:
        """Continue from a saved average."""
        self.count = count
        for name, tensor in self._mean.items():
            tensor.copy_(state[name])


@contextmanager
def holding(module: nn.Module, state: Mapping[str, Tensor] | None) -> Iterator[None]:
    """Let a module hold other weights within the block, in evaluation mode."""
    if state is None:
        before = None
    else:
        before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        module.load_state_dict(state)
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train()
        if before is not None:
            module.load_state_dict(before)
