"""The formats of gauge configurations, which of them a file has, and reading it with all checks.

A file is recognised by its content, never by its name.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from physgen.errors import FormatError
from physgen.io.formats import format_of
from physgen.io.guard import regular
from physgen.io.lattice import arrays, ildg, lime, milc, nersc, openqcd
from physgen.io.lattice.checks import Check, compared, failures
from physgen.io.lattice.configuration import Given, Header, Links, Raw
from physgen.io.lattice.loops import Measured, measure

NOTHING_GIVEN = Given()


@dataclass(frozen=True)
class Format:
    """A format of gauge configurations.

    Attributes:
        key: as users name it.
        recognises: whether a file that begins so, and has so many bytes, is of it.
        header: says what is in it.
        read: reads the links of a configuration by its number.
    """

    key: str
    recognises: Callable[[bytes, int], bool]
    header: Callable[[Path, Given], Header]
    read: Callable[[Path, Header, int], Raw]


FORMATS = (
    Format(
        "nersc",
        lambda head, _: head.startswith(nersc.MAGIC),
        nersc.read_header,
        lambda path, header, _: nersc.read(path, header),
    ),
    Format(
        "ildg",
        lambda head, _: head.startswith(lime.MAGIC),
        ildg.read_header,
        lambda path, header, _: ildg.read(path, header),
    ),
    Format(
        "milc",
        lambda head, _: milc.recognises(head),
        milc.read_header,
        lambda path, header, _: milc.read(path, header),
    ),
    Format(
        "openqcd",
        openqcd.recognises,
        openqcd.read_header,
        lambda path, header, _: openqcd.read(path, header),
    ),
)
"""Formats that the first bytes of a file tell."""

ARRAYS = Format("hdf5", lambda head, _: False, arrays.read_header, arrays.read)
"""HDF5, npz and npy, which hold other things as well: the shape of an array tells."""


@dataclass(frozen=True)
class Configuration:
    """A gauge configuration that was read, and what was found of it.

    Attributes:
        path: of the file.
        header: what it says.
        links: (T, Z, Y, X, 4, N, N), directions in the order x, y, z, t.
        measured: on the links.
        checks: what was compared with what the file says, and with the group.
        mark: what did not agree when it was converted by force; "" if it was not.
    """

    path: Path
    header: Header
    links: Links
    measured: Measured
    checks: tuple[Check, ...]
    mark: str = ""


def format_by_magic(path: Path) -> Format | None:
    """Return the format that the first bytes tell; raises `FormatError` if there is no file."""
    path = regular(Path(path))
    with path.open("rb") as file:
        head = file.read(64)
    size = path.stat().st_size
    return next((one for one in FORMATS if one.recognises(head, size)), None)


def lattice_format(path: Path, given: Given = NOTHING_GIVEN) -> Format | None:
    """Return the format of a file of gauge configurations, `None` if it holds none.

    An array is taken for links if its order is given, or if it is the only one of such a shape.
    """
    found = format_by_magic(path)
    if found is not None:
        return found
    if format_of(path) not in ("HDF5", "npz") and not arrays.is_npy(path):
        return None
    if given.dataset is not None or given.order is not None:
        return ARRAYS
    with suppress(FormatError):  # Whoever else reads it says what is wrong.
        return ARRAYS if len(arrays.candidates(path)) == 1 else None
    return None


def _remedy(path: Path) -> str:
    return arrays.links_hint(path) or f"`physgen inspect {path}` says what it is"


def read_header(path: Path, given: Given = NOTHING_GIVEN) -> tuple[Format, Header]:
    """Return the format of a file, and what it says of its configurations.

    Raises:
        FormatError: there is no such file, it holds no gauge configuration, is damaged, or is not
            what was given.
    """
    found = lattice_format(path, given)
    if found is None:
        raise FormatError(
            f"{path} holds no gauge configuration in a format that is known (NERSC, ILDG, SciDAC, "
            f"MILC, openQCD, HDF5, npy, npz); {_remedy(path)}"
        )
    if found is not ARRAYS and (given.dataset, given.order) != (None, None):
        raise FormatError(
            f"{path}: dataset and order (--dataset, --order) are of HDF5, npz and npy; a file of "
            f"{found.key} has its one field in its one order: leave them out"
        )
    header = found.header(path, given)
    shape = None if given.shape is None else list(given.shape)
    for stated, wanted, unit in (
        (list(header.shape), shape, " (t, z, y, x)"),
        (header.n, given.n, ", N of SU(N)"),
    ):
        if wanted not in (None, stated):
            raise FormatError(f"{path} says that it is {stated}{unit}, and {wanted} was given")
    return found, header


def read(
    path: Path, given: Given = NOTHING_GIVEN, *, row: int = 0, force: bool = False
) -> Configuration:
    """Read a gauge configuration and check it.

    Args:
        path: of any format, recognised by its content.
        given: what the file does not say itself.
        row: number of the configuration, in a file of several.
        force: return it though checks fail; they are among its `checks`.

    Raises:
        FormatError: it cannot be read, or a check fails: with what is stored and what was found.
    """
    found, header = read_header(path, given)
    if not 0 <= row < header.count:
        raise FormatError(f"{path}: configuration {row} of {header.count}, counted from 0")
    raw = found.read(path, header, row)
    measured = measure(raw.links)
    checks = compared(header, measured, raw.sums)
    if not force and (wrong := failures(checks)):
        where = f"{path}: " if header.count == 1 else f"{path}: configuration {row}: "
        raise FormatError(
            where + "; ".join(str(one) for one in wrong) + "; copy the file again (--force reads "
            "it as it is, and marks the result)"
        )
    mark = header.forced.get(row, "")
    return Configuration(Path(path), header, raw.links, measured, checks, mark)
