"""Potts configurations in files: whole numbers from 0 to q - 1.

HDF5 or npz as of Ising spins (`physgen.io.spins`): `samples` (N, sites) or (N, *shape), the string
`variable_type` ("potts" or "categorical"), the number `q`, and, if there are any, `weights` (N,)
and the Markov chain of each configuration, `chain` (N,).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from physgen.batch import Batch, Schema, Variable
from physgen.errors import FormatError
from physgen.io.arrays import MARKOV, Axes, names_in, open_array, stated
from physgen.io.source import as_batch, blocks, digest_of
from physgen.io.spins import FIELDS, facts_of, lattice_of, named_spins
from physgen.io.writer import Append, atomic, hdf5_writer, named_conditions, npz_writer

_TYPES = ("potts", "categorical")


def is_potts(path: Path) -> bool:
    """Whether a file says that it holds Potts spins."""
    return facts_of(path).get("variable_type", "").lower() in _TYPES


class PottsSource:
    """Potts configurations of an HDF5 or npz file, as int8.

    Args:
        path: HDF5 or npz.
        q: number of values; `None` takes the file's, or one more than the largest value.
        shape: of one configuration; `None` takes the file's.
        axes: what the first two axes are, where they are chains and time.

    Attributes:
        dataset: the one that is read.

    Raises:
        FormatError: there is no such file or dataset; the number of sites or q is another, or it is
            declared to hold something else. Values that are no spins are found when they are read.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/s.npz", samples=np.array([[0, 1, 2, 1]]), q=3)
    ...     PottsSource(f"{folder}/s.npz", q=4)
    Traceback (most recent call last):
    physgen.errors.FormatError: ...s.npz says q = 3, and this system has 4; set system.q=3, ...
    """

    def __init__(
        self,
        path: Path | str,
        *,
        q: int | None = None,
        shape: tuple[int, ...] | None = None,
        axes: Axes | None = None,
    ) -> None:
        self.name = str(path)
        self.path = Path(path)
        names = names_in(self.path)
        self.dataset = next((name for name in FIELDS if name in names), FIELDS[0])
        self._where = f"{path}: dataset {self.dataset!r}"
        companions = {"weight": "weights", **MARKOV}
        self._inner = open_array(self.path, self.dataset, companions=companions, axes=axes)
        facts = facts_of(self.path)
        declared = facts.get("variable_type", _TYPES[0])
        if str(declared).lower() not in _TYPES:
            raise FormatError(
                f"{path}: variable_type is {declared!r}, and Potts spins are {_TYPES[0]!r}; "
                "choose another file, or system.kind=ising for spins of -1 and +1"
            )
        said = stated(self.path, ("q",), self.dataset)
        theirs = [int(value) for values in said.values() for value in values]
        if q is not None and theirs and theirs != [q]:
            raise FormatError(
                f"{path} says q = {','.join(map(str, theirs))}, and this system has {q}; set "
                f"system.q={theirs[-1]}, or choose another file"
            )
        self.block = self._inner.block
        stored = self._inner.schema.shape
        lattice = lattice_of(stored, len(self), shape, facts.get("shape"), self._where)
        self.q = q or (theirs[0] if theirs else self._largest() + 1)
        high = float(self.q - 1)
        variable = Variable("spin", domain="integer", dtype="int8", low=0.0, high=high)
        self.schema = Schema(lattice, (variable,))

    def __len__(self) -> int:
        return len(self._inner)

    def arrays(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Return rows [start, stop) by their name in `Batch`, x in int8.

        Raises:
            FormatError: naming a row that holds other values than 0 to q - 1.
        """
        result = self._inner.arrays(start, stop)
        values = result["x"].reshape(-1, *self.schema.shape)
        wrong = (values < 0) | (values >= self.q) | (values != np.floor(values))
        if wrong.any():
            row = int(wrong.reshape(len(values), -1).any(1).argmax())
            value = values[row][wrong[row]][0]
            if value == self.q:
                remedy = f"set system.q={self.q + 1}, or subtract 1 where they count from 1"
            else:
                remedy = "set system.q, or choose another file"
            raise FormatError(
                f"{self._where}: row {start + row} holds {value:g} where spins of q = {self.q} are "
                f"0 to {self.q - 1}; {remedy}"
            )
        return result | {"x": values.astype(np.int8)}

    def read(self, start: int, stop: int) -> Batch:
        """Return rows [start, stop), see `arrays`."""
        return as_batch(self.arrays(start, stop))

    def digest(self) -> str:
        """Return the SHA-256 of the spins, however they are stored."""
        return digest_of(blocks(self))

    def keys(self) -> NDArray[np.int64] | None:
        """Return `None`: every configuration stands alone."""
        return None

    def _largest(self) -> int:
        parts = range(0, len(self), self.block)
        tops = [self._inner.arrays(start, start + self.block)["x"].max() for start in parts]
        return max(1, int(max(tops, default=1)))


@contextmanager
def potts_writer(
    path: Path,
    shape: tuple[int, ...],
    q: int,
    facts: Mapping[str, Any] | None = None,
    conditions: Sequence[str] = (),
) -> Iterator[Append]:
    """Write (B, *shape) spins of 0 to q - 1 piece by piece as flat rows of int8, HDF5 or npz.

    `facts`, such as the temperature, become attributes (arrays of an npz); `conditions` are what
    the columns of `Batch.condition` are called.

    Raises:
        FormatError: a value is no such number.
        InputError: the file exists or cannot be written.
    """
    stated_facts = {"shape": shape, "q": q, **(facts or {})}

    def layout(batch: Batch) -> dict[str, NDArray[np.generic]]:
        x = batch.x
        if not ((x >= 0) & (x < q) & (x == x.round() if x.is_floating_point() else True)).all():
            raise FormatError(f"cannot write: Potts spins are 0 to {q - 1}, others are there")
        return named_conditions(named_spins(batch), conditions)

    if path.suffix == ".npz":
        facts_too = {"variable_type": _TYPES[0], **stated_facts}
        with npz_writer(path, layout, attributes=facts_too) as append:
            yield append
        return
    with atomic(path) as part:
        with hdf5_writer(part, layout, attributes=stated_facts) as append:
            yield append
        with h5py.File(part, "r+") as file:
            file["variable_type"] = _TYPES[0]
