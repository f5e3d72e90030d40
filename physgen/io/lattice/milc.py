"""MILC archives, version 5: a header of 96 bytes in either byte order, then links in 32 bits.

sum29 and sum31 are the exclusive or of all 32-bit words, the k-th of which is rotated to the left
by k mod 29 and k mod 31 bits.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from physgen.errors import FormatError
from physgen.io.lattice.configuration import (
    Given,
    Header,
    Raw,
    as_links,
    check_size,
    checked_shape,
    read_bytes,
)
from physgen.io.lattice.sums import rotated

NAME = "MILC gauge configuration"
MAGIC = 20103
_HEAD = "5i64siII"


def recognises(head: bytes) -> bool:
    """Return whether a file that begins so is an archive of MILC."""
    return len(head) >= 4 and MAGIC in struct.unpack("<i", head[:4]) + struct.unpack(">i", head[:4])


def read_header(path: Path, given: Given) -> Header:
    """Return what the header says.

    Raises:
        FormatError: it is cut short, the order of sites is not the natural one, or the file is of
            another size.
    """
    with path.open("rb") as file:
        head = file.read(struct.calcsize(f"<{_HEAD}"))
    order = "<" if head[:4] == struct.pack("<i", MAGIC) else ">"
    if len(head) < struct.calcsize(f"<{_HEAD}"):
        raise FormatError(f"{path}: a MILC header of {len(head)} bytes: it is cut short")
    _, *extents, date, site_order, sum29, sum31 = struct.unpack(f"{order}{_HEAD}", head)
    shape = checked_shape(path, dict(zip("xyzt", extents, strict=True)))
    if site_order != 0:
        raise FormatError(
            f"{path}: sites in the order {site_order} of a checkpoint; only the natural order (0) "
            "is read: save it as serial"
        )
    header = Header(
        NAME,
        shape,
        3,
        np.dtype(f"{order}f4"),
        offset=len(head),
        rows=3,
        stored={"sum29": sum29, "sum31": sum31},
        facts={"date": date.partition(b"\0")[0].decode("ascii", "replace").strip()},
    )
    check_size(path, header, path.stat().st_size - header.offset)
    return header


def read(path: Path, header: Header) -> Raw:
    """Return the links, and what the checksums of their bytes are."""
    content = read_bytes(path, header)
    words = content.view(header.dtype.str[0] + "u4")
    return Raw(as_links(content, header), checksums(words))


def checksums(words: NDArray[np.unsignedinteger]) -> dict[str, int]:
    """Return sum29 and sum31 of the 32-bit words of the links."""
    return {"sum29": rotated(words, 29), "sum31": rotated(words, 31)}
