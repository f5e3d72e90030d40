"""openQCD: extents and plaquette, then the eight links that touch each odd site.

Little-endian; sites in the order of t, x, y, z, the last one fastest; of an odd site its links in
the directions t, x, y, z, each forwards and then that of the neighbour behind. The plaquette is the
mean of Re tr.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np

from physgen.io.lattice.configuration import (
    LARGEST_EXTENT,
    Given,
    Header,
    Links,
    Raw,
    check_size,
    checked_shape,
    read_bytes,
)

NAME = "openQCD gauge configuration"
_HEAD = struct.Struct("<4id")
_DIRECTIONS = (3, 0, 1, 2)
"""Of t, x, y, z in the order x, y, z, t."""


def recognises(head: bytes, size: int) -> bool:
    """Return whether a file that begins so, of this size, can be one of openQCD."""
    if len(head) < _HEAD.size:
        return False
    *extents, plaquette = _HEAD.unpack_from(head)
    possible = all(0 < extent <= LARGEST_EXTENT and extent % 2 == 0 for extent in extents)
    return possible and (
        size == _HEAD.size + math.prod(extents) * 576
        or (1e-6 <= abs(plaquette) <= 3.0 and size > _HEAD.size)
    )


def read_header(path: Path, given: Given) -> Header:
    """Return what the header says; `FormatError` if the file is of another size."""
    with path.open("rb") as file:
        *extents, plaquette = _HEAD.unpack(file.read(_HEAD.size))
    shape = checked_shape(path, dict(zip("txyz", extents, strict=True)))
    header = Header(
        NAME,
        shape,
        3,
        np.dtype("<f8"),
        offset=_HEAD.size,
        rows=3,
        stored={"plaquette": plaquette / 3},
        exact=True,
    )
    check_size(path, header, path.stat().st_size - header.offset)
    return header


def read(path: Path, header: Header) -> Raw:
    """Return the links; the format has no checksum."""
    numbers = read_bytes(path, header).view("<f8").astype(np.float64, copy=False)
    around = numbers.view(np.complex128).reshape(-1, 8, 3, 3)
    return Raw(_unpacked(around, header.shape))


def _unpacked(around: Links, shape: tuple[int, ...]) -> Links:
    """Return (T, Z, Y, X, 4, 3, 3) links of those around the V / 2 odd sites."""
    t, z, y, x = shape
    sites = np.indices((t, x, y, z)).reshape(4, -1)
    odd = sites[:, sites.sum(0) % 2 == 1]
    links = np.empty((t, z, y, x, 4, 3, 3), np.complex128)
    for mu, extent in enumerate((t, x, y, z)):
        behind = odd.copy()
        behind[mu] = (behind[mu] - 1) % extent
        for at, number in ((odd, 2 * mu), (behind, 2 * mu + 1)):
            links[at[0], at[3], at[2], at[1], _DIRECTIONS[mu]] = around[:, number]
    return links
