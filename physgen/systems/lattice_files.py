"""Ensembles of lattice fields in files: HDF5 or npz, the field in `configurations` (N, *shape).

`chain` (N,), where present, says which Markov chain a configuration belongs to, in the order of
Monte Carlo time. Attributes of the file say which action it is an ensemble of.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import NDArray

from physgen.batch import Batch, Schema
from physgen.errors import FormatError, suggest
from physgen.io.arrays import AXES_REMEDY, Axes, names_in, open_array, stated
from physgen.io.lattice.arrays import is_npy
from physgen.io.lattice.content import lattice_format
from physgen.io.source import Source
from physgen.io.writer import COMPANIONS, Append, hdf5_writer, named_conditions, npz_writer

FIELD = "configurations"
_SAME = 1e-5
"""Relative difference of parameters below which files say the same: they may be in float32."""


class EnsembleFiles(ABC):
    """The files of a system of fields on a lattice, which says how it can be told from others.

    Attributes:
        axes: of the field in files of several chains, ("chain", "time") or the other way round.
    """

    file_keys: ClassVar[frozenset[str]] = frozenset({"axes"})
    axes: Axes | None = None

    @property
    @abstractmethod
    def schema(self) -> Schema:
        """Of one configuration."""

    @property
    @abstractmethod
    def attributes(self) -> dict[str, Any]:
        """What files of this system say of its action, its couplings by their names."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Suffixes of the files that `writer` makes."""
        return (".h5", ".hdf5", ".npz")

    def open(self, path: Path) -> Source:
        """Open an ensemble; raises `FormatError` where it is none, or of another lattice."""
        return open_ensemble(path, self.schema, self.axes)

    def writer(
        self,
        path: Path,
        n: int,
        facts: Mapping[str, Any] | None = None,
        *,
        varying: Sequence[str] = (),
    ) -> AbstractContextManager[Append]:
        """Write an ensemble piece by piece, with the attributes of its system.

        Conditions become columns that are called as the `varying` couplings.
        """
        fixed = {name: value for name, value in self.attributes.items() if name not in varying}
        return ensemble_writer(path, self.schema, {**fixed, **(facts or {})}, varying)


def is_configuration(path: Path) -> bool:
    """Return whether a file holds gauge configurations, and is none of `open_ensemble`."""
    found = lattice_format(path)
    return found is not None and (
        found.key != "hdf5" or is_npy(path) or FIELD not in names_in(path)
    )


def open_ensemble(path: Path, schema: Schema, axes: Axes | None = None) -> Source:
    """Open an ensemble of the lattice of `schema`, which may be larger than memory in HDF5.

    Args:
        path: HDF5 or npz file.
        schema: of one configuration.
        axes: what the first two axes of the field are, where they are chains and time.

    Raises:
        FormatError: there is no such file, no field in it, or one of another shape. Numbers that
            are not finite are found when they are read (their row is named).
    """
    if FIELD not in (names := names_in(path)):
        raise FormatError(
            f"{path}: the field must be called {FIELD!r}{suggest(FIELD, names)}; rename it, in "
            f"HDF5 by file.move(NAME, {FIELD!r})"
        )
    others = {name: name for name in COMPANIONS}
    source = open_array(path, FIELD, companions=others, axes=axes)
    shape, dtype = source.schema.shape, source.schema.variables[0].dtype
    if shape[1:] == schema.shape:
        raise FormatError(
            f"{path}: {FIELD!r} has shape {(len(source), *shape)}, which may be several chains of "
            f"lattices of {'x'.join(map(str, schema.shape))}; say which axis is which, "
            f"{AXES_REMEDY}"
        )
    if shape != schema.shape or not dtype.startswith("float"):
        raise FormatError(
            f"{path}: {FIELD!r} is {dtype} of shape {(len(source), *shape)}, expected real numbers "
            f"of shape (N, {', '.join(map(str, schema.shape))}); set system.shape to that of the "
            "file"
        )
    source.schema = schema
    return source


def names_of_temperature(temperature: float) -> dict[str, tuple[float, str]]:
    """Return what files of spins may state of T, for `check_parameters`."""
    remedy = "set system.temperature"
    names = dict.fromkeys(("temperature", "temp", "t"), (temperature, remedy))
    return names | {"beta": (1 / temperature, f"{remedy} to 1/beta")}


def check_parameters(path: Path, field: str, parameters: Mapping[str, tuple[float, str]]) -> None:
    """Refuse a file that says it was made with other parameters than the system has.

    Args:
        path: HDF5 or npz file.
        field: the array of the configurations.
        parameters: by the name they have in files (in any case), the value there should be, and
            what to do if there is another.

    Raises:
        FormatError: a parameter is another, or differs from row to row.
    """
    for name, values in stated(path, parameters, field).items():
        here, remedy = parameters[name.lower()]
        if len(values) > 1:
            raise FormatError(
                f"{path}: {name!r} has {len(values)} values, from {values[0]:g} to {values[-1]:g}: "
                "its rows are a mixture, and this system has one; keep the rows of one of them"
            )
        if not math.isclose(float(values[0]), here, rel_tol=_SAME, abs_tol=1e-12):
            raise FormatError(
                f"{path} says {name} = {values[0]:g}, and this system has {here:g}; {remedy}, or "
                "choose another file"
            )


def ensemble_writer(
    path: Path, schema: Schema, facts: Mapping[str, Any], conditions: Sequence[str] = ()
) -> AbstractContextManager[Append]:
    """Write an ensemble piece by piece as HDF5, or npz by suffix.

    `facts` become attributes; `conditions` are what the columns of `Batch.condition` are called.
    """

    def layout(batch: Batch) -> dict[str, NDArray[Any]]:
        return named_conditions(_layout(batch), conditions)

    write = npz_writer if path.suffix == ".npz" else hdf5_writer
    return write(path, layout, schema=schema, attributes=facts)


def _layout(batch: Batch) -> dict[str, NDArray[Any]]:
    columns = {name: value.cpu().numpy() for name, value in batch.fields().items()}
    columns[FIELD] = columns.pop("x")
    return columns
