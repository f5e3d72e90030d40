"""Gauge configurations from one format to another, one at a time."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from physgen.errors import InputError
from physgen.io.forced import FORCED
from physgen.io.lattice.checks import failures
from physgen.io.lattice.configuration import Given
from physgen.io.lattice.content import NOTHING_GIVEN, Configuration
from physgen.io.lattice.source import ConfigurationSource
from physgen.io.lattice.writing import Bits, Key, ensemble_writer, target, write_configuration
from physgen.io.writer import part_of, refuse_existing, sha256, sweep
from physgen.version import __version__

_CARRIED = ("ENSEMBLE_ID", "ENSEMBLE_LABEL", "SEQUENCE_NUMBER", "CREATOR", "ARCHIVE_DATE")
"""Lines of a NERSC header that are kept."""


@dataclass(frozen=True)
class ConfigurationOptions:
    """How gauge configurations are converted.

    Attributes:
        bits: of a real number; `None` keeps those of the source.
        given: what the files do not say themselves.
        force: convert them though checks fail; what failed is kept in the output.
    """

    bits: Bits | None = None
    given: Given = NOTHING_GIVEN
    force: bool = False


UNCHANGED = ConfigurationOptions()
"""Precision as in the source, which must say all and pass its checks."""


def convert_configurations(
    paths: Sequence[Path],
    output: Path,
    *,
    to: str | None = None,
    options: ConfigurationOptions = UNCHANGED,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write gauge configurations in another format.

    Several of them become the ensemble of one HDF5 file, or files of NERSC or ILDG in a new folder.

    Args:
        paths: files of one ensemble.
        output: file, or folder, to write.
        to: "nersc", "ildg" or "hdf5"; `None` takes what the ending of the output says.
        options: what is kept and what is known of them.
        overwrite: replace an existing file.

    Returns:
        from, to: the formats. configurations: how many. precision. lost: sentences.

    Raises:
        FormatError: a file cannot be read, or checks fail.
        InputError: the output exists, or its format is not known or does not fit.

    >>> import tempfile
    >>> import numpy as np
    >>> unit = np.broadcast_to(np.eye(3, dtype=complex), (2, 2, 2, 2, 4, 3, 3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path, output = Path(folder) / "unit.npy", Path(folder) / "unit.nersc"
    ...     np.save(path, unit)
    ...     report = convert_configurations([path], output, options=ConfigurationOptions(bits=32))
    >>> report["lost"]
    ['numbers of 64 bits are rounded to 32']
    """
    source = ConfigurationSource(paths, given=options.given, force=options.force)
    header, key = source.headers[0], target(output, to)
    bits: Bits = options.bits or (32 if header.bits == 32 else 64)
    several = len(source) > 1 and key != "hdf5"
    if several and output.suffix:
        raise InputError(
            f"{output}: {len(source)} configurations, one a file; name a folder, and say --to {key}"
        )
    if several and output.exists():
        raise InputError(f"{output} exists; choose a new folder")
    if not several:
        refuse_existing(output, overwrite)
    if output.exists() and any(output.samefile(path) for path in paths):
        raise InputError(f"{output} is the file to convert; choose another path")
    if several:
        with _new_folder(output) as folder:
            for row, name in enumerate(_names(source)):
                _write(source, row, folder / f"{name}.{key}", key, bits)
    elif key == "hdf5":
        facts = {"converted_from": f"{source.name}, {header.format}"}
        facts |= {"physgen_version": __version__}
        with ensemble_writer(
            output,
            header,
            bits=bits,
            facts=facts,
            marks=options.force or bool(source.marked),
            overwrite=overwrite,
        ) as append:
            for row in range(len(source)):
                found = source.configuration(row)
                place = int(source.replica[row]), int(source.trajectory[row])
                append(found.links, *place, _mark(found))
    else:
        _write(source, 0, output, key, bits, overwrite=overwrite)
    lost = [f"numbers of {header.bits} bits are rounded to {bits}"] if bits < header.bits else []
    return {
        "file": str(output),
        "from": header.format,
        "to": key,
        "configurations": len(source),
        "precision": f"{bits} bits",
        "lost": lost,
        "notes": source.notes(),
    }


def _write(
    source: ConfigurationSource,
    row: int,
    path: Path,
    key: Key,
    bits: Bits,
    *,
    overwrite: bool = False,
) -> None:
    """Write a configuration into a file of its own, with where it comes from."""
    found = source.configuration(row)
    facts = {key: value for key, value in found.header.facts.items() if key in _CARRIED}
    facts |= {"converted_from": f"{found.path.name}, {found.header.format}"}
    facts |= {"source_sha256": sha256(found.path), "physgen_version": __version__}
    if mark := _mark(found):
        facts[FORCED] = mark
    write_configuration(path, found.links, key, bits=bits, facts=facts, overwrite=overwrite)


def _mark(found: Configuration) -> str:
    """Return what did not agree when a configuration was read by force, now and before; or ""."""
    now = "; ".join(map(str, failures(found.checks)))
    return "; ".join(filter(None, [found.mark, now and f"{found.path.name}: {now}"]))


def _names(source: ConfigurationSource) -> list[str]:
    """Return names of files for the configurations: those that they had, or chain and number."""
    if len(source.headers) > 1:
        return source.history.names()
    pairs = zip(source.replica.tolist(), source.trajectory.tolist(), strict=True)
    return [f"r{replica}n{trajectory}" for replica, trajectory in pairs]


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """Yield a folder that becomes `path` if the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path)
    part = part_of(path)
    part.mkdir()
    try:
        yield part
        part.replace(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
