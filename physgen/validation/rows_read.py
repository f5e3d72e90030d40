"""What is wrong with single rows of a file: negative values, rows of zeros."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.io.source import HasFaults, Source, blocks
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


@dataclass
class RowsRead:
    """What is wrong with single rows of a file.

    Attributes:
        file: its name.
        n: how many rows it has.
        found: how many rows are wrong and the number of the first, by what is wrong with them:
            "empty", or the name of a variable that is negative and cannot be.
        faults: what the reader of the file finds wrong besides.
    """

    file: str
    n: int
    found: dict[str, tuple[int, int]] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)

    def add(self, wrong: str, rows: Tensor, start: int) -> None:
        """Count the rows (B,) of a part of the file that begins at row `start`."""
        if rows.any():
            count, first = self.found.get(wrong, (0, start + int(rows.int().argmax())))
            self.found[wrong] = (count + int(rows.sum()), first)

    def rows(self, what: str) -> list[Row]:
        """Return a warning of each thing that is wrong; `what` says of which sample."""
        result = []
        for wrong, (count, first) in self.found.items():
            of = f"{self.file}: {count} of {self.n} rows"
            if wrong == "empty":
                name, fault = f"empty rows of the {what} file", "hold nothing but zeros"
                remedy = "leave them out unless they are meant"
            else:
                name = f"negative {wrong}, {what} rows"
                fault = f"have a negative {wrong!r}, which cannot be"
                remedy = "put them right (padding is 0 where there is a mask), or leave them out"
            warning = f"{of} {fault}, the first being row {first}: {remedy}"
            result.append(Row(name=name, metric="domains", value=count, warning=warning))
        for wrong, warning in self.faults.items():
            name = f"{wrong}, {what} rows"
            result.append(Row(name=name, metric="domains", value=None, warning=warning))
        return result


def look_at(source: Source, schema: Schema) -> RowsRead:
    """Read all rows of a file; empty ones are those of points, voxels and pictures.

    >>> import torch
    >>> from physgen.batch import Variable
    >>> from physgen.io.source import ArraySource
    >>> schema = Schema((2,), (Variable("e", "MeV", "non-negative"),))
    >>> batch = Batch(torch.tensor([[0.0, 1.0], [0.0, 0.0], [-1.0, 0.0]]))
    >>> look_at(ArraySource(batch, schema, name="a.h5"), schema).found
    {'e': (1, 2), 'empty': (1, 1)}
    """
    domains = {variable.domain for variable in schema.variables}
    # A row of a table may well be zeros.
    can_be_empty = schema.masked or (domains == {"non-negative"} and len(schema.variables) == 1)
    faults = source.faults() if isinstance(source, HasFaults) else {}
    result = RowsRead(source.name, len(source), faults=faults)
    if not (can_be_empty or "non-negative" in domains):
        return result
    for number, part in enumerate(blocks(source)):
        start = number * source.block
        for name, below in negative(part, schema):
            result.add(name, below, start)
        if can_be_empty:
            filled = part.x != 0
            if part.mask is not None:
                shape = *part.mask.shape, *[1] * (filled.ndim - part.mask.ndim)
                filled &= part.mask.reshape(shape)
            result.add("empty", ~filled.reshape(len(part), -1).any(1), start)
    return result
