"""What `physgen inspect` says of gauge configurations, of one file or of an ensemble of files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shlex import join
from typing import Any

import numpy as np

from physgen.errors import FormatError
from physgen.io.forced import forced_sentence
from physgen.io.lattice.checks import failures, verdict
from physgen.io.lattice.configuration import Given, Header, Reading
from physgen.io.lattice.content import NOTHING_GIVEN, Configuration, read, read_header
from physgen.io.lattice.folders import configurations_in
from physgen.io.lattice.source import ConfigurationSource, named

_SHOWN = 10


def inspect_configuration(
    path: Path,
    report: dict[str, Any],
    given: Given = NOTHING_GIVEN,
    *,
    force: bool = False,
) -> None:
    """Fill in format, contents, the first problem and hints of a file of gauge configurations.

    Raises:
        FormatError: it cannot be read, or a check fails that `force` does not pass over.
    """
    _, header = read_header(path, given)
    report["format"] = header.format
    contents = report["contents"]
    contents |= _described(header)
    found = read(path, given, force=True)
    contents |= _found(found)
    if header.count > 1:
        contents["of configuration"] = f"0 of {header.count}"
    if wrong := failures(found.checks):
        problem = f"{path}: " + "; ".join(map(str, wrong))
        if not force:
            raise FormatError(f"{problem}; copy it again (--force reads it as it is)")
        report |= {"reader": "by force", "problem": problem}
    marked = {f"row {row}": why for row, why in header.forced.items()}
    _say_forced(report, str(path), marked, header.count)
    command = _command(str(path), Reading(given, force))
    report["hints"].append(f"to measure it: {command}")


def inspect_ensemble(
    paths: Sequence[Path],
    given: Given = NOTHING_GIVEN,
    *,
    force: bool = False,
    asked: str | None = None,
) -> dict[str, Any]:
    """Describe files of gauge configurations as one ensemble, each of them read and checked.

    Args:
        paths: of the files.
        given: what they do not say themselves.
        force: describe those whose checks fail as well.
        asked: the folder or pattern that stands for all of them, if there is one.

    Returns:
        what `physgen.io.inspect.inspect` does; contents are those of the ensemble.
    """
    report: dict[str, Any] = {"file": named(paths)}
    report |= {"bytes": sum(path.stat().st_size for path in paths), "format": "", "reader": "yes"}
    report |= {"contents": {}, "problem": None, "hints": []}
    try:
        source = ConfigurationSource(paths, given=given, force=True)
    except FormatError as error:
        return report | {"format": "gauge configurations", "reader": "no", "problem": str(error)}
    report["format"] = source.headers[0].format
    contents, past = report["contents"], source.history
    contents |= {"configurations": len(source)} | _described(source.headers[0])
    contents.pop("header", None)
    contents["replicas"] = {name: _range(past.trajectory[past.replica == i], past.step)
                            for i, name in enumerate(past.replicas)}  # fmt: skip
    plaquettes, sums = [], []
    for row in range(len(source)):
        try:
            found = source.configuration(row)
        except FormatError as error:
            source.failed[str(source.history.paths[row])] = str(error)
            continue
        plaquettes.append(found.measured.plaquette)
        sums.append(verdict(found.header, found.checks))
    if plaquettes:
        contents["plaquette"] = {
            "mean": _digits(float(np.mean(plaquettes))),
            "low": _digits(min(plaquettes)),
            "high": _digits(max(plaquettes)),
        }
    counted = {one: sums.count(one) for one in ("agrees", "none stored") if one in sums}
    contents["checksums"] = counted | {"do not agree": len(sums) - sum(counted.values())}
    report["hints"] += [note for note in source.notes() if "read by force" not in note]
    _say_forced(report, source.name, source.marked, len(source))
    if source.failed:
        contents["failed"] = dict(list(source.failed.items())[:_SHOWN])
        path, why = next(iter(source.failed.items()))
        report["problem"] = f"{len(source.failed)} of {len(source)} files fail: {path}: {why}"
        report["reader"] = "by force" if force and len(sums) == len(source) else "no"
    alone = set(configurations_in(paths[0].parent)) == set(paths)
    target = asked or (str(paths[0].parent) if alone else None)
    report["hints"].append(
        "to measure them, name them by a folder or by one pattern in quotes"
        if target is None
        else f"to measure them: {_command(target, Reading(given, force))}"
    )
    return report


def _command(target: str, reading: Reading) -> str:
    """Return the command that measures files, read as they were here."""
    given = reading.given
    options = {
        "shape": None if given.shape is None else ",".join(map(str, given.shape)),
        "dataset": given.dataset,
        "order": given.order,
    }
    words = ["physgen", "validate", target]
    words += [word for k, v in options.items() if v is not None for word in (f"--{k}", v)]
    return join(words + ["--force"] * reading.force)


def _say_forced(report: dict[str, Any], where: str, marked: dict[str, str], total: int) -> None:
    """Name configurations that were converted by force."""
    if marked:
        report["contents"]["read by force when converted"] = dict(list(marked.items())[:_SHOWN])
        report["problem"] = report["problem"] or forced_sentence(where, marked, total)


def _described(header: Header) -> dict[str, Any]:
    """Return what the header says, in the words of the field."""
    axes = "x, y, z, t" if len(header.shape) == 4 else ", ".join("xyt"[-len(header.shape) :])
    extents = [*header.shape[1:][::-1], header.shape[0]]
    if len(header.shape) == 2:
        axes = "x, t"
    contents: dict[str, Any] = {f"dimensions ({axes})": extents}
    contents |= {"group": header.group, "precision": f"{header.bits} bits"}
    if header.dtype.itemsize > 1 and header.offset:
        order = "big" if header.dtype.str[0] == ">" else "little"
        contents["byte order"] = f"{order}-endian"
    if 0 < header.rows < header.n:
        contents["rows stored"] = f"{header.rows} of {header.n}; the last one is rebuilt"
    return contents | {"header": dict(header.facts)}


def _found(found: Configuration) -> dict[str, Any]:
    """Return what was measured, and what was compared."""
    measured = found.measured
    contents: dict[str, Any] = {"plaquette": _digits(measured.plaquette)}
    if len(found.header.shape) > 2:
        contents["plaquette of space"] = _digits(measured.plaquette_space)
        contents["plaquette with time"] = _digits(measured.plaquette_time)
    contents["link trace"] = _digits(measured.link_trace)
    contents["checksum"] = verdict(found.header, found.checks)
    return contents | {"checks": [str(check) for check in found.checks]}


def _digits(value: float) -> float:
    return float(f"{value:.12g}")


def _range(trajectory: Any, step: int) -> str:
    if len(trajectory) == 1:
        return f"trajectory {trajectory[0]}"
    return f"{len(trajectory)} trajectories, {trajectory[0]} to {trajectory[-1]} by {step}"
