"""Checkpoints that are whole or not there: directories of safetensors and JSON with hashes.

A checkpoint is written as ``step-000001000.part``: every file synced, then a manifest of SHA-256
sums, then one rename, then the parent synced. A kill at any system call leaves the previous
checkpoint; a flipped bit is found by the manifest when it is read.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from physgen.engine.distributed import World
from physgen.errors import CheckpointError
from physgen.io import manifest
from physgen.io.documents import read_json
from physgen.io.tensors import read_tensors, write_tensors
from physgen.io.writer import write_bytes


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        directory: where they are; made by the first save.
        keep: how many of the newest to keep.
    """

    def __init__(self, directory: Path, *, keep: int = 2, world: World | None = None) -> None:
        self.directory, self.keep, self.world = directory, keep, world or World()

    def save(self, step: int, write: Callable[[Path], None]) -> Path:
        """Let `write` fill a new checkpoint (on every rank), then make it the newest.

        Raises:
            CheckpointError: the disk is full or read-only; the checkpoints before are as they were.
        """
        final = self.directory / f"step-{step:09d}"
        part = final.with_name(final.name + ".part")
        try:
            if self.world.first:
                self.directory.mkdir(parents=True, exist_ok=True)
                # What an earlier kill left half written or half removed.
                for torn in self.directory.glob("step-*.part"):
                    shutil.rmtree(torn)
                part.mkdir()
            self.world.barrier()
            write(part)
            self.world.barrier()
            if self.world.first:
                _seal(part, final)
                self._forget(step)
            self.world.barrier()
        except OSError as error:
            shutil.rmtree(part, ignore_errors=True)
            last = self.steps()
            raise CheckpointError(
                f"cannot save checkpoint {final}: {error.strerror or error}; "
                + (f"the one of step {last[-1]} is still there: " if last else "")
                + "free some space or make the directory writable, then run the same command again"
            ) from error
        return final

    def steps(self) -> list[int]:
        """Return the steps there are checkpoints of, oldest first."""
        if not self.directory.is_dir():
            return []
        names = (path.name.removeprefix("step-") for path in self.directory.glob("step-*"))
        return sorted(int(name) for name in names if name.isdecimal())

    def path(self, step: int) -> Path:
        """Return the directory of the checkpoint of a step."""
        return self.directory / f"step-{step:09d}"

    def newest(self) -> tuple[int, Path] | None:
        """Return step and path of the newest whole checkpoint; warn of damaged ones.

        Raises:
            CheckpointError: there are checkpoints, and all are damaged.
        """
        steps = self.steps()
        for step in reversed(steps):
            path = self.path(step)
            try:
                verify(path)
            except CheckpointError as error:
                warnings.warn(f"{error}; trying the one before", RuntimeWarning, stacklevel=2)
            else:
                return step, path
        if steps:
            raise CheckpointError(
                f"all {len(steps)} checkpoints in {self.directory} are damaged; restore them from "
                "a backup, or remove the directory to start again"
            )
        return None

    def _forget(self, newest: int) -> None:
        steps = self.steps()
        # What is newer than the one just written is what a resume passed over as damaged.
        retained = [step for step in steps if step <= newest][-self.keep :]
        for step in steps:
            if step not in retained:
                expired = self.path(step)
                # Renamed first: a kill within the removal must not leave half a checkpoint.
                shutil.rmtree(expired.rename(expired.with_name(expired.name + ".part")))


def verify(path: Path) -> None:
    """Compare every file of a checkpoint with its manifest.

    Raises:
        CheckpointError: naming the first file that is missing, truncated, changed or elsewhere.
    """
    sums = manifest.check(path)
    unlisted = {file.name for file in path.iterdir()} - {*sums, manifest.NAME}
    if unlisted:
        raise CheckpointError(
            f"checkpoint {path} is damaged: {min(unlisted)} is not in its {manifest.NAME}"
        )


def write_tree(path: Path, tree: Any) -> None:
    """Write nested dicts, lists and tuples of numbers, strings and tensors, without pickle.

    The tensors go to ``path.safetensors``, all else to ``path.json``.
    """
    tensors: dict[str, Tensor] = {}
    plain = _flatten(tree, "", tensors)
    write_tensors(path.with_name(path.name + ".safetensors"), tensors)
    write_bytes(path.with_name(path.name + ".json"), json.dumps(plain).encode())


def read_tree(path: Path) -> Any:
    """Inverse of `write_tree`; tensors come on the CPU."""
    tensors = read_tensors(path.with_name(path.name + ".safetensors"))
    return _restore(read_json(path.with_name(path.name + ".json"), CheckpointError), tensors)


@contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Hold a run directory against a second process; the lock goes with the process.

    Raises:
        CheckpointError: another process holds it.
    """
    with (directory / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise CheckpointError(
                f"{directory} is in use by process {file.read().strip() or 'unknown'}; wait for it "
                "to end, or train into another directory"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _seal(part: Path, final: Path) -> None:
    sums = manifest.sums_of(part, sorted(path.name for path in part.iterdir()))
    write_bytes(part / manifest.NAME, manifest.to_text(sums).encode())
    _sync_directory(part)
    if final.exists():
        # Only a damaged one can be there: a resume starts from the newest whole one.
        shutil.rmtree(final)
    part.rename(final)
    _sync_directory(final.parent)


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _flatten(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        # Pairs, since the state of an optimiser is keyed by integers, which JSON would change.
        pairs = [[key, _flatten(item, f"{name}/{key}", tensors)] for key, item in value.items()]
        return {"map": pairs}
    if isinstance(value, (list, tuple)):
        items = [_flatten(item, f"{name}/{i}", tensors) for i, item in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else items
    raise TypeError(
        f"the state of a method holds a {type(value).__name__} at {name}: only tensors, numbers, "
        "strings, None, and dicts, lists and tuples of these are saved"
    )


def _restore(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_restore(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "tuple":
        return tuple(_restore(item, tensors) for item in content)
    return {key: _restore(item, tensors) for key, item in content}


def finite(tensors: Mapping[str, Tensor]) -> Tensor:
    """Return a boolean scalar on the device: whether every floating tensor is finite."""
    floats = [tensor for tensor in tensors.values() if tensor.is_floating_point()]
    if not floats:
        return torch.tensor(True)
    return torch.stack([torch.isfinite(tensor).all() for tensor in floats]).all()
