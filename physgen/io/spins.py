"""Spin configurations in files: `samples` of 0/1 or -1/+1, as the RBM community keeps them.

HDF5 (and the same arrays in an npz): `samples` (N, sites) or (N, rows, columns), the string
`variable_type` ("bernoulli" for 0/1, "ising" for -1/+1), and, if there are any, `weights` (N,) and
the Markov chain of each configuration, `chain` (N,). Flat rows are a lattice of the attribute
`shape`, if the file has it. They are read as -1/+1, one byte a spin.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from physgen.batch import Batch, Schema, Variable
from physgen.errors import FormatError, suggest
from physgen.io.hdf5 import open_hdf5
from physgen.io.hdf5_source import HDF5Source
from physgen.io.npz import read_arrays
from physgen.io.source import ArraySource, Source, blocks, digest_of, to_tensor
from physgen.io.writer import Append, atomic, hdf5_writer, npz_writer

_LOWEST = {"bernoulli": 0, "ising": -1}
"""The value that stands for a spin that points down, by `variable_type`."""


class SpinSource:
    """Spin configurations of an HDF5 or npz file, as int8 of -1 and +1.

    Args:
        path: ends in .npz, or is HDF5.
        shape: of one configuration; `None` takes the file's, and makes a square of a flat row where
            its length is a square number.
        dataset: path of the configurations inside the file.
        chain: path of the (N,) chain numbers; `None` takes "chain" if it is there.

    Raises:
        FormatError: there is no such file or dataset; the number of spins is another; values other
            than two, or not the two that `variable_type` promises.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        shape: tuple[int, ...] | None = None,
        dataset: str = "samples",
        chain: str | None = None,
    ) -> None:
        self.name = str(path)
        self.path = Path(path)
        self._where = f"{path}: dataset {dataset!r}"
        read = _from_npz if self.path.suffix == ".npz" else _from_hdf5
        self._inner, facts = read(self.path, dataset, chain)
        self.block = self._inner.block
        self.schema = Schema(
            _shape(self._inner.schema.shape, shape, facts.get("shape"), self._where),
            (Variable("spin", domain="spin", dtype="int8"),),
        )
        self._declared = facts.get("variable_type")
        self._low = self._lowest(self._declared)

    def __len__(self) -> int:
        return len(self._inner)

    def read(self, start: int, stop: int) -> Batch:
        """Return rows [start, stop); raises `FormatError` naming a row that holds no spins."""
        batch = self._inner.read(start, stop)
        values = batch.x.reshape(len(batch), *self.schema.shape)
        up = values == 1
        wrong = ~(up | (values == self._low))
        if wrong.any():
            row = int(wrong.flatten(1).any(1).nonzero()[0])
            value = values[row][wrong[row]][0].item()
            raise FormatError(
                f"{self._where}: row {start + row} holds {value:g} where spins are {self._low} "
                f"or 1{self._remedy(value)}"
            )
        return batch.replace(x=up.to(torch.int8).mul_(2).sub_(1))

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
        for batch in blocks(self._inner):
            zeros, minuses = ((batch.x == value).sum() for value in (0, -1))
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


@contextmanager
def spin_writer(path: Path, shape: tuple[int, ...]) -> Iterator[Append]:
    """Write (B, *shape) spins of -1/+1 piece by piece as flat rows of int8, HDF5 or npz.

    Raises:
        FormatError: a value is neither -1 nor +1.
        InputError: the file exists or cannot be written.
    """
    if path.suffix == ".npz":
        facts = {"variable_type": "ising", "shape": shape}
        with npz_writer(path, _columns, attributes=facts) as append:
            yield append
        return
    with atomic(path) as part:
        with hdf5_writer(part, _columns, attributes={"shape": shape}) as append:
            yield append
        with h5py.File(part, "r+") as file:
            file["variable_type"] = "ising"


def _columns(batch: Batch) -> dict[str, NDArray[np.generic]]:
    """Name the columns as other programs do."""
    if not (batch.x.abs() == 1).all():
        raise FormatError("cannot write: spins are -1 or +1, and other values are there")
    names: dict[str, Tensor | None] = {
        "samples": batch.x.flatten(1).to(torch.int8),
        "weights": batch.weight,
        "chain": batch.chain,
    }
    return {name: value.cpu().numpy() for name, value in names.items() if value is not None}


def _from_hdf5(path: Path, dataset: str, chain: str | None) -> tuple[Source, dict[str, Any]]:
    facts: dict[str, Any] = {}
    with open_hdf5(path) as file:
        weight = "weights" if "weights" in file else None
        chain = chain or ("chain" if "chain" in file else None)
        if "variable_type" in file:
            declared = file["variable_type"][()]
            named = declared.decode(errors="replace") if isinstance(declared, bytes) else declared
            facts["variable_type"] = str(named)
        if "shape" in file.attrs:
            facts["shape"] = tuple(int(extent) for extent in np.ravel(file.attrs["shape"]))
    return HDF5Source(path, x=dataset, weight=weight, chain=chain), facts


def _from_npz(path: Path, dataset: str, chain: str | None) -> tuple[Source, dict[str, Any]]:
    arrays = read_arrays(path)
    for name in (dataset, chain):
        if name is not None and name not in arrays:
            raise FormatError(f"{path}: there is no array {name!r}{suggest(name, arrays)}")
    names = {"x": dataset, "weight": "weights", "chain": chain or "chain"}
    batch = Batch(**{key: to_tensor(arrays[n]) for key, n in names.items() if n in arrays})
    facts: dict[str, Any] = {}
    if "variable_type" in arrays:
        facts["variable_type"] = str(np.ravel(arrays["variable_type"])[0])
    if "shape" in arrays:
        facts["shape"] = tuple(int(extent) for extent in np.ravel(arrays["shape"]))
    schema = Schema(tuple(batch.x.shape[1:]), (Variable(dataset),))
    return ArraySource(batch, schema, name=str(path)), facts


def _shape(
    stored: tuple[int, ...],
    wanted: tuple[int, ...] | None,
    said: tuple[int, ...] | None,
    where: str,
) -> tuple[int, ...]:
    """Return the lattice of a configuration: as wanted, as the file says, or as it lies there."""
    sites = math.prod(stored)
    side = math.isqrt(sites)
    if wanted is None and said is not None and math.prod(said) == sites:
        return said
    if wanted is None:
        return (side, side) if len(stored) == 1 and side * side == sites else stored
    if math.prod(wanted) == sites and stored in (wanted, (sites,)):
        return wanted
    size = "x".join(map(str, stored))
    square = f" (a lattice of {side}x{side}?)" if len(stored) == 1 and side * side == sites else ""
    remedy = list((side, side) if square else stored)
    raise FormatError(
        f"{where} holds {size} spins a configuration{square}, and the system is a lattice of "
        f"{'x'.join(map(str, wanted))}; set system.shape={remedy}, or choose another file"
    )
