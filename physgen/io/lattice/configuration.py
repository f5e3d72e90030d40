"""What a file of one gauge configuration is, whatever its format, and the bytes of its links."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physgen.errors import FormatError

Links = NDArray[np.complexfloating[Any, Any]]
"""(T, Z, Y, X, 4, N, N), directions in the order x, y, z, t."""

Shape = tuple[int, int, int, int]
"""Extents in the order t, z, y, x."""

LARGEST_EXTENT = 4096
"""No lattice is longer; a larger number is that of another byte order, or damage."""


@dataclass(frozen=True)
class Given:
    """What a user says of a file that does not say it itself.

    Attributes:
        shape: extents, time first: (T, Z, Y, X).
        n: N of SU(N).
        dataset: path of the links in an HDF5 file, or name of an array.
        order: of its axes, such as "t z y x mu(x y z t) a b"; see `physgen.io.lattice.axes`.
    """

    shape: tuple[int, ...] | None = None
    n: int | None = None
    dataset: str | None = None
    order: str | None = None


@dataclass(frozen=True)
class Reading:
    """How files of gauge configurations are read.

    Attributes:
        given: what they do not say themselves.
        force: read configurations though their checks fail.
    """

    given: Given = Given()
    force: bool = False


AS_STATED = Reading()
"""As files say it themselves; they must pass their checks."""


@dataclass(frozen=True)
class Header:
    """What a file says of its configuration.

    Attributes:
        format: as `physgen inspect` calls it.
        shape: extents, time first: (T, Z, Y, X), fewer in fewer dimensions.
        n: N of the N x N matrices.
        dtype: of the real numbers in the file, with their byte order.
        offset: of the links in the file, in bytes.
        rows: of a matrix that are stored; N - 1 where the last one is to be rebuilt.
        stored: numbers to be compared with what is read: "plaquette", "link trace", "checksum" and
            such.
        exact: whether they have all digits of a double-precision number.
        facts: what else the file says, as text.
        count: configurations in the file.
        forced: what did not agree when they were converted by force, by their numbers in the file.
    """

    format: str
    shape: tuple[int, ...]
    n: int
    dtype: np.dtype[Any]
    offset: int = 0
    rows: int = 0
    stored: Mapping[str, float] = field(default_factory=dict)
    exact: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    count: int = 1
    forced: Mapping[int, str] = field(default_factory=dict)

    @property
    def bits(self) -> int:
        """Of a real number in the file: 32 or 64."""
        return 8 * self.dtype.itemsize

    @property
    def group(self) -> str:
        """What the matrices are elements of: U(1), or SU(N)."""
        return "U(1)" if self.n == 1 else f"SU({self.n})"

    @property
    def volume(self) -> int:
        """Sites."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes of the links of one configuration."""
        rows = self.rows or self.n
        return self.volume * len(self.shape) * rows * self.n * 2 * self.dtype.itemsize


@dataclass(frozen=True)
class Raw:
    """The links of one configuration, with the checksums of their bytes.

    Attributes:
        links: (T, Z, Y, X, 4, N, N) complex, of the precision of the file.
        sums: what the checksums come to, by their names in `Header.stored`.
    """

    links: Links
    sums: Mapping[str, int] = field(default_factory=dict)


def checked_shape(path: Path, extents: Mapping[str, int]) -> Shape:
    """Return (T, Z, Y, X) of extents by "x", "y", "z", "t".

    Raises:
        FormatError: one of them is that of no lattice.
    """
    for axis, extent in extents.items():
        if not 0 < extent <= LARGEST_EXTENT:
            raise FormatError(
                f"{path}: extent {axis} = {extent} is that of no lattice: the byte order is "
                "another one, or the header is damaged"
            )
    t, z, y, x = (int(extents[axis]) for axis in "tzyx")
    return t, z, y, x


def check_size(path: Path, header: Header, available: int, what: str = "the file") -> None:
    """Raise `FormatError` unless `available` bytes are those of the links that the header states.

    Args:
        path: of the file.
        header: says how many bytes there should be.
        available: bytes that are there.
        what: they are the rest of, for the message.
    """
    if available == header.size:
        return
    extents = "x".join(map(str, header.shape))
    stated = (
        f"{path}: {header.format} header of {extents} (t, z, y, x) links of {header.group} with "
        f"{header.bits} bits takes {header.size} bytes, and {what} has {available}"
    )
    if available < header.size:
        raise FormatError(f"{stated}: it is cut short, or of other extents; copy it again")
    raise FormatError(f"{stated}: extents, group or precision are others than the header says")


def read_bytes(path: Path, header: Header) -> NDArray[np.uint8]:
    """Return the bytes of the links, (size,); `FormatError` if the file ends before."""
    with path.open("rb") as file:
        result = np.fromfile(file, np.uint8, header.size, offset=header.offset)
    if len(result) < header.size:
        raise FormatError(
            f"{path}: {header.size} bytes of links are declared from byte {header.offset} on, and "
            f"{len(result)} are there: it is cut short; copy it again"
        )
    return result


def as_links(content: NDArray[np.uint8], header: Header) -> Links:
    """Return (T, Z, Y, X, 4, rows, N) complex numbers of the bytes of a file, in native order."""
    native = content.view(header.dtype).astype(header.dtype.newbyteorder("="), copy=False)
    kind: type[np.complexfloating[Any, Any]]
    kind = np.complex64 if header.dtype.itemsize == 4 else np.complex128
    rows = header.rows or header.n
    shape = (*header.shape, len(header.shape), rows, header.n)
    result: Links = native.view(kind).reshape(shape)
    return result


def rebuilt(links: Links) -> Links:
    """Return SU(2) or SU(3) matrices (..., N, N) of their first N - 1 rows.

    The last row of SU(3) is the complex conjugate of the cross product of the others, that of SU(2)
    is (-b*, a*).
    """
    n = links.shape[-1]
    result = np.empty((*links.shape[:-2], n, n), links.dtype)
    result[..., :-1, :] = links
    if n == 2:
        result[..., 1, 0] = -links[..., 0, 1].conj()
        result[..., 1, 1] = links[..., 0, 0].conj()
        return result
    u, v = links[..., 0, :], links[..., 1, :]
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        result[..., 2, i] = (u[..., j] * v[..., k] - u[..., k] * v[..., j]).conj()
    return result
