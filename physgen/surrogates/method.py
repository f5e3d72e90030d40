"""How a surrogate is trained: the interface of methods, and what the engine gives to a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from physgen.batch import Batch
from physgen.surrogates.base import Surrogate


class StepContext(Protocol):
    """What the engine offers a method within one step.

    Every number drawn here follows from (seed, step) alone, so there is no generator state to save.
    The batches a method sees are this rank's slice of the global batch; `randn` and `rand` draw for
    the global batch and slice alike, so that 2 ranks of B/2 equal 1 rank of B.
    """

    step: int
    batch_size: int
    """Of this rank."""
    generator: torch.Generator
    """On the training device; differs between ranks (for Markov chains, which are per rank)."""

    def randn(self, *shape: int) -> Tensor:
        """Standard normal numbers, (batch_size, *shape)."""
        ...

    def rand(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), (batch_size, *shape)."""
        ...

    def next(self, name: str = "data") -> Batch:
        """Return a further, prepared batch of an input (several critic steps to one of another)."""
        ...

    def minimise(
        self,
        loss: Callable[..., Tensor],
        optimiser: Optimizer,
        *arguments: Batch | Tensor,
    ) -> Tensor:
        """Take one optimiser step on the weighted mean of per-sample losses.

        `loss(*arguments)` returns (B,) losses. Arguments are cut into micro-batches along their
        first axis; a `Batch` with `weight` among them weighs the mean: sum(w l) / n over all
        micro-batches and ranks. Gradients reach this optimiser's parameters only, are reduced over
        the ranks in one flat all-reduce, checked, clipped, and applied. Pass a bound method, not a
        lambda, so that it is compiled once. Returns the detached mean loss; no host sync.
        """
        ...

    def apply(self, optimiser: Optimizer) -> None:
        """Step with the gradients of the mean loss that the method itself put into `.grad`."""
        ...


class Method:
    """How a surrogate is trained: owns the optimisers, the chains, the critics.

    Subclasses take by name what the recipe's builder offers (`surrogate`, `system`) and their own
    options as keyword-only arguments. `modules` and `tensors` hold all that must survive a kill
    besides the surrogate and the optimisers.
    """

    inputs: tuple[str, ...] = ("data",)
    """Names of the batches a step needs, what is modelled last; () for data-free training.

    Several are sections of the recipe's `data` by their names. Samples are then made from those of
    the first input: their columns are the conditions of the surrogate."""

    negative_weights: bool = False
    """Whether it can learn from events of negative weight: what it follows is a sum over the events
    of a batch, each with its `Batch.weight`. Positive weights need nothing: they decide how often
    an event comes, and batches show none."""

    def __init__(self, surrogate: Surrogate) -> None:
        self.surrogate = surrogate
        self.optimisers: dict[str, Optimizer] = {}
        self.modules: dict[str, nn.Module] = {}
        self.tensors: dict[str, Tensor] = {}

    def prepare(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Map a global batch to what `step` takes: the transform's space, with its noise."""
        with torch.no_grad():
            mapped: Batch = self.surrogate.transform(batch, generator)[0]
        return mapped

    def step(self, batches: Mapping[str, Batch], ctx: StepContext) -> dict[str, Tensor]:
        """Do one training step; return detached scalars ("loss" and what else is worth a curve)."""
        raise NotImplementedError

    def warnings(self, step: int, metrics: Mapping[str, float]) -> list[str]:
        """Return sentences on what goes wrong and what to do, once each.

        Called when the journal is written, after `step` steps, with the means of what `step`
        returned since the call before.
        """
        return []

    def state_dict(self) -> dict[str, Any]:
        """Return optimisers, critics, chains and replay buffers."""
        return {
            "optimisers": {name: o.state_dict() for name, o in self.optimisers.items()},
            "modules": {name: m.state_dict() for name, m in self.modules.items()},
            "tensors": dict(self.tensors),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        for name, tensor in state["tensors"].items():
            self.tensors[name] = tensor
