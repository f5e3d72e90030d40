"""What is wrong with single rows of a file: negative values, rows of zeros."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import FormatError
from physgen.io.source import Source, blocks
from physgen.validation.scorecard import Row


def negative(batch: Batch, schema: Schema) -> Iterator[tuple[str, Tensor]]:
    """Yield each variable that cannot be negative, and (B,) the rows in which it is.

    Padding may hold anything, and so may a variable that says of itself whether it is there.
    """
    for k, variable in enumerate(schema.variables):
        if variable.domain != "non-negative" or variable.present is not None or len(batch) == 0:
            continue
        wrong = (batch.x if len(schema.variables) == 1 else batch.x[..., k]) < 0
        if batch.mask is not None:
            wrong &= batch.mask.reshape(*batch.mask.shape, *[1] * (wrong.ndim - batch.mask.ndim))
        yield variable.name, wrong.reshape(len(batch), -1).any(1)


@dataclass(frozen=True)
class EmptyRows:
    """Rows of a file that hold nothing but zeros.

    Attributes:
        file: its name.
        n: how many rows it has.
        empty: how many of them are empty.
        first: the number of the first of these.
    """

    file: str
    n: int
    empty: int = 0
    first: int = 0

    def rows(self, what: str) -> list[Row]:
        """Return a warning of empty rows, if there are any; `what` says of which sample."""
        if not self.empty:
            return []
        warning = (
            f"{self.file}: {self.empty} of {self.n} rows hold nothing but zeros, the first being "
            f"row {self.first}: leave them out unless they are meant"
        )
        name = f"empty rows of the {what} file"
        return [Row(name=name, metric="domains", value=self.empty, warning=warning)]


def look_at(source: Source, schema: Schema) -> EmptyRows:
    """Read all rows of a file; return those that are empty, of points, voxels and pictures.

    Raises:
        FormatError: a variable is negative that cannot be; the row is named.

    >>> from physgen.batch import Variable
    >>> from physgen.io.source import ArraySource
    >>> schema = Schema((2,), (Variable("e", "MeV", "non-negative"),))
    >>> batch = Batch(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    >>> found = look_at(ArraySource(batch, schema, name="a.h5"), schema)
    >>> found.empty, found.first
    (1, 1)
    """
    domains = {variable.domain for variable in schema.variables}
    # A row of a table may well be zeros.
    can_be_empty = schema.masked or (domains == {"non-negative"} and len(schema.variables) == 1)
    empty: list[Tensor] = []
    if not (can_be_empty or "non-negative" in domains):
        return EmptyRows(source.name, len(source))
    for number, part in enumerate(blocks(source)):
        start = number * source.block
        for name, below in negative(part, schema):
            if below.any():
                raise FormatError(
                    f"{source.name}: {name!r} is negative in row {start + _first(below)}, which it "
                    "cannot be: put the row right (padding is 0 where there is a mask), or leave "
                    "it out"
                )
        if not can_be_empty:
            continue
        filled = part.x != 0
        if part.mask is not None:
            shape = *part.mask.shape, *[1] * (filled.ndim - part.mask.ndim)
            filled &= part.mask.reshape(shape)
        empty.append(start + (~filled.reshape(len(part), -1).any(1)).nonzero()[:, 0])
    numbers = torch.cat(empty) if empty else torch.empty(0)
    first = int(numbers[0]) if len(numbers) else 0
    return EmptyRows(source.name, len(source), len(numbers), first)


def _first(rows: Tensor) -> int:
    return int(rows.int().argmax())
