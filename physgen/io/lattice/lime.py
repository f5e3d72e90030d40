"""LIME: records one after the other, each with a header of 144 bytes, padded to 8 bytes."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from physgen.errors import FormatError

MAGIC = bytes.fromhex("456789ab")
_HEADER = struct.Struct(">4sHHQ128s")
_MOST_RECORDS = 10_000
_LONGEST_TEXT = 2**20


@dataclass(frozen=True)
class Record:
    """One record.

    Attributes:
        name: its type, such as "ildg-format".
        offset: of its data in the file.
        size: of its data in bytes.
    """

    name: str
    offset: int
    size: int


def records(path: Path) -> Iterator[Record]:
    """Yield the records of a LIME file.

    Raises:
        FormatError: naming the record that is cut short, or whose header is damaged.
    """
    end = path.stat().st_size
    at, name = 0, "none"
    with path.open("rb") as file:
        for number in range(_MOST_RECORDS):
            if at >= end:
                return
            file.seek(at)
            head = file.read(_HEADER.size)
            where = f"{path}: LIME record {number} (after {name!r}, at byte {at})"
            if len(head) < _HEADER.size:
                raise FormatError(f"{where} is cut short; copy the file again")
            magic, _, _, size, kind = _HEADER.unpack(head)
            if magic != MAGIC:
                raise FormatError(
                    f"{where} begins with {magic.hex()}, not {MAGIC.hex()}: the file is damaged"
                )
            name = kind.partition(b"\0")[0].decode("ascii", "replace")
            start = at + _HEADER.size
            if start + size > end:
                raise FormatError(
                    f"{path}: LIME record {number}, {name!r}, declares {size} bytes, and "
                    f"{end - start} are there: it is cut short; copy the file again"
                )
            yield Record(name, start, size)
            at = start + size + -size % 8
    raise FormatError(f"{path}: more than {_MOST_RECORDS} LIME records: it is damaged")


def text_of(path: Path, record: Record) -> str:
    """Return the text of a record, without the zeros at its end."""
    if record.size > _LONGEST_TEXT:
        raise FormatError(f"{path}: record {record.name!r} of {record.size} bytes is no XML")
    with path.open("rb") as file:
        file.seek(record.offset)
        return file.read(record.size).decode("utf-8", "replace").strip("\0 \n")


def element(text: str, name: str) -> str | None:
    """Return what stands in the first element of a name, in any namespace; `None` without one.

    Records are small and flat: no XML parser, which could be made to expand, is let loose on them.

    >>> element("<a><i:lx> 4 </i:lx></a>", "lx")
    '4'
    """
    found = re.search(rf"<(?:\w+:)?{re.escape(name)}(?:\s[^<>]*)?>([^<]*)<", text)
    return None if found is None else found[1].strip()


def packed(name: str, content_size: int, *, first: bool = False, last: bool = False) -> bytes:
    """Return the header of a record; `first` and `last` of its message."""
    flags = 0x8000 * first | 0x4000 * last
    return _HEADER.pack(MAGIC, 1, flags, content_size, name.encode())
