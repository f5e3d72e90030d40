"""ILDG and SciDAC: links in records of a LIME file, big-endian.

The links are in the record `ildg-binary-data`, or `scidac-binary-data`; `ildg-format` says extents
and precision, and so do SciDAC's own records; where both are there, they must agree. SciDAC's
checksum: the CRC-32 of the bytes of each site, rotated to the left by its rank mod 29 (suma) or 31
(sumb), combined by exclusive or; in hexadecimal, with or without "0x".
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

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
)
from physgen.io.lattice.lime import Record, element, packed, records, text_of
from physgen.io.lattice.sums import scidac

NAME = "ILDG gauge configuration (LIME)"
SCIDAC_NAME = "SciDAC gauge configuration (LIME)"
_DATA = ("ildg-binary-data", "scidac-binary-data")
_TEXTS = ("ildg-format", "scidac-private-file-xml", "scidac-private-record-xml", "scidac-checksum")
_FACTS = "scidac-record-xml"
_LONGEST_FACTS = 2**16
_FORCED = re.compile(rf"^{FORCED} = (.*)$", re.MULTILINE)
_PRECISION = {"F": 4, "D": 8}
_DATATYPE = re.compile(r"QDP_([FD])(\d{1,2})_ColorMatrix")
_Fact = TypeVar("_Fact")


def read_header(path: Path, given: Given) -> Header:
    """Return what the records say.

    Raises:
        FormatError: a record is cut short or damaged; there are no links, or several fields; the
            extents are not known, or do not fit; or records contradict one another.
    """
    data: list[Record] = []
    texts: dict[str, str] = {}
    forced: dict[int, str] = {}
    for record in records(path):
        if record.name in _DATA:
            data.append(record)
        elif record.name == _FACTS and record.size <= _LONGEST_FACTS:
            facts = element(text_of(path, record), "info") or ""
            for mark in _FORCED.findall(facts):
                forced[0] = _plain(mark)
        elif record.name in _TEXTS:
            text = text_of(path, record)
            if texts.setdefault(record.name, text) != text:
                raise FormatError(
                    f"{path}: two records {record.name!r} that differ: which belongs to the links "
                    "is not known; split the file"
                )
    if len(data) != 1:
        stated = "several fields: split it" if data else f"no record {_DATA[0]} or {_DATA[1]}"
        raise FormatError(f"{path}: a LIME file with {stated}; one gauge configuration is read")
    shape = _shape(path, texts, given)
    itemsize, n = _precision_and_n(path, texts, given, data[0].size // (4 * math.prod(shape)))
    sums = texts.get("scidac-checksum", "")
    stored = {key: _hexadecimal(path, sums, key) for key in ("suma", "sumb") if f"<{key}" in sums}
    header = Header(
        NAME if data[0].name == _DATA[0] or "ildg-format" in texts else SCIDAC_NAME,
        shape,
        n,
        np.dtype(f">f{itemsize}"),
        offset=data[0].offset,
        rows=n,
        stored=stored,
        forced=forced,
    )
    check_size(path, header, data[0].size, f"the record {data[0].name!r}")
    return header


def read(path: Path, header: Header) -> Raw:
    """Return the links, and what the checksums of their bytes are, if there are any to compare."""
    content = read_bytes(path, header)
    sums = scidac(content, header.volume) if header.stored else {}
    return Raw(as_links(content, header), sums)


def _shape(path: Path, texts: Mapping[str, str], given: Given) -> tuple[int, ...]:
    """Return (T, Z, Y, X): of `ildg-format` and SciDAC's `<dims>`, which must agree, or as given.

    Raises:
        FormatError: they do not, or nothing says them; or the lattice is not of four dimensions.
    """
    ildg, private = texts.get("ildg-format", ""), texts.get("scidac-private-file-xml", "")
    words = [element(ildg, f"l{axis}") or "" for axis in "xyzt"]
    extents = _agreed(
        path,
        "extents (x, y, z, t)",
        {
            "ildg-format": _sizes(words),
            "<dims> of scidac-private-file-xml": _sizes((element(private, "dims") or "").split()),
        },
    )
    dimensions = _whole(private, "spacetime") or (4 if extents is None else len(extents))
    if dimensions != 4 or len(extents or [0] * 4) != 4:
        raise FormatError(
            f"{path}: <spacetime> {dimensions} and extents {extents} of scidac-private-file-xml: "
            "a gauge configuration of four dimensions is read"
        )
    if extents is not None:
        return checked_shape(path, dict(zip("xyzt", extents, strict=True)))
    if given.shape is None or len(given.shape) != 4:
        raise FormatError(
            f"{path}: a LIME file that does not say its extents (no ildg-format, no <dims>): give "
            "them, time first, as in --shape 48,24,24,24"
        )
    return checked_shape(path, dict(zip("tzyx", given.shape, strict=True)))


def _precision_and_n(
    path: Path, texts: Mapping[str, str], given: Given, bytes_of_link: int
) -> tuple[int, int]:
    """Return bytes of a real number, and N, as far as they are said; the rest fits the size.

    Raises:
        FormatError: `ildg-format` and the record of SciDAC do not agree.
    """
    ildg, private = texts.get("ildg-format", ""), texts.get("scidac-private-record-xml", "")
    bits = element(ildg, "precision")
    if bits is not None and bits not in ("32", "64"):
        raise FormatError(f"{path}: precision {bits!r} in ildg-format: 32 or 64 is expected")
    where = "of scidac-private-record-xml"
    kind = _DATATYPE.fullmatch(element(private, "datatype") or "")
    letters = {
        f"<precision> {where}": element(private, "precision") or "",
        f"<datatype> {where}": kind[1] if kind else "",
    }
    itemsize = _agreed(
        path,
        "bytes of a number",
        {"ildg-format": {"32": 4, "64": 8}.get(bits or "")}
        | {name: _PRECISION.get(letter) for name, letter in letters.items()},
    )
    named = re.fullmatch(r"su(\d{1,2})gauge", element(ildg, "field") or "")
    n = _agreed(
        path,
        "N of SU(N)",
        {
            "<field> of ildg-format": int(named[1]) if named else None,
            f"<colors> {where}": _whole(private, "colors"),
            f"<datatype> {where}": int(kind[2]) if kind else None,
        },
    )
    n = n or given.n or 3
    if itemsize is None:
        itemsize = 4 if bytes_of_link == n * n * 8 else 8
    size, count = _whole(private, "typesize"), _whole(private, "datacount")
    if size and count:
        stated = {f"SU({n}), {8 * itemsize} bits": 8 * n * n * itemsize}
        stated |= {f"<typesize> times <datacount> {where}": size * count}
        _agreed(path, "bytes of a site", stated)
    return itemsize, n


def _agreed(path: Path, what: str, stated: Mapping[str, _Fact | None]) -> _Fact | None:
    """Return what several records say, by their names, `None` if none does.

    Raises:
        FormatError: two of them say different things.
    """
    said = {name: value for name, value in stated.items() if value is not None}
    if not said:
        return None
    first, *others = said
    for other in others:
        if said[other] != said[first]:
            raise FormatError(
                f"{path}: {what} {said[first]} ({first}) and {said[other]} ({other}): its records "
                "contradict one another; find out which is right, and have the file written again"
            )
    return said[first]


def _sizes(words: Sequence[str]) -> list[int] | None:
    """Return whole numbers, `None` unless all words are some."""
    whole = bool(words) and all(word.isdigit() for word in words)
    return [int(word[:9]) for word in words] if whole else None


def _whole(text: str, name: str) -> int | None:
    """Return the positive number in an element, `None` where there is no such."""
    word = element(text, name) or ""
    return int(word[:9]) or None if word.isdigit() else None


def _hexadecimal(path: Path, text: str, key: str) -> int:
    word = element(text, key) or ""
    if not re.fullmatch(r"(0[xX])?[0-9a-fA-F]{1,8}", word):
        raise FormatError(f"{path}: {key} = {word!r} in scidac-checksum is no checksum")
    return int(word, 16)


def written(
    links: Links, dtype: np.dtype[Any], facts: Mapping[str, Any]
) -> tuple[bytes, NDArray[Any], bytes]:
    """Return what stands before the numbers, the numbers, and what stands behind them.

    Args:
        links: (T, Z, Y, X, 4, N, N).
        dtype: of the real numbers in the file; they are written big-endian.
        facts: kept in `scidac-record-xml`, by name.
    """
    t, z, y, x, _, n, _ = links.shape
    precise, itemsize = np.ascontiguousarray(links), dtype.itemsize
    real = precise.view(precise.real.dtype).astype(dtype.newbyteorder(">"), copy=False)
    sums = scidac(real.reshape(-1).view(np.uint8), t * z * y * x)
    letter, begin = {4: "F", 8: "D"}[itemsize], '<?xml version="1.0" encoding="UTF-8"?>'
    before = [
        ("scidac-private-file-xml", "<scidacFile><version>1.1</version><spacetime>4</spacetime>"
         f"<dims>{x} {y} {z} {t} </dims><volfmt>0</volfmt></scidacFile>"),
        ("scidac-file-xml", "<title>gauge configuration written by physgen</title>"),
        ("scidac-private-record-xml", "<scidacRecord><version>1.1</version><recordtype>0"
         f"</recordtype><datatype>QDP_{letter}{n}_ColorMatrix</datatype><precision>{letter}"
         f"</precision><colors>{n}</colors><typesize>{n * n * 2 * itemsize}</typesize>"
         "<datacount>4</datacount></scidacRecord>"),
        (_FACTS, f"<info>{_escaped(facts)}</info>"),
        ("ildg-format", '<ildgFormat xmlns="http://www.lqcd.org/ildg" '
         'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
         'xsi:schemaLocation="http://www.lqcd.org/ildg/filefmt.xsd"><version>1.0</version>'
         f"<field>su{n}gauge</field><precision>{8 * itemsize}</precision><lx>{x}</lx><ly>{y}</ly>"
         f"<lz>{z}</lz><lt>{t}</lt></ildgFormat>"),
    ]  # fmt: skip
    head = b"".join(
        _record(name, (begin + text).encode(), first=index in (0, 2), last=index == 1)
        for index, (name, text) in enumerate(before)
    )
    head += packed("ildg-binary-data", real.nbytes)
    text = (
        f"{begin}<scidacChecksum><version>1.0</version><suma>{sums['suma']:x}</suma>"
        f"<sumb>{sums['sumb']:x}</sumb></scidacChecksum>"
    )
    tail = b"\0" * (-real.nbytes % 8) + _record("scidac-checksum", text.encode(), last=True)
    return head, real, tail


def _record(name: str, content: bytes, *, first: bool = False, last: bool = False) -> bytes:
    head = packed(name, len(content), first=first, last=last)
    return head + content + b"\0" * (-len(content) % 8)


def _escaped(facts: Mapping[str, Any]) -> str:
    text = "\n".join(f"{name} = {' '.join(str(value).split())}" for name, value in facts.items())
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _plain(text: str) -> str:
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
