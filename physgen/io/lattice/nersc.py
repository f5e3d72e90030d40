"""NERSC archives: a header in ASCII, then the links; two rows of a matrix, or three.

`CHECKSUM` is the sum of the 32-bit words of the data modulo 2^32, `PLAQUETTE` and `LINK_TRACE` are
means of Re tr / N. `IEEE32` alone means big-endian. Of SU(2), which the format does not know, one
row or two are understood, as `4D_SU2_GAUGE` and `4D_SU2_GAUGE_2x2`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physgen.errors import FormatError
from physgen.io.forced import FORCED
from physgen.io.lattice.configuration import (
    Given,
    Header,
    Links,
    Raw,
    as_links,
    check_size,
    checked_shape,
    read_bytes,
    rebuilt,
)

NAME = "NERSC gauge configuration"
MAGIC = b"BEGIN_HEADER"
_END = re.compile(rb"END_HEADER[ \t\r]*\n")
_LONGEST_HEADER = 2**16
_DATATYPE = re.compile(r"4D_SU(\d{1,2})_GAUGE(?:_(\d{1,2})x(\d{1,2}))?")
_FLOATING_POINT = re.compile(r"IEEE(32|64)(BIG|LITTLE)?")


def read_header(path: Path, given: Given) -> Header:
    """Return what the header says.

    Raises:
        FormatError: it has no end, a key is missing or has an impossible value, or the file is of
            another size.
    """
    with path.open("rb") as file:
        head = file.read(_LONGEST_HEADER)
    end = _END.search(head)
    if end is None:
        raise FormatError(f"{path}: no END_HEADER: the header is damaged, or the file is cut short")
    facts = _facts(head[: end.start()])
    known = _DATATYPE.fullmatch(_of(path, facts, "DATATYPE"))
    if known is None:
        raise FormatError(
            f"{path}: DATATYPE = {facts['DATATYPE']!r}: 4D_SU3_GAUGE and 4D_SU3_GAUGE_3x3 are read"
        )
    n = int(known[1])
    rows = n if known[2] else n - 1
    if (known[2] and {known[2], known[3]} != {known[1]}) or (rows < n and n not in (2, 3)) or n < 2:
        raise FormatError(
            f"{path}: DATATYPE = {facts['DATATYPE']!r}: matrices of SU({n}) are not of that size, "
            "or their last row cannot be rebuilt"
        )
    kind = _FLOATING_POINT.fullmatch(_of(path, facts, "FLOATING_POINT"))
    if kind is None:
        raise FormatError(
            f"{path}: FLOATING_POINT = {facts['FLOATING_POINT']!r}: IEEE32 or IEEE64 with BIG or "
            "LITTLE is expected"
        )
    order = "<" if kind[2] == "LITTLE" else ">"
    extents = {axis: _whole(path, facts, f"DIMENSION_{i}", 10) for i, axis in enumerate("xyzt", 1)}
    stored: dict[str, float] = {"checksum": _whole(path, facts, "CHECKSUM", 16)}
    for name, key in (("plaquette", "PLAQUETTE"), ("link trace", "LINK_TRACE")):
        if key in facts:
            stored[name] = _real(path, facts, key)
    header = Header(
        NAME,
        checked_shape(path, extents),
        n,
        np.dtype(f"{order}f{int(kind[1]) // 8}"),
        offset=end.end(),
        rows=rows,
        stored=stored,
        facts=facts,
        forced={0: facts[FORCED.upper()]} if FORCED.upper() in facts else {},
    )
    check_size(path, header, path.stat().st_size - header.offset)
    return header


def read(path: Path, header: Header) -> Raw:
    """Return the links, and what the checksum of their bytes is."""
    content = read_bytes(path, header)
    links = as_links(content, header)
    sums = {"checksum": checksum(content, header.dtype)}
    return Raw(links if header.rows == header.n else rebuilt(links), sums)


def checksum(content: NDArray[np.uint8], dtype: np.dtype[Any]) -> int:
    """Return the sum of 32-bit words in the byte order of `dtype`, modulo 2^32.

    >>> checksum(np.array([0, 0, 0, 1, 255, 255, 255, 255], np.uint8), np.dtype(">f4"))
    0
    """
    words = content.view(dtype.newbyteorder(dtype.byteorder).str[0] + "u4")
    return int(words.sum(dtype=np.uint64)) & 0xFFFFFFFF


def written(
    links: Links, dtype: np.dtype[Any], plaquette: float, facts: Mapping[str, Any]
) -> tuple[bytes, NDArray[Any]]:
    """Return a header, and the numbers that follow it, of (T, Z, Y, X, 4, N, N) links.

    Args:
        links: all rows of which are written.
        dtype: of the real numbers in the file, with their byte order.
        plaquette: their mean plaquette.
        facts: further lines of the header, by their keys.
    """
    n, precise = links.shape[-1], np.ascontiguousarray(links)
    real = precise.view(precise.real.dtype).astype(dtype, copy=False)
    trace = float(np.trace(links, axis1=-2, axis2=-1).real.mean(dtype=np.float64)) / n
    order = "LITTLE" if dtype.str[0] == "<" else "BIG"
    lines = {"DATATYPE": f"4D_SU{n}_GAUGE_{n}x{n}"}
    lines |= {f"DIMENSION_{i}": str(links.shape[4 - i]) for i in range(1, 5)}
    lines["CHECKSUM"] = f"{checksum(real.reshape(-1).view(np.uint8), dtype):x}"
    lines |= {"LINK_TRACE": f"{trace:.12g}", "PLAQUETTE": f"{plaquette:.12g}"}
    lines |= {f"BOUNDARY_{i}": "PERIODIC" for i in range(1, 5)}
    lines |= {key: " ".join(str(value).split()) for key, value in facts.items()}
    lines["FLOATING_POINT"] = f"IEEE{8 * dtype.itemsize}{order}"
    text = "".join(f"{key} = {value}\n" for key, value in lines.items())
    return f"BEGIN_HEADER\n{text}END_HEADER\n".encode(), real


def _facts(head: bytes) -> dict[str, str]:
    pairs = (line.partition("=") for line in head.decode("ascii", "replace").splitlines()[1:])
    return {key.strip(): value.strip() for key, _, value in pairs if key.strip()}


def _of(path: Path, facts: Mapping[str, str], key: str) -> str:
    if key not in facts:
        raise FormatError(f"{path}: the NERSC header has no {key}; it is damaged")
    return facts[key]


def _whole(path: Path, facts: Mapping[str, str], key: str, base: int) -> int:
    text = _of(path, facts, key)
    try:
        return int(text, base)
    except ValueError as error:
        raise FormatError(f"{path}: {key} = {text!r} is no number") from error


def _real(path: Path, facts: Mapping[str, str], key: str) -> float:
    try:
        return float(facts[key])
    except ValueError as error:
        raise FormatError(f"{path}: {key} = {facts[key]!r} is no number") from error
