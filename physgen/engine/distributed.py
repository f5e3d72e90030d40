"""Several processes on one model: every rank holds all parameters and a slice of the batch.

Gradients are summed by one explicit all-reduce of one flat tensor. Wrappers that hook `forward`
(DistributedDataParallel) let the ranks drift apart silently where a loss calls `log_prob`.
"""

from __future__ import annotations

import atexit
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from physgen.errors import InputError, TrainingError


@dataclass(frozen=True)
class World:
    """The processes that train together; one alone unless started by torchrun.

    Attributes:
        rank: number of this process.
        size: how many there are.
        local_rank: number of this process on its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this process writes files and messages."""
        return self.rank == 0

    def slice(self, n: int) -> slice:
        """Return the rows of a global batch of `n` that belong to this rank.

        Raises:
            InputError: the ranks cannot have equal shares.

        >>> World(rank=1, size=2).slice(256)
        slice(128, 256, None)
        """
        if n % self.size:
            raise InputError(
                f"a batch of {n} cannot be shared equally by {self.size} processes; choose an "
                f"engine.batch_size that is a multiple of {self.size}"
            )
        share = n // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one dtype by their sums over the ranks, in one all-reduce."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with _named_failure():
            dist.all_reduce(flat)
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        shaped = [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]
        torch._foreach_copy_(list(tensors), shaped)

    def any(self, flag: bool, device: torch.device) -> bool:
        """Return whether `flag` is set on any rank (synchronises)."""
        if self.size == 1:
            return flag
        count = torch.tensor([float(flag)], device=device)
        self.sum_([count])
        return bool(count.item())

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            with _named_failure():
                dist.barrier()

    def share(self, value: Any) -> Any:
        """Return the JSON-like value that rank 0 passed."""
        if self.size == 1:
            return value
        box = [value]
        with _named_failure():
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in their order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with _named_failure():
            dist.all_gather_object(values, value)
        return values

    def equalise(self, module: nn.Module) -> None:
        """Give all ranks rank 0's parameters and buffers."""
        if self.size > 1:
            for tensor in module.state_dict().values():
                with _named_failure():
                    dist.broadcast(tensor, src=0)

    def check_equal(self, module: nn.Module) -> None:
        """Raise `TrainingError` if the ranks' parameters are not equal bit by bit.

        Buffers may differ: Markov chains belong to their rank.
        """
        if self.size == 1:
            return
        hashes = self.gather(parameter_hash(module))
        different = [rank for rank, value in enumerate(hashes) if value != hashes[0]]
        if different:
            raise TrainingError(
                f"the parameters on rank {different[0]} are not those on rank 0: the method "
                "changes them outside ctx.minimise and ctx.apply, or from numbers that differ "
                "between ranks (use ctx.randn, not ctx.generator, for what parameters depend on)"
            )


def parameter_hash(module: nn.Module) -> str:
    """SHA-256 over the parameters."""
    sha = hashlib.sha256()
    for name, value in sorted(module.named_parameters()):
        sha.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        sha.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def launched() -> World:
    """Return this process's place among those that torchrun started; alone without WORLD_SIZE.

    Raises:
        InputError: some of the variables that torchrun sets are missing, or are no numbers.
    """
    size = _number("WORLD_SIZE", 1)
    if size == 1:
        return World()
    missing = [name for name in _LAUNCHER if not os.environ.get(name)]
    if missing:
        raise InputError(
            f"WORLD_SIZE={size} asks for {size} processes, but {missing[0]} is not set: start them "
            "with torchrun, or unset WORLD_SIZE to train in one process"
        )
    world = World(_number("RANK", 0), size, _number("LOCAL_RANK", 0))
    if not 0 <= world.rank < size:
        raise InputError(f"RANK={world.rank} is not one of WORLD_SIZE={size} processes")
    return world


def _number(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    try:
        return int(text)
    except ValueError as error:
        raise InputError(f"{name}={text}: not a whole number; unset it, or use torchrun") from error


_LAUNCHER = ("RANK", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun sets besides WORLD_SIZE."""


@contextmanager
def connect(cuda: bool) -> Iterator[World]:
    """Join the processes torchrun started; their connection lasts until this process ends.

    An error in the block closes it, which ends the waits of the other ranks.

    Args:
        cuda: whether the ranks compute on CUDA devices (NCCL) or on CPUs (gloo).

    Raises:
        InputError: see `launched`.
    """
    world = launched()
    if world.size == 1:
        yield world
        return
    if not dist.is_initialized():
        if cuda:
            torch.cuda.set_device(world.local_rank)
        dist.init_process_group("nccl" if cuda else "gloo")
        # Joining again later would meet the addresses of this time in torchrun's store.
        atexit.register(_leave)
    try:
        yield world
    except BaseException:
        _leave()
        raise


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def _named_failure() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise TrainingError(
            "another process of this run has stopped; the first error above is the cause "
            f"({str(error).splitlines()[0]})"
        ) from error
