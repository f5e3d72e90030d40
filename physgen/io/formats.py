"""Which format a file has, by its first bytes: a name says nothing, and may be anything."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from physgen.errors import FormatError
from physgen.io.guard import regular

Format = Literal["HDF5", "ROOT", "npz", "gzip", "Parquet", "Arrow", "npy", "other"]

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
    b"\x93NUMPY": "npy",
}
SUFFIXES = (".h5", ".hdf5", ".root", ".npz", ".npy", ".parquet", ".arrow", ".feather")
"""How files that are no text are named: asked only when nothing else tells what one was to be."""
_ENDS: dict[Format, tuple[bytes, ...]] = {"Parquet": (b"PAR1", b"PARE"), "Arrow": (b"ARROW1",)}
_LARGE_ROOT = 1_000_000
"""Added to the version in the header of ROOT files whose length has 8 bytes."""
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


def refuse_cut_short(path: Path) -> None:
    """Raise `FormatError` if it shows at a glance that a file is not what was once written.

    It is empty; it begins as ROOT, Parquet or Arrow files do and its end is missing; or its name
    is that of a binary format, and it begins as no file does that is known.
    """
    path = regular(Path(path))
    kind, size = format_of(path), path.stat().st_size
    again = "copy or make it again"
    if size == 0:
        raise FormatError(f"{path}: the file is empty; its writer may have been killed; {again}")
    if kind in _ENDS and not _tail(path).endswith(_ENDS[kind]):
        article = "an" if kind == "Arrow" else "a"
        raise FormatError(
            f"{path}: {article} {kind} file that is cut short or damaged: it does not end in "
            f"{_ENDS[kind][0].decode()}; {again}"
        )
    if kind == "ROOT" and (whole := _root_length(path)) > size:
        raise FormatError(
            f"{path}: a ROOT file that is cut short or damaged: its header says {whole} bytes, and "
            f"there are {size}; {again}"
        )
    if kind == "other" and path.suffix in SUFFIXES:
        raise FormatError(
            f"{path}: not a format that physgen knows (HDF5, ROOT, Parquet, Arrow, npz), though it "
            f"is named {path.suffix}: cut short, or damaged; {again}"
        )


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 8))
        return file.read()


def _root_length(path: Path) -> int:
    """Return the length that the header of a ROOT file states (fEND of TFile), 0 without one."""
    with path.open("rb") as file:
        head = file.read(20)
    version = int.from_bytes(head[4:8], "big")
    width = 8 if version >= _LARGE_ROOT else 4
    return int.from_bytes(head[12 : 12 + width], "big")
