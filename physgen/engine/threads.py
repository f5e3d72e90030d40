"""How many threads a training uses on a CPU: one, unless its tensors are large enough to share.

Threads meet at a barrier after every operation. Where an operation takes microseconds, the meeting
costs more than the sharing saves; where another program has the second core, everybody waits for
the thread that was put aside. What counts is therefore the size of the operations, not how many
there are: with n elements each (and floating-point operations of products counted as
`FLOPS_AN_ELEMENT` to one),

    size of the work = sum n^2 / sum n

over all operations of the first step. It follows from shapes alone, so that a run makes the same
choice again; a resumed run keeps what its checkpoint says, because the number of threads can
change the last bit of a sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

LARGE = 2**21
"""From this size of the work on, all threads are used.

Below, two threads of one core gained a factor of 1.5 at the best on an idle machine, and lost one
of 3 beside a single other process.
"""
FLOPS_AN_ELEMENT = 32
"""Floating-point operations of a product that take as long as one element of another operation."""


class Work(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that run within it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._sum = self._squares = 0.0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the operation and count its elements."""
        kwargs = dict(kwargs or {})
        out = func(*args, **kwargs)
        n = float(sum(part.numel() for part in tree_leaves(out) if isinstance(part, Tensor)))
        count = flop_registry.get(func.overloadpacket)
        if count is not None:
            n = count(*args, **kwargs, out_val=out) / FLOPS_AN_ELEMENT
        self._sum += n
        self._squares += n * n
        return out

    @property
    def size(self) -> float:
        """Mean size of an operation, in elements, weighted by the size."""
        return self._squares / self._sum if self._sum else 0.0


def threads_for(size: float, available: int) -> int:
    """Return how many of the `available` threads work of this size should use."""
    return available if size >= LARGE else 1


@contextmanager
def restored_threads() -> Iterator[int]:
    """Yield torch's number of threads, and set it back afterwards."""
    available = torch.get_num_threads()
    try:
        yield available
    finally:
        torch.set_num_threads(available)
