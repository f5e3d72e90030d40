"""A folder of shards: files that are written apart, by any process, and are one data set.

    generation.json    what its samples follow from; written first, and compared by every job
    shard-00017.h5     the rows of one shard
    shard-00017.json   its rows, size and SHA-256: it is complete
    manifest.json      both of these of all shards: the data set is complete

Each file appears whole. The manifest carries a SHA-256 of itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from physgen.errors import CheckpointError, FormatError, InputError
from physgen.io import manifest
from physgen.io.documents import read_json
from physgen.io.writer import atomic, sha256

GENERATION = "generation.json"
MANIFEST = "manifest.json"
NEW = "new-"
"""Begins the name of a shard that is being written."""
_PART = re.compile(rf"{re.escape(GENERATION)}\..*\.part")
MOST = 100_000
"""Shards of a folder: as many as their names have numbers."""


@dataclass(frozen=True)
class Shard:
    """A complete file of a folder of shards.

    Attributes:
        file: its name.
        rows: of all samples, first and one behind the last.
        size: bytes.
        sha256: of its bytes.

    >>> Shard("shard-00000.h5", (0, 4096), 9, "ab").n
    4096
    """

    file: str
    rows: tuple[int, int]
    size: int
    sha256: str

    @property
    def n(self) -> int:
        """How many samples are in it."""
        return self.rows[1] - self.rows[0]


def shard_path(folder: Path, number: int, suffix: str) -> Path:
    """Return where a shard lies."""
    return folder / f"shard-{number:05d}{suffix}"


def is_shards(folder: Path) -> bool:
    """Return whether a path is a folder of shards, complete or not."""
    return (folder / GENERATION).is_file()


def holds_others(folder: Path) -> bool:
    """Return whether a folder holds files, and is none of shards: parts of files do not count.

    They are of jobs that start at the same time, or of one that was killed.
    """
    # The files are listed first: where one is of a job that has just started, the folder is its.
    files = [path for path in folder.glob("*") if _PART.fullmatch(path.name) is None]
    return bool(files) and not is_shards(folder)


def may_be_run(path: Path) -> bool:
    """Return whether a path that a user gave is a folder, and not one of shards."""
    return path.is_dir() and not is_shards(path)


def shards_in(folder: Path) -> list[Path]:
    """Return the files of a folder of shards in their order; none if it is no such folder.

    Raises:
        FormatError: it is not complete, or a file is not as long as it was.
    """
    if not is_shards(folder):
        return []
    if not (folder / MANIFEST).exists():
        raise FormatError(
            f"{folder}: these shards are not complete; `physgen generate` with the same arguments "
            "goes on"
        )
    paths = []
    for shard in read_manifest(folder):
        path = manifest.within(folder, shard.file)
        size = path.stat().st_size if path.is_file() else None
        if size != shard.size:
            state = "is missing" if size is None else f"has {size} bytes instead of {shard.size}"
            raise FormatError(
                f"{path} {state}: remove {folder / MANIFEST}, and `physgen generate` with the same "
                "arguments makes it again"
            )
        paths.append(path)
    return paths


def of_one_folder(names: Iterable[str]) -> bool:
    """Return whether files are shards of one folder, of which chains are numbered together."""
    folders = {Path(name).parent for name in names}
    return len(folders) == 1 and is_shards(folders.pop())


def write_document(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file that is whole or absent, and replaces an older one."""
    with atomic(path, overwrite=True) as part:
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def stated_shard(path: Path, rows: tuple[int, int]) -> Shard | None:
    """Return what is written of a shard; `None` if nothing does, or the shard is missing.

    Args:
        path: of the shard.
        rows: that it holds, as follows from its number.

    Raises:
        CheckpointError: what is written is of other rows, or of a file of another name or size.
    """
    record = path.with_suffix(".json")
    if not (record.exists() and path.exists()):
        return None
    shard = _shard(read_json(record, CheckpointError), record)
    here = {"file": path.name, "rows": rows, "size": path.stat().st_size}
    for name, value in here.items():
        if getattr(shard, name) != value:
            raise CheckpointError(
                f"{record} is not what was written: it says {name} {getattr(shard, name)}, where "
                f"{path.name} has {value}; remove both to have the shard made again, and look for "
                "what changed them"
            )
    return shard


def checked_shard(path: Path, rows: tuple[int, int]) -> Shard | None:
    """Return what `stated_shard` does once the SHA-256 is compared.

    Raises:
        CheckpointError: the shard, or what is written of it, is not what was written.
    """
    shard = stated_shard(path, rows)
    if shard is not None and sha256(path) != shard.sha256:
        record = path.with_suffix(".json")
        raise CheckpointError(
            f"{path} is not what was written: its SHA-256 is not the one in {record.name}; remove "
            "it to have it made again, and look for what changed it"
        )
    return shard


def written_shard(path: Path, rows: tuple[int, int]) -> Shard:
    """Write down that a shard is complete; return it."""
    shard = Shard(path.name, rows, path.stat().st_size, sha256(path))
    write_document(path.with_suffix(".json"), asdict(shard))
    return shard


def write_manifest(folder: Path, generation: Mapping[str, Any], shards: Sequence[Shard]) -> None:
    """List all shards: the data set is complete. What killed writers left is removed."""
    for left in folder.glob(f"{NEW}*"):
        left.unlink(missing_ok=True)
    content = {"generation": dict(generation), "shards": [asdict(shard) for shard in shards]}
    write_document(folder / MANIFEST, {**content, "sha256": _digest(content)})


def read_manifest(folder: Path) -> list[Shard]:
    """Return the shards that the manifest lists.

    Raises:
        CheckpointError: it was changed, or is not what `write_manifest` writes.
    """
    path = folder / MANIFEST
    content = read_json(path, CheckpointError)
    own = content.pop("sha256", None) if isinstance(content, dict) else None
    if own is None or own != _digest(content) or not isinstance(content.get("shards"), list):
        raise CheckpointError(
            f"{path} is damaged or was changed by hand (its own SHA-256 differs): remove it, and "
            "`physgen generate` with the same arguments checks every shard and writes it again"
        )
    return [_shard(one, path) for one in content["shards"]]


def remove_shards(folder: Path) -> None:
    """Remove a folder's shards, and what is written of them."""
    for name in (MANIFEST, "shard-*", GENERATION):
        for path in folder.glob(name):
            path.unlink()


def differences(folder: Path, generation: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what a folder's samples follow from, and others would, where the two differ.

    Raises:
        InputError: the folder says nothing that can be understood.
    """
    found = read_json(folder / GENERATION, InputError)
    if not isinstance(found, dict):
        raise InputError(f"{folder / GENERATION} is damaged; choose another folder")
    keys = sorted(found.keys() | generation.keys())
    pairs = {key: (found.get(key), generation.get(key)) for key in keys}
    return {key: (old, new) for key, (old, new) in pairs.items() if old != new}


def make_room(folder: Path, generation: Mapping[str, Any]) -> None:
    """Remove the shards of another generation, or a manifest that is damaged."""
    if not is_shards(folder):
        return
    try:
        other = bool(differences(folder, generation))
    except InputError:
        other = True
    if other:
        remove_shards(folder)
    elif (folder / MANIFEST).exists():
        try:
            read_manifest(folder)
        except CheckpointError:
            (folder / MANIFEST).unlink()


def _digest(content: Mapping[str, Any]) -> str:
    return manifest.digest(json.dumps(content, sort_keys=True).encode())


def _shard(content: Any, where: Path) -> Shard:
    try:
        start, stop = content["rows"]
        return Shard(
            str(content["file"]),
            (int(start), int(stop)),
            int(content["size"]),
            str(content["sha256"]),
        )
    except (TypeError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{where} is not what physgen writes; remove it, and `physgen generate` with the same "
            "arguments makes it again"
        ) from error
