"""Samples of a file with their conditions, which the file says by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from physgen.batch import Batch, Schema, Variable
from physgen.errors import FormatError, suggest
from physgen.io.arrays import ArraysSource, names_in, open_array, stated
from physgen.io.source import Source, blocks, digest_of


class Conditioned:
    """A source, and the conditions of its rows: arrays with a number a row, or one for the file.

    Args:
        source: of the samples.
        path: HDF5 or npz file that they come from.
        variables: the conditions; arrays, or attributes of the file, are called as they are.

    Attributes:
        schema: of the source, with the conditions.

    Raises:
        FormatError: the file does not say a condition, or not once a row.
    """

    def __init__(self, source: Source, path: Path, variables: Sequence[Variable]) -> None:
        self._source = source
        self.name, self.block = source.name, source.block
        self.schema: Schema = replace(source.schema, condition=tuple(variables))
        self._columns = [_column(path, variable.name, len(source)) for variable in variables]

    def __len__(self) -> int:
        return len(self._source)

    def read(self, start: int, stop: int) -> Batch:
        """Return rows [start, stop) with `condition`."""
        batch = self._source.read(start, stop)
        n = len(batch)
        columns = [
            np.full(n, column)
            if isinstance(column, float)
            else column.arrays(start, start + n)["x"].reshape(n).astype(np.float64)
            for column in self._columns
        ]
        return batch.replace(condition=torch.from_numpy(np.stack(columns, 1)))

    def digest(self) -> str:
        """Return the SHA-256 of samples and conditions."""
        return digest_of(blocks(self))

    def keys(self) -> NDArray[np.int64] | None:
        """Return the group keys of the source."""
        return self._source.keys()


def _column(path: Path, name: str, rows: int) -> ArraysSource | float:
    names = names_in(path)
    if name in names:
        column = open_array(path, name, companions={})
        if len(column) == rows and column.schema.shape == (1,):
            return column
    values = stated(path, [name], "").get(name)
    if values is None or len(values) != 1:
        raise FormatError(
            f"{path}: {name} is a condition, and the file says it neither once nor for each of its "
            f"{rows} rows; add an array {name!r} of shape ({rows},){suggest(name, names)}"
        )
    return float(values[0])
