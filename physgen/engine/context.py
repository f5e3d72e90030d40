"""What a method sees of the engine within one step: batches, random numbers, and minimisation.

What is minimised is the weighted mean of per-sample losses l_i over all micro-batches and ranks,

    L = (1/n) sum_i w_i l_i ,

n being the size of the global batch and w_i weights whose mean over the training rows is one (see
`physgen.io.weights`). They are not divided by their mean over the batch: a mean of such ratios is
not the ratio of the means, and favours what weighs little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from physgen.batch import Batch
from physgen.engine.device import floating_type
from physgen.engine.distributed import World
from physgen.engine.options import Engine
from physgen.engine.random import keyed_seed, seed_global
from physgen.errors import InputError, RecipeError, TrainingError
from physgen.surrogates.method import Method


class Stream(Protocol):
    """An endless supply of global batches on the CPU, with an exact cursor."""

    def __next__(self) -> Batch: ...

    def state_dict(self) -> dict[str, Any]:
        """Return the cursor as JSON types."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a cursor."""
        ...


class Feed:
    """Moves the batches of a stream to the device, one ahead of their use on CUDA.

    They keep the type of the file, which is the method's to prepare (see `transforms.base`).
    """

    def __init__(self, stream: Stream, device: torch.device) -> None:
        self.stream, self.device = stream, device
        self._ahead: Batch | None = None
        self._cursor: dict[str, Any] | None = None
        self._copies = (
            torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            if device.type == "cuda"
            else None
        )

    def take(self) -> Batch:
        """Return the next batch on the device."""
        if self._copies is None:
            return next(self.stream).to(self.device)
        batch = self._ahead if self._ahead is not None else self._start_copy(self._copies)
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self._copies)
        for tensor in batch.fields().values():
            tensor.record_stream(current)
        # The cursor that is saved must not count the batch that is only under way.
        self._cursor = self.stream.state_dict()
        self._ahead = self._start_copy(self._copies)
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Return the cursor behind the last batch that was taken."""
        return self.stream.state_dict() if self._cursor is None else self._cursor

    def _start_copy(self, copies: torch.cuda.Stream) -> Batch:
        batch = next(self.stream)
        pinned = batch.replace(**{name: v.pin_memory() for name, v in batch.fields().items()})
        with torch.cuda.stream(copies):
            return pinned.to(self.device, non_blocking=True)


class Context:
    """The engine's `StepContext`.

    Attributes:
        step: number of steps done before this one.
        batch_size: of this rank.
        generator: on the training device, keyed by (seed, step, rank).
        losses: detached global mean of every `minimise` since the engine last looked.
        gradient_norms: global norms before clipping, likewise; empty without clipping.
    """

    def __init__(
        self,
        method: Method,
        feeds: Mapping[str, Feed],
        options: Engine,
        *,
        device: torch.device,
        world: World,
    ) -> None:
        self.step = 0
        self.batch_size = len(range(options.batch_size)[world.slice(options.batch_size)])
        self.generator = torch.Generator(device)
        self.losses: list[tuple[int, Tensor]] = []
        self.gradient_norms: list[Tensor] = []
        self._method, self._feeds, self._options = method, feeds, options
        self._device, self._world = device, world
        self._dtype = floating_type(options.precision)
        self._autocast = torch.bfloat16 if options.precision == "bf16" else None
        self._shared = torch.Generator(device)
        self._preparation = torch.Generator(device)
        self._taken: dict[str, int] = {}
        self._losses: dict[Callable[..., Tensor], Callable[..., Tensor]] = {}

    def begin(self, step: int) -> None:
        """Key all random numbers to a step."""
        self.step = step
        self._taken = dict.fromkeys(self._feeds, 0)
        self._shared.manual_seed(keyed_seed(self._options.seed, "shared", number=step))
        rank = self._world.rank
        self.generator.manual_seed(keyed_seed(self._options.seed, "rank", rank, number=step))
        seed_global(keyed_seed(self._options.seed, "global", rank, number=step), self._device)

    def randn(self, *shape: int) -> Tensor:
        """Standard normal numbers, (batch_size, *shape)."""
        return self._draw(torch.randn, shape)

    def rand(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), (batch_size, *shape)."""
        return self._draw(torch.rand, shape)

    def next(self, name: str = "data") -> Batch:
        """Return this rank's slice of a further, prepared batch of an input."""
        if name not in self._feeds:
            raise RecipeError(
                f"the method asks for an input {name!r} and this run has "
                f"{', '.join(map(repr, self._feeds)) or 'none'}; give the recipe a data section"
            )
        batch = self._feeds[name].take()
        key = keyed_seed(self._options.seed, "prepare", name, self._taken[name], number=self.step)
        self._taken[name] += 1
        self._preparation.manual_seed(key)
        with torch.no_grad():
            prepared = self._method.prepare(batch, self._preparation).to(dtype=self._dtype)
        return prepared if self._world.size == 1 else prepared[self._world.slice(len(prepared))]

    def minimise(
        self,
        loss: Callable[..., Tensor],
        optimiser: Optimizer,
        *arguments: Batch | Tensor,
    ) -> Tensor:
        """Take one optimiser step on the weighted mean of per-sample losses (see `StepContext`)."""
        parameters = _parameters(optimiser)
        function = self._compile(loss)
        optimiser.zero_grad(set_to_none=True)
        sums: list[Tensor] = []
        n = len(arguments[0]) * self._world.size if arguments else 0
        for pieces in self._micro_batches(arguments):
            with torch.autocast(
                self._device.type, dtype=self._autocast, enabled=self._autocast is not None
            ):
                values = function(*pieces)
            if values.ndim != 1:
                raise TrainingError(
                    f"the loss {getattr(loss, '__qualname__', loss)!r} returned shape "
                    f"{tuple(values.shape)}: expected one loss a sample, (batch,)"
                )
            n = n or len(values) * self._world.size
            weight = _weight(pieces)
            if weight is not None:
                values = values * weight
            mean = values.sum() / n
            mean.backward(inputs=parameters)  # type: ignore[no-untyped-call]
            sums.append(mean.detach())
        total = _sum(sums)
        self._reduce(parameters, total)
        self._step(optimiser, parameters)
        self.losses.append((self.step, total))
        return total

    def apply(self, optimiser: Optimizer) -> None:
        """Step with the gradients of the mean loss that the method itself put into `.grad`."""
        parameters = _parameters(optimiser)
        gradients = _gradients(parameters, fill=self._world.size > 1)
        self._world.sum_(gradients)
        if self._world.size > 1:
            torch._foreach_div_(gradients, self._world.size)
        self._step(optimiser, parameters)

    def _draw(self, kind: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
        n = self.batch_size * self._world.size
        numbers = kind(n, *shape, generator=self._shared, device=self._device, dtype=self._dtype)
        return numbers if self._world.size == 1 else numbers[self._world.slice(n)]

    def _compile(self, loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
        if not self._options.compile:
            return loss
        if loss not in self._losses:
            self._losses[loss] = torch.compile(loss)
        return self._losses[loss]

    def _micro_batches(
        self, arguments: tuple[Batch | Tensor, ...]
    ) -> Iterator[tuple[Batch | Tensor, ...]]:
        if self._options.accumulate == 1:
            yield arguments
            return
        if not arguments:
            raise InputError(
                "engine.accumulate cuts the arguments of a loss into micro-batches, and the loss "
                "of this method takes none; use engine.accumulate=1"
            )
        n = len(arguments[0])
        if any(len(argument) != n for argument in arguments):
            raise TrainingError(
                "the arguments of a loss are cut into micro-batches along their first axis, which "
                f"differs: {[len(argument) for argument in arguments]}"
            )
        size = -(-n // self._options.accumulate)
        for start in range(0, n, size):
            yield tuple(argument[start : start + size] for argument in arguments)

    def _reduce(self, parameters: list[Tensor], total: Tensor) -> None:
        if self._world.size == 1:
            return
        gradients = _gradients(parameters, fill=True)
        shared = total.to(gradients[0].dtype, copy=True)
        self._world.sum_([*gradients, shared])
        total.copy_(shared)

    def _step(self, optimiser: Optimizer, parameters: list[Tensor]) -> None:
        if self._options.clip is not None:
            norm = torch.nn.utils.clip_grad_norm_(parameters, self._options.clip)
            self.gradient_norms.append(norm.detach())
        optimiser.step()


def _parameters(optimiser: Optimizer) -> list[Tensor]:
    return [
        parameter
        for group in optimiser.param_groups
        for parameter in group["params"]
        if parameter.requires_grad
    ]


def _gradients(parameters: list[Tensor], *, fill: bool) -> list[Tensor]:
    """Return the gradients; with `fill`, zeros where there is none (equal on all ranks)."""
    if fill:
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _weight(arguments: tuple[Batch | Tensor, ...]) -> Tensor | None:
    for argument in arguments:
        if isinstance(argument, Batch) and argument.weight is not None:
            return argument.weight
    return None


def _sum(values: list[Tensor]) -> Tensor:
    return values[0].clone() if len(values) == 1 else torch.stack(values).sum()
