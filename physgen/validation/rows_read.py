"""What is wrong with single rows of a file, as they are read: negative values, rows of zeros."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import FormatError
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
    """Rows of one file, looked at as they are read.

    Attributes:
        file: its name.
        schema: of the rows.
        n: how many were looked at.
        empty: how many of them hold nothing but zeros.
        first: the number of the first of these in the file.

    >>> import torch
    >>> from physgen.batch import Variable
    >>> seen = RowsRead("a.h5", Schema((2,), (Variable("e", "MeV", "non-negative"),)))
    >>> batch = Batch(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    >>> for _ in seen.through([batch], np.array([4, 7])): pass
    >>> seen.empty, seen.first
    (1, 7)
    """

    file: str
    schema: Schema
    n: int = 0
    empty: int = 0
    first: int = 0

    def through(self, parts: Iterable[Batch], rows: NDArray[np.int64]) -> Iterator[Batch]:
        """Yield parts of the file, which are its `rows` in their order.

        Raises:
            FormatError: a variable is negative that cannot be; the row is named.
        """
        for part in parts:
            numbers = rows[self.n : self.n + len(part)]
            for name, below in negative(part, self.schema):
                if below.any():
                    row = numbers[int(below.int().argmax())]
                    raise FormatError(
                        f"{self.file}: {name!r} is negative in row {row}, which it cannot be: put "
                        "the row right (padding is 0 where there is a mask), or leave it out"
                    )
            filled = part.x != 0
            if part.mask is not None:
                shape = *part.mask.shape, *[1] * (filled.ndim - part.mask.ndim)
                filled &= part.mask.reshape(shape)
            empty = ~filled.reshape(len(part), -1).any(1)
            if empty.any():
                if not self.empty:
                    self.first = int(numbers[int(empty.int().argmax())])
                self.empty += int(empty.sum())
            self.n += len(part)
            yield part

    def rows(self, what: str) -> list[Row]:
        """Return a warning of empty rows, if there are any; `what` says of which sample."""
        if not self.empty:
            return []
        warning = (
            f"{self.file}: {self.empty} of the {self.n} rows looked at hold nothing but zeros, the "
            f"first being row {self.first}: leave them out unless they are meant"
        )
        name = f"empty rows of the {what} file"
        return [Row(name=name, metric="domains", value=self.empty, warning=warning)]
