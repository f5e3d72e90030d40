"""Spin configurations in files: 0/1 or -1/+1, as the RBM community keeps them.

HDF5 (and the same arrays in an npz): `samples` (N, sites) or (N, rows, columns), the string
`variable_type` ("bernoulli" for 0/1, "ising" for -1/+1), and, if there are any, `weights` (N,) and
the Markov chain of each configuration, `chain` (N,). Flat rows are a lattice of the attribute
`shape`, if the file has it. They are read as -1/+1, one byte a spin; in unsigned bytes 255 is -1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from physgen.batch import Batch, Schema, Variable
from physgen.errors import FormatError, suggest
from physgen.io import hdf5
from physgen.io.arrays import AXES_REMEDY, MARKOV, Axes, names_in, open_array
from physgen.io.attributes import attribute
from physgen.io.formats import format_of
from physgen.io.hdf5_tables import text_of
from physgen.io.npz import read_arrays
from physgen.io.source import as_batch, blocks, digest_of
from physgen.io.writer import Append, atomic, hdf5_writer, named_conditions, npz_writer

FIELDS = ("samples", "spins", "configurations", "x")
"""Names of arrays that are taken for the configurations, in this order."""
_LARGEST_VALUE = 100
"""So far from 1 lies no value that somebody has for a spin; 255 stands for -1."""
_LOWEST = {"bernoulli": 0, "ising": -1}
"""The value that stands for a spin that points down, by `variable_type`."""


class SpinSource:
    """Spin configurations of an HDF5 or npz file, as int8 of -1 and +1.

    Args:
        path: HDF5 or npz.
        shape: of one configuration; `None` takes the file's, and makes a square of a flat row where
            its length is a square number.
        dataset: path of the configurations inside the file; `None` takes the usual names.
        chain: path of the (N,) chain numbers; `None` takes "chain" if it is there.
        axes: what the first two axes are, where they are chains and time.

    Attributes:
        dataset: the one that is read.

    Raises:
        FormatError: there is no such file or dataset; the number of spins is another; values other
            than two, or not the two that `variable_type` promises.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        shape: tuple[int, ...] | None = None,
        dataset: str | None = None,
        chain: str | None = None,
        axes: Axes | None = None,
    ) -> None:
        self.name = str(path)
        self.path = Path(path)
        if dataset is None:
            names = names_in(self.path)
            dataset = next((name for name in FIELDS if name in names), FIELDS[0])
        self.dataset = dataset
        self._where = f"{path}: dataset {dataset!r}"
        companions = {"weight": "weights", **MARKOV}
        self._inner = open_array(self.path, dataset, chain=chain, companions=companions, axes=axes)
        facts = facts_of(self.path)
        self.block = self._inner.block
        stored = self._inner.schema.shape
        self.schema = Schema(
            lattice_of(stored, len(self._inner), shape, facts.get("shape"), self._where),
            (Variable("spin", domain="spin", dtype="int8"),),
        )
        self._declared = facts.get("variable_type")
        self._low = self._lowest(self._declared)

    def __len__(self) -> int:
        return len(self._inner)

    def arrays(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Return rows [start, stop) by their name in `Batch`, x in int8 of -1 and +1.

        Raises:
            FormatError: naming a row that holds no spins.
        """
        result = self._inner.arrays(start, stop)
        values = signed(result["x"]).reshape(-1, *self.schema.shape)
        up = values == 1
        wrong = ~(up | (values == self._low))
        if wrong.any():
            row = int(wrong.reshape(len(values), -1).any(1).argmax())
            value = values[row][wrong[row]][0]
            raise FormatError(
                f"{self._where}: row {start + row} holds {value:g} where spins are {self._low} "
                f"or 1{self._remedy(value)}"
            )
        return result | {"x": np.where(up, np.int8(1), np.int8(-1))}

    def read(self, start: int, stop: int) -> Batch:
        """Return rows [start, stop), see `arrays`."""
        return as_batch(self.arrays(start, stop))

    def digest(self) -> str:
        """Return the SHA-256 of the spins as -1 and +1, however they are stored."""
        return digest_of(blocks(self))

    def keys(self) -> NDArray[np.int64] | None:
        """Return `None`: every configuration stands alone."""
        return None

    def _lowest(self, declared: str | None) -> int:
        """Return which value is a spin down: as declared, else the commoner of 0 and -1."""
        if declared is not None:
            if declared.lower() not in _LOWEST:
                raise FormatError(
                    f"{self.name}: variable_type is {declared!r}: not spins"
                    f"{suggest(declared, _LOWEST)}"
                )
            return _LOWEST[declared.lower()]
        for start in range(0, len(self), self.block):
            values = signed(self._inner.arrays(start, start + self.block)["x"])
            zeros, minuses = ((values == value).sum() for value in (0, -1))
            if zeros or minuses:
                return 0 if zeros > minuses else -1
        return -1

    def _remedy(self, value: float) -> str:
        if value not in (0, -1):
            return "; it is damaged, or not a file of spins"
        kind = "bernoulli" if value == 0 else "ising"
        remedy = f"; use 0/1 or -1/+1 throughout, and set variable_type to {kind!r} if it is that"
        # Undeclared, the other one was seen to be the spin down.
        return remedy if self._declared else f": -1, 0 and 1 all occur{remedy}"


def signed(values: NDArray[Any]) -> NDArray[Any]:
    """Return unsigned numbers that hold -1 as their largest value (255) as signed ones.

    >>> signed(np.array([1, 255, 1], np.uint8))
    array([ 1, -1,  1], dtype=int8)
    """
    if values.dtype.kind == "u" and values.size and values.max() > _LARGEST_VALUE:
        return np.ascontiguousarray(values).view(f"i{values.dtype.itemsize}")
    return values


@contextmanager
def spin_writer(
    path: Path,
    shape: tuple[int, ...],
    facts: Mapping[str, Any] | None = None,
    conditions: Sequence[str] = (),
) -> Iterator[Append]:
    """Write (B, *shape) spins of -1/+1 piece by piece as flat rows of int8, HDF5 or npz.

    `facts`, such as the temperature, become attributes (arrays of an npz); `conditions` are what
    the columns of `Batch.condition` are called.

    Raises:
        FormatError: a value is neither -1 nor +1.
        InputError: the file exists or cannot be written.
    """
    stated = {"shape": shape, **(facts or {})}

    def layout(batch: Batch) -> dict[str, NDArray[np.generic]]:
        return named_conditions(named_spins(_checked(batch)), conditions)

    if path.suffix == ".npz":
        with npz_writer(path, layout, attributes={"variable_type": "ising", **stated}) as append:
            yield append
        return
    with atomic(path) as part:
        with hdf5_writer(part, layout, attributes=stated) as append:
            yield append
        with h5py.File(part, "r+") as file:
            file["variable_type"] = "ising"


def _checked(batch: Batch) -> Batch:
    if not (batch.x.abs() == 1).all():
        raise FormatError("cannot write: spins are -1 or +1, and other values are there")
    return batch


def named_spins(batch: Batch) -> dict[str, NDArray[np.generic]]:
    """Return the columns by the names that other programs have for them, spins as flat rows."""
    columns = {name: value.cpu().numpy() for name, value in batch.fields().items()}
    columns["samples"] = columns.pop("x").reshape(len(batch), -1).astype(np.int8)
    if "weight" in columns:
        columns["weights"] = columns.pop("weight")
    return columns


def facts_of(path: Path) -> dict[str, Any]:
    """Return what a file says in `variable_type` and `shape`, as far as it can be understood."""
    result: dict[str, Any] = {}
    if format_of(path) == "npz":
        known = {"variable_type", "shape"} & set(names_in(path))
        result = read_arrays(path, known)
    else:
        with hdf5.open_hdf5(path) as file:
            result["shape"] = attribute(file, "shape")
            if hdf5.has(file, "variable_type"):
                result["variable_type"] = text_of(file, "variable_type")
    facts: dict[str, Any] = {}
    shape, kind = (np.ravel(np.asarray(result.get(name))) for name in ("shape", "variable_type"))
    if shape.dtype.kind in "iu" and (shape > 0).all():
        facts["shape"] = tuple(int(extent) for extent in shape)
    if kind.size == 1 and isinstance(kind[0], bytes | str):
        facts["variable_type"] = (
            kind[0].decode(errors="replace") if isinstance(kind[0], bytes) else str(kind[0])
        )
    return facts


def lattice_of(
    stored: tuple[int, ...],
    rows: int,
    wanted: tuple[int, ...] | None,
    stated: tuple[int, ...] | None,
    where: str,
) -> tuple[int, ...]:
    """Return the lattice of a configuration: as wanted, as the file says, or as it lies there."""
    sites = math.prod(stored)
    side = math.isqrt(sites)
    if wanted is None and stated is not None and math.prod(stated) == sites:
        return stated
    if wanted is None:
        return (side, side) if len(stored) == 1 and side * side == sites else stored
    if math.prod(wanted) == sites and stored in (wanted, (sites,)):
        return wanted
    lattice = "x".join(map(str, wanted))
    if stored[1:] in (wanted, (math.prod(wanted),)):
        raise FormatError(
            f"{where} has shape {(rows, *stored)}, which may be several chains of lattices of "
            f"{lattice}; say which axis is which, {AXES_REMEDY}"
        )
    if rows == math.prod(wanted) and len(stored) == 1:
        raise FormatError(
            f"{where} has shape {(rows, *stored)}: transposed? A row is a configuration, here of "
            f"{lattice}; write samples.T"
        )
    size = "x".join(map(str, stored))
    square = f" (a lattice of {side}x{side}?)" if len(stored) == 1 and side * side == sites else ""
    remedy = list((side, side) if square else stored)
    raise FormatError(
        f"{where} holds {size} spins a configuration{square}, and the system is a lattice of "
        f"{lattice}; set system.shape={remedy}, or choose another file"
    )
