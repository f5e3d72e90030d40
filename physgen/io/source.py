"""What a file of samples looks like to everything above: a schema, a length, and rows to read."""

from __future__ import annotations

import hashlib
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from physgen.batch import Batch, Schema


@runtime_checkable
class Source(Protocol):
    """Rows of samples that may be larger than memory.

    Attributes:
        schema: what a row is.
        name: the path, or what stands for it, in messages.
        block: how many consecutive rows are cheap to read at once (the chunk of the file).
    """

    schema: Schema
    name: str
    block: int

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> Batch:
        """Return rows [start, stop) on the CPU, in the types of the file's schema."""
        ...

    def digest(self) -> str:
        """Return the SHA-256 of the content (of the samples, not of the file's compression)."""
        ...

    def keys(self) -> NDArray[np.int64] | None:
        """Return (N,) group keys (rows of one event share one), or `None` if rows stand alone."""
        ...


class ArraySource:
    """A batch in memory, read as if it were a file."""

    def __init__(
        self,
        batch: Batch,
        schema: Schema,
        *,
        name: str = "memory",
        keys: NDArray[np.int64] | None = None,
        block: int = 4096,
    ) -> None:
        self.batch, self.schema, self.name, self.block, self._keys = (
            batch,
            schema,
            name,
            block,
            keys,
        )

    def __len__(self) -> int:
        return len(self.batch)

    def read(self, start: int, stop: int) -> Batch:
        """Return rows [start, stop)."""
        return self.batch[start:stop]

    def digest(self) -> str:
        """Return the SHA-256 over the tensors in the order of their names."""
        return digest_of([self.batch])

    def keys(self) -> NDArray[np.int64] | None:
        """Return the group keys given at construction."""
        return self._keys


def digest_of(batches: list[Batch]) -> str:
    """SHA-256 over the tensors of `batches`, field by field."""
    sha = hashlib.sha256()
    for batch in batches:
        for name, value in sorted(batch.fields().items()):
            sha.update(f"{name}{tuple(value.shape[1:])}{value.dtype}".encode())
            sha.update(np.ascontiguousarray(value.cpu().numpy()).tobytes())
    return sha.hexdigest()
