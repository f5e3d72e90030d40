"""What a file of samples looks like to everything above: a schema, a length, and rows to read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from physgen.batch import Batch, Schema, Variable
from physgen.errors import FormatError, InputError

if TYPE_CHECKING:
    from torch import Tensor


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


@runtime_checkable
class HasNotes(Protocol):
    """A source that has something to say to whoever trains on it."""

    def notes(self) -> list[str]:
        """Return sentences on what was left out, or looks wrong, and what to do about it."""
        ...


@runtime_checkable
class HasFaults(Protocol):
    """A source some of whose rows look wrong, though they can be read."""

    def faults(self) -> dict[str, str]:
        """Return, by what is wrong, a sentence that names the file, a row, and what to do."""
        ...


@runtime_checkable
class ReadsConditions(Protocol):
    """A source whose conditions can be read without the samples that were made at them."""

    def conditions(self, start: int, stop: int) -> NDArray[Any]:
        """Return (rows, C), the conditions of rows [start, stop)."""
        ...


@runtime_checkable
class HasClasses(Protocol):
    """A source that may know the classes of its rows, though they are no condition."""

    def has_labels(self) -> bool:
        """Return whether it does."""
        ...


class ArraySource:
    """A batch in memory, read as if it were a file.

    >>> import torch
    >>> source = ArraySource(Batch(torch.zeros(10, 2)), Schema((2,), (Variable("x"),)))
    >>> len(source), source.read(8, 12).x.shape
    (10, torch.Size([2, 2]))
    """

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


def digest_of(batches: Iterable[Batch]) -> str:
    """SHA-256 over the tensors of `batches`, field by field, however the rows are cut."""
    fields: dict[str, Any] = {}
    for batch in batches:
        for name, value in batch.fields().items():
            header = f"{name} {tuple(value.shape[1:])} {value.dtype}\n".encode()
            sha = fields.setdefault(name, hashlib.sha256(header))
            sha.update(np.ascontiguousarray(value.cpu().numpy()).data)
    total = hashlib.sha256()
    for _, sha in sorted(fields.items()):
        total.update(sha.digest())
    return total.hexdigest()


def blocks(source: Source) -> Iterator[Batch]:
    """Read a source in order, `source.block` rows at a time."""
    for start in range(0, len(source), source.block):
        yield source.read(start, min(start + source.block, len(source)))


def written_schema(text: str, where: str) -> Schema:
    """Return the schema that physgen wrote into a file as JSON.

    Raises:
        FormatError: it cannot be understood.
    """
    try:
        return Schema.from_dict(json.loads(text))
    except (ValueError, TypeError, KeyError, RecursionError, InputError) as error:
        raise FormatError(
            f"{where}: physgen_schema cannot be understood ({error}); it was changed, or written "
            "by another version: remove it to read plain numbers"
        ) from error


def schema_of_array(
    stored: Schema | None, name: str, shape: tuple[int, ...], plain: Variable
) -> Schema:
    """Return what the rows of an array are: what physgen wrote of it, else what it looks like.

    Args:
        stored: the schema in the file, of its array "x", or of columns that are arrays.
        name: of the array.
        shape: of one row.
        plain: the array by itself.
    """
    if stored is not None and name == "x" and stored.shape == shape:
        return stored
    if stored is not None and shape == (1,) and name in stored.names:
        return Schema(shape, (stored.variables[stored.names.index(name)],))
    return Schema(shape, (plain,))


class Stamp:
    """Tells whether a file is still the one it was when this was made."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._was = self._now()

    def check(self) -> None:
        """Raise `FormatError` if the file was written to, replaced or removed since."""
        if self._now() != self._was:
            raise FormatError(
                f"{self._path} was changed while it was in use; open it again, and leave it as it "
                "is until the work on it has ended"
            )

    def _now(self) -> tuple[int, ...] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def as_batch(arrays: Mapping[str, NDArray[Any]]) -> Batch:
    """Return arrays by their name in `Batch` as one; x and condition have two axes at least."""
    fields: dict[str, Any] = {name: to_tensor(array) for name, array in arrays.items()}
    for name in {"x", "condition"} & fields.keys():
        if fields[name].ndim == 1:
            fields[name] = fields[name].unsqueeze(1)
    return Batch(**fields)


def to_tensor(array: NDArray[Any]) -> Tensor:
    """Return a tensor of a type that holds the values exactly and that torch computes with.

    Booleans and signed integers stay; unsigned ones become the next wider signed type; half and
    long precision become float32 and float64. Byte order becomes the machine's.

    Raises:
        FormatError: an unsigned 64-bit value beyond the range of int64.
    """
    kind = _TORCH_KINDS.get(array.dtype.str[1:], array.dtype.newbyteorder("=").str)
    if array.dtype.kind == "u" and array.dtype.itemsize == 8 and (array > _INT64_MAX).any():
        raise FormatError("unsigned 64-bit values beyond the range of int64 cannot be samples")
    # Files are opened and looked at without torch, which takes longer to import than to do so.
    import torch

    return torch.from_numpy(np.ascontiguousarray(array, dtype=kind))


_INT64_MAX = np.uint64(2**63 - 1)
_TORCH_KINDS = {"u2": "i4", "u4": "i8", "u8": "i8", "f2": "f4", "f16": "f8", "f12": "f8"}


def check_finite(array: NDArray[Any], start: int, where: str) -> None:
    """Raise `FormatError` naming the first row of `array` that holds a NaN or an infinity.

    Args:
        array: (rows, ...).
        start: row of the file at which `array` begins.
        where: path and dataset or branch, for the message.
    """
    if array.dtype.kind != "f":
        return
    # A sum is finite only if all terms are; one pass without a temporary in the usual case.
    with np.errstate(all="ignore"):
        if np.isfinite(array.sum()):
            return
    bad = ~np.isfinite(array.reshape(len(array), -1)).all(1)
    if bad.any():
        row = int(bad.argmax())
        place = np.argwhere(~np.isfinite(array[row]))[0].tolist()
        value = array[(row, *place)]
        at = f", column {place[0]}" if len(place) == 1 else f", element {place}"
        raise FormatError(
            f"{where}: row {start + row} holds {value}{at if array[row].size > 1 else ''}; remove "
            "such rows, or find out why they are there (`physgen inspect` counts them)"
        )
