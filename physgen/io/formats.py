"""Which format a file has, by its first bytes: a name says nothing, and may be anything."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from physgen.io.guard import regular

Format = Literal["HDF5", "ROOT", "npz", "gzip", "Parquet", "Arrow", "other"]

TABLES: tuple[Format, ...] = ("Parquet", "Arrow")
"""Formats that pyarrow reads, one table a file."""

_MAGIC: dict[bytes, Format] = {
    b"\x89HDF\r\n\x1a\n": "HDF5",
    b"root": "ROOT",
    b"PK\x03\x04": "npz",
    b"PK\x05\x06": "npz",
    b"\x1f\x8b": "gzip",
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow",
}
_USER_BLOCKS = (512, 1024, 2048, 4096)
"""Where an HDF5 file may begin behind what a user has put before it."""


def format_of(path: Path) -> Format:
    """Return the format of a file.

    Raises:
        FormatError: there is no such file (near misses are named), or it is not a regular one.
    """
    path = regular(Path(path))
    with path.open("rb") as file:
        head = file.read(8)
        for magic, kind in _MAGIC.items():
            if head.startswith(magic):
                return kind
        for offset in _USER_BLOCKS:
            file.seek(offset)
            if file.read(8) == b"\x89HDF\r\n\x1a\n":
                return "HDF5"
    return "other"
