"""Gauge configurations into files: NERSC, ILDG with SciDAC's checksums, and ensembles in HDF5.

A file appears whole, or not at all. Numbers are rounded once, to the precision of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from physgen.batch import Batch
from physgen.errors import InputError, suggest
from physgen.io.forced import FORCED, LONGEST
from physgen.io.lattice import ildg, nersc
from physgen.io.lattice.arrays import STACKED
from physgen.io.lattice.configuration import Header, Links
from physgen.io.lattice.loops import measure
from physgen.io.lattice.source import in_memory, schema_of
from physgen.io.source import as_batch
from physgen.io.writer import atomic, hdf5_writer

Key = Literal["nersc", "ildg", "hdf5"]
Bits = Literal[32, 64]

ENDINGS: dict[str, Key] = {
    ".nersc": "nersc",
    ".ildg": "ildg",
    ".lime": "ildg",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
}
"""Formats that the ending of a file tells."""
KEYS: tuple[Key, ...] = ("nersc", "ildg", "hdf5")
_LARGEST_ROW = 2**30
"""Bytes of a configuration in HDF5, beyond which physgen would not read it back."""

AppendLinks = Callable[[Links, int, int, str], None]
"""Takes links (T, Z, Y, X, 4, N, N), their chain, their trajectory and their mark."""


def target(output: Path, to: str | None) -> Key:
    """Return the format to write; `InputError` if it is not known."""
    if to is None and output.suffix not in ENDINGS:
        raise InputError(
            f"{output}: its ending does not tell the format; say --to, one of {', '.join(KEYS)}"
        )
    key = ENDINGS[output.suffix] if to is None else next((k for k in KEYS if k == to), None)
    if key is None:
        raise InputError(
            f"no format of gauge configurations that is written is called {to!r}"
            f"{suggest(str(to), KEYS)}"
        )
    return key


def write_configuration(
    path: Path,
    links: Links,
    key: Key,
    *,
    bits: Bits = 64,
    facts: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write one configuration as NERSC (all rows, big-endian) or ILDG.

    Args:
        path: of the file.
        links: (T, Z, Y, X, 4, N, N), directions in the order x, y, z, t.
        key: "nersc" or "ildg".
        bits: of a real number in the file.
        facts: kept in the header, by name.
        overwrite: replace an existing file.

    Raises:
        InputError: the lattice is not of four dimensions, or the file cannot be written.

    >>> import tempfile
    >>> from physgen.io.lattice.content import read
    >>> unit = np.broadcast_to(np.eye(3), (2, 2, 2, 2, 4, 3, 3)).astype(complex)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_configuration(Path(folder) / "unit", unit, "ildg", bits=32)
    ...     read(Path(folder) / "unit").measured.plaquette
    1.0
    """
    if links.ndim != 7 or links.shape[-1] < 2:
        raise InputError(
            f"{path}: links of shape {links.shape}; NERSC and ILDG hold SU(N) in four dimensions: "
            "write HDF5"
        )
    rounded = _rounded(links, bits)
    dtype, tail = np.dtype(f">f{bits // 8}"), b""
    if key == "nersc":
        names = {name.upper(): value for name, value in (facts or {}).items()}
        head, numbers = nersc.written(rounded, dtype, measure(rounded).plaquette, names)
    else:
        head, numbers, tail = ildg.written(rounded, dtype, facts or {})
    with atomic(path, overwrite) as part, part.open("wb") as file:
        file.write(head)
        numbers.tofile(file)
        file.write(tail)


@contextmanager
def ensemble_writer(
    path: Path,
    header: Header,
    *,
    bits: Bits = 64,
    facts: Mapping[str, Any] | None = None,
    marks: bool = False,
    overwrite: bool = False,
) -> Iterator[AppendLinks]:
    """Write configurations one by one as the ensemble of an HDF5 file, as `Gauge` reads it.

    Beside `configurations` (N, d, *shape, N, N, 2) stand `chain` and `trajectory` (N,), and, if
    some may be marked, `read_by_force` (N,), see `physgen.io.forced`.

    Args:
        path: of the file.
        header: says lattice and group.
        bits: of a real number in the file.
        facts: kept as attributes, by name.
        marks: whether some may be marked.
        overwrite: replace an existing file.

    Raises:
        InputError: a configuration takes more than a gibibyte, or the file cannot be written.
    """
    schema = schema_of(header)
    row = int(np.prod(schema.shape)) * bits // 8
    if row > _LARGEST_ROW:
        raise InputError(
            f"{path}: a configuration takes {row} bytes, too many for a row of HDF5: write ILDG"
        )
    labels: dict[str, NDArray[Any]] = {}

    def layout(batch: Batch) -> dict[str, NDArray[Any]]:
        return {STACKED: batch.x.numpy(), **labels}

    stated = {"group": header.group, "axes": own_axes(len(header.shape)), **(facts or {})}
    with hdf5_writer(path, layout, schema=schema, attributes=stated, overwrite=overwrite) as append:

        def append_links(links: Links, chain: int, trajectory: int, mark: str) -> None:
            labels["chain"], labels["trajectory"] = np.array([chain]), np.array([trajectory])
            if marks:
                labels[FORCED] = np.array([mark.encode()], f"S{LONGEST}")
            x = in_memory(_rounded(links, bits)).astype(f"f{bits // 8}", copy=False)
            append(as_batch({"x": x[None]}))

        yield append_links


def own_axes(d: int) -> str:
    """Return the order of the axes of physgen's ensembles in d dimensions, in words."""
    names = {2: "t x", 3: "t y x", 4: "t z y x"}[d]
    return f"n mu({names}) {names} a b c"


def _rounded(links: Links, bits: Bits) -> Links:
    result: Links = links.astype(np.complex64 if bits == 32 else np.complex128, copy=False)
    return result
