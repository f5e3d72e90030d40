"""`physgen inspect`: what is in a file, as far as looking at it is safe.

A file is recognised by its first bytes, never by its name, and nothing in it is run. Large files
are looked at in evenly spaced blocks.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from physgen.errors import FormatError
from physgen.io.formats import SUFFIXES, format_of, refuse_cut_short
from physgen.io.guard import library, regular
from physgen.io.inspect_lattice import inspect_configuration, inspect_ensemble
from physgen.io.inspect_showers import inspect_showers
from physgen.io.lattice import arrays
from physgen.io.lattice.configuration import Given
from physgen.io.lattice.content import NOTHING_GIVEN, lattice_format
from physgen.io.lattice.folders import holds_configurations
from physgen.io.lattice.source import named
from physgen.io.layouts import recognised
from physgen.io.npz import check_archive, read_member
from physgen.io.statistics import describe_array

_PICKLE_PROTOCOLS = range(2, 6)


def inspect_all(
    paths: Sequence[Path],
    given: Given = NOTHING_GIVEN,
    *,
    force: bool = False,
    asked: str | None = None,
) -> dict[str, dict[str, Any]]:
    """Describe files, by name; several gauge configurations as one ensemble. See `inspect`.

    `asked` is the folder or pattern that stands for all files, if there is one.
    """
    ours = [path for path in paths if len(paths) > 1 and holds_configurations(path, given)]
    reports = {str(path): inspect(path, given, force=force) for path in paths if path not in ours}
    if ours:
        reports[named(ours)] = inspect_ensemble(ours, given, force=force, asked=asked)
    return reports


def inspect(path: Path, given: Given = NOTHING_GIVEN, *, force: bool = False) -> dict[str, Any]:
    """Describe a file in plain JSON types.

    Args:
        path: of the file.
        given: what a file of a gauge configuration does not say itself.
        force: of one whose checks fail, say what there is nevertheless.

    Returns:
        format: what it is. reader: whether physgen reads it ("yes", "by force", "refused",
        "no").
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
        if lattice_format(path, given) is not None:
            inspect_configuration(path, report, given, force=force)
        else:
            if (hint := arrays.links_hint(path)) is not None:
                report["hints"].append(hint)
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
    elif head.startswith(arrays.NUMPY_MAGIC):
        report |= {"format": "NumPy array", "reader": "no"}
        if not report["hints"]:
            report["hints"].append("save it in an archive: numpy.savez(FILE, x=array)")
    elif head[:1] == b"\x80" and head[1:2] and head[1] in _PICKLE_PROTOCOLS:
        _refuse_pickle(path, report, "pickle")
    else:
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
        inspect_showers(layout.open(path, 1), report, own_geometry=layout.binning is not None)
    elif "x" not in members and "samples" not in members:
        shown = ", ".join(list(members)[:8])
        report["hints"].append(f"samples are looked for under 'x'; here are {shown}")


def _inspect_rest(path: Path, head: bytes, report: dict[str, Any]) -> None:
    report["reader"] = "no"
    if not head:
        report["format"] = "empty"
        refuse_cut_short(path)
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
    elif b"\0" not in head and path.suffix not in SUFFIXES:
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
        refuse_cut_short(path)
        raise FormatError(
            f"{path}: not a format that physgen knows (HDF5, ROOT, Parquet, Arrow, npz)"
        )


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
