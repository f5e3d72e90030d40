"""`physgen inspect`: what is in a file, as far as looking at it is safe.

A file is recognised by its first bytes, never by its name, and nothing in it is run. Large files
are looked at in evenly spaced blocks.
"""

from __future__ import annotations

import json
import math
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from physgen.errors import FormatError
from physgen.io.formats import format_of
from physgen.io.guard import library, regular
from physgen.io.inspect_showers import inspect_showers
from physgen.io.layouts import recognised
from physgen.io.npz import check_archive, read_member
from physgen.io.statistics import describe_array

_LIME = bytes.fromhex("456789ab")
_MILC = 20103
_PICKLE_PROTOCOLS = range(2, 6)
_BINARY = (".h5", ".hdf5", ".root", ".npz", ".npy", ".parquet", ".arrow", ".feather")
"""Suffixes of what is no text, whatever is left of it."""


def inspect(path: Path) -> dict[str, Any]:
    """Describe a file in plain JSON types.

    Returns:
        format: what it is. reader: whether physgen reads it ("yes", "not yet", "refused", "no").
        contents: by dataset or branch, its shape, dtype, unit if known, range, zeros (fraction),
        nan, inf. problem: the first one, or `None`. hints: sentences on what to do with the file.

    Raises:
        FormatError: there is no such file.
    """
    path = regular(Path(path))
    report: dict[str, Any] = {"file": str(path), "bytes": path.stat().st_size}
    report |= {"format": "", "reader": "yes", "contents": {}, "problem": None, "hints": []}
    with path.open("rb") as file:
        head = file.read(4096)
    try:
        _look(path, head, report)
    except FormatError as error:
        reader = "refused" if report["reader"] == "refused" else "no"
        report |= {"reader": reader, "problem": str(error)}
    return report


def _look(path: Path, head: bytes, report: dict[str, Any]) -> None:
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        from physgen.io.inspect_hdf5 import inspect_hdf5

        report["format"] = "HDF5"
        inspect_hdf5(path, report)
    elif head.startswith(b"root"):
        from physgen.io.inspect_branches import inspect_root

        report["format"] = "ROOT"
        inspect_root(path, report)
    elif head.startswith((b"PAR1", b"ARROW1")):
        from physgen.io.inspect_branches import inspect_table

        report["format"] = format_of(path)
        inspect_table(path, report)
    elif head.startswith(b"PK\x03\x04"):
        _inspect_zip(path, report)
    elif head.startswith(b"\x93NUMPY"):
        report |= {"format": "NumPy array", "reader": "no"}
        report["hints"].append("save it in an archive: numpy.savez(FILE, x=array)")
    elif head[:1] == b"\x80" and head[1:2] and head[1] in _PICKLE_PROTOCOLS:
        _refuse_pickle(path, report, "pickle")
    elif not _inspect_lattice(path, head, report):
        _inspect_rest(path, head, report)


def _inspect_zip(path: Path, report: dict[str, Any]) -> None:
    report |= {"format": "zip archive", "reader": "no"}
    with library(str(path)), zipfile.ZipFile(path) as archive:
        check_archive(path, archive)
        names = archive.namelist()
    if any(name.endswith((".pkl", ".pickle")) for name in names):
        _refuse_pickle(path, report, "torch or other archive with a pickle in it")
    elif names and all(name.endswith(".npy") for name in names):
        report |= {"format": "npz", "reader": "yes"}
        _inspect_npz(path, report)
    else:
        report["hints"].append(f"holds {len(names)} files; unpack it and inspect what you need")


def _inspect_npz(path: Path, report: dict[str, Any]) -> None:
    with library(str(path)), zipfile.ZipFile(path) as archive:
        members = {m.filename.removesuffix(".npy"): m for m in archive.infolist()}
        for name, member in members.items():
            where = f"{path}: array {name!r}"
            try:
                array = read_member(path, archive, member)
            except FormatError as error:
                report["contents"][name] = {"not read": str(error).removeprefix(f"{where} ")}
                _problem(report, str(error))
                continue
            report["contents"][name], problem = describe_array(where, array)
            report["problem"] = report["problem"] or problem
    if all("not read" in entry for entry in report["contents"].values()):
        report["reader"] = "no"
    layout = recognised(set(members))
    if layout is not None:
        report["format"] = layout.name
        inspect_showers(layout.open(path, 1), report)
    elif "x" not in members and "samples" not in members:
        shown = ", ".join(list(members)[:8])
        report["hints"].append(f"samples are looked for under 'x'; here are {shown}")


def _inspect_lattice(path: Path, head: bytes, report: dict[str, Any]) -> bool:
    """Recognise gauge configurations by their magic numbers."""
    about = dict(_lattice_facts(path, head))
    if about:
        report |= {"format": about.pop("format"), "reader": "not yet", "contents": about}
    return bool(about)


def _lattice_facts(path: Path, head: bytes) -> Iterator[tuple[str, Any]]:
    size = path.stat().st_size
    if head.startswith(b"BEGIN_HEADER"):
        yield "format", "NERSC gauge configuration"
        header, _, _ = head.partition(b"END_HEADER")
        for line in header.decode("ascii", errors="replace").splitlines()[1:]:
            key, _, value = line.partition("=")
            yield key.strip(), value.strip()
    elif head.startswith(_LIME):
        yield "format", "LIME container (ILDG or SciDAC gauge configuration)"
        yield "first record", head[16:144].rstrip(b"\0").decode("ascii", errors="replace")
    elif len(head) >= 24:
        for order in "<>":
            magic, *dimensions = struct.unpack_from(f"{order}5i", head)
            if magic == _MILC and all(0 < d < 4096 for d in dimensions):
                yield "format", "MILC gauge configuration"
                yield "dimensions (x, y, z, t)", dimensions
        dimensions = list(struct.unpack_from("<4i", head))
        if all(0 < d < 4096 for d in dimensions) and size == 24 + math.prod(dimensions) * 4 * 144:
            yield "format", "openQCD gauge configuration"
            yield "dimensions (t, x, y, z)", dimensions
            yield "plaquette (real trace)", struct.unpack_from("<d", head, 16)[0]


def _inspect_rest(path: Path, head: bytes, report: dict[str, Any]) -> None:
    report["reader"] = "no"
    if not head:
        report["format"] = "empty"
        raise FormatError(f"{path}: the file is empty; its writer may have been killed")
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and length >= 2:
        report["format"] = "safetensors"
        if length + 8 > report["bytes"]:
            report["reader"] = "refused"
            raise FormatError(
                f"{path}: declares a header of {length} bytes in a file of {report['bytes']}: "
                "damaged, or made to exhaust memory"
            )
        report["hints"].append("weights of a model, not samples")
    elif head.startswith(b"\x1f\x8b"):
        report["format"] = "gzip"
        report["hints"].append("unpack it with gunzip and inspect what comes out")
    elif b"\0" not in head and path.suffix not in _BINARY:
        if head.lstrip().startswith(b"<"):
            report["format"] = "XML"
            report["hints"].append("binning of showers? it goes with them, data.binning=FILE")
            return
        report["format"] = "JSON" if _is_json(path, report["bytes"]) else "text"
        report["hints"].append(
            "tables of text are read by: numpy.savez(FILE, x=numpy.loadtxt(...))"
        )
    else:
        report["format"] = "unknown"
        named = f", though it is named {path.suffix}: cut short, or damaged"
        stated = f"{path}: not a format that physgen knows (HDF5, ROOT, Parquet, Arrow, npz)"
        raise FormatError(stated + named * (path.suffix in _BINARY))


def _is_json(path: Path, size: int) -> bool:
    if size > 2**20:
        return False
    try:
        json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return True


def _refuse_pickle(path: Path, report: dict[str, Any], kind: str) -> None:
    report |= {"format": kind, "reader": "refused"}
    raise FormatError(
        f"{path}: a {kind}; reading one can run anything, so physgen never does. Where it was "
        "made, save the arrays with numpy.savez or h5py instead"
    )


def _problem(report: dict[str, Any], text: str) -> None:
    report["problem"] = report["problem"] or text
