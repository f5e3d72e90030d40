"""Files of systems that have no format of their own: HDF5, the samples in `x`, as physgen writes.

Of a file by another program, `x` (N, *shape) are the samples and `condition` (N, C) their
conditions; `weight` and `chain` (N,) may stand beside them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from physgen.batch import Schema
from physgen.errors import FormatError
from physgen.io.hdf5_source import HDF5Source
from physgen.io.source import Source
from physgen.io.writer import Append, hdf5_writer

_READ = {name: name for name in ("condition", "weight", "chain", "log_weight")}


class ArrayFiles(ABC):
    """Gives a system the files of arrays that its schema describes.

    >>> import tempfile
    >>> import torch
    >>> from physgen.batch import Batch, Variable
    >>> class Charges(ArrayFiles):
    ...     schema = Schema((2,), (Variable("charge", "ke"),))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "charges.h5"
    ...     with Charges().writer(path, 3) as append:
    ...         append(Batch(torch.zeros(3, 2)))
    ...     len(Charges().open(path))
    3
    """

    @property
    @abstractmethod
    def schema(self) -> Schema:
        """Of one sample."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Suffixes of the files that `writer` makes."""
        return (".h5", ".hdf5")

    def open(self, path: Path) -> Source:
        """Open a file of samples.

        Raises:
            FormatError: it is none, or its samples or conditions are of another shape or unit.
        """
        source = HDF5Source(path, companions=_READ)
        found, schema = source.schema, self.schema
        if found.shape != schema.shape or len(found.condition) != len(schema.condition):
            raise FormatError(
                f"{path}: x has shape (N, {_shown(found.shape)}) and {len(found.condition)} "
                f"conditions, expected (N, {_shown(schema.shape)}) and {len(schema.condition)}; "
                "set the options of the system to those of the file"
            )
        pairs = zip(found.variables, schema.variables, strict=False)
        for theirs, ours in (*pairs, *zip(found.condition, schema.condition, strict=True)):
            if theirs.unit not in ("1", ours.unit):
                raise FormatError(
                    f"{path}: {ours.name!r} is in {theirs.unit}, and the system has {ours.unit}; "
                    "convert the file"
                )
        source.schema = schema
        return source

    def writer(
        self, path: Path, n: int, facts: Mapping[str, Any] | None = None
    ) -> AbstractContextManager[Append]:
        """Write samples piece by piece; see `physgen.systems.base.HasFiles`."""
        return hdf5_writer(path, schema=self.schema, attributes=facts)


def _shown(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))
