"""Samples that depend on the seed alone, not on how the work is cut.

Sample i belongs to block i // 4096. A block is always computed whole, with a generator keyed by
(seed, block), and cut afterwards: so neither n, nor the number of workers, nor where an interrupted
run went on changes a sample. (The device does: its random numbers are others.) The output file
appears when the last block is in it. Samples of Markov chains carry the number of the chain that
they go on from, the same in all blocks: more samples are not more chains.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.engine.random import keyed_seed
from physgen.errors import DomainError, InputError, TrainingError, suggest
from physgen.io.writer import Append, hdf5_writer, npz_writer, refuse_existing, root_writer
from physgen.surrogates.base import Surrogate
from physgen.systems.base import HasFiles, System

BLOCK = 4096
"""Samples computed together; part of the definition of the output, so not an option."""

Progress = Callable[[int], None]
"""Called with the number of samples done."""


def generate(
    surrogate: Surrogate,
    n: int,
    *,
    seed: int,
    condition: Tensor | None = None,
    progress: Progress | None = None,
) -> Batch:
    """Return `n` samples in physical units, on the CPU. See `generate_blocks`."""
    parts = generate_blocks(surrogate, n, seed=seed, condition=condition, progress=progress)
    return Batch.concatenate(list(parts))


def condition_row(surrogate: Surrogate, given: Mapping[str, float]) -> Tensor:
    """Turn {name: value} into one row in the surrogate's order, (C,).

    Raises:
        DomainError: a name is unknown, or missing.
    """
    names = [variable.name for variable in surrogate.conditions.variables]
    for name in given:
        if name not in names:
            raise DomainError(f"no condition is called {name!r}{suggest(name, names)}")
    missing = [name for name in names if name not in given]
    if missing:
        raise DomainError(f"the condition {missing[0]!r} is missing: give {', '.join(names)}")
    return torch.tensor([given[name] for name in names], dtype=surrogate.dtype)


def generate_file(
    surrogate: Surrogate,
    n: int,
    path: Path,
    *,
    seed: int,
    condition: Tensor | None = None,
    system: System | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write `n` samples to a file, block by block.

    Memory is that of one block; npz, which cannot grow, is held whole.

    Args:
        surrogate: on the device to compute on.
        n: how many samples.
        path: of the output; it appears when it is complete.
        seed: decides all samples.
        condition: see `generate_blocks`.
        system: decides the format, if it writes files of this suffix; else .h5, .hdf5, .root and
            .npz hold plain samples.
        overwrite: replace an existing file, once the new one is complete.
        progress: called after each block.

    Raises:
        InputError: the output exists, or its suffix says nothing.
        DomainError, TrainingError: see `generate_blocks`.
    """
    path = Path(path)
    refuse_existing(path, overwrite)
    replaced = path.exists()
    beside = path.with_name(f"{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    target = beside if replaced else path
    parts = generate_blocks(surrogate, n, seed=seed, condition=condition, progress=progress)
    try:
        with _open_writer(target, n, surrogate.schema, system) as append:
            for batch in parts:
                append(batch)
        if replaced:
            target.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def generate_blocks(
    surrogate: Surrogate,
    n: int,
    *,
    seed: int,
    condition: Tensor | None = None,
    first: int = 0,
    progress: Progress | None = None,
) -> Iterator[Batch]:
    """Yield `n` samples in blocks of 4096 (the last may be shorter), on the CPU.

    Args:
        surrogate: on the device to compute on.
        n: how many samples in all.
        seed: decides all samples.
        condition: (n, C) in physical units, or (C,) for all samples; `None` draws from the
            conditions of the training data.
        first: block to begin with: a worker's share, or where an earlier call stopped.
        progress: called after each block.

    Raises:
        DomainError: a condition is outside the trained domain (its row is named), or there are not
            `n` of them.
        TrainingError: a sample is not finite.
    """
    if n < 1:
        raise InputError(f"n = {n}: ask for one sample or more")
    if condition is not None:
        condition = _checked_condition(surrogate, condition, n)
    surrogate.eval()
    base = keyed_seed("generate", seed)
    for block in range(first, -(-n // BLOCK)):
        # Torch's CPU generator looks at the lowest 32 bits of a seed: counting up from the base
        # keeps the blocks of one run apart, which hashing each of them would not.
        generator = torch.Generator(surrogate.device).manual_seed((base + block) % 2**63)
        start, stop = block * BLOCK, min((block + 1) * BLOCK, n)
        with torch.no_grad():
            rows = None if condition is None else _whole_block(condition[start:stop])
            if rows is not None:
                rows = rows.to(surrogate.device, surrogate.dtype)
            batch = surrogate.sample(BLOCK, rows, generator=generator)
        batch = batch[: stop - start].to("cpu")
        _check_finite(batch, start)
        yield batch
        if progress is not None:
            progress(stop)


def _checked_condition(surrogate: Surrogate, condition: Tensor, n: int) -> Tensor:
    if condition.ndim == 1:
        condition = condition.expand(n, -1)
    if len(condition) != n:
        raise DomainError(f"{len(condition)} conditions for {n} samples: give one for each")
    ranges = surrogate.conditions
    surrogate.conditions.check(condition.to(ranges.low.device, ranges.low.dtype))
    return condition


def _whole_block(condition: Tensor) -> Tensor:
    missing = BLOCK - len(condition)
    return torch.cat([condition, condition[-1:].expand(missing, -1)]) if missing else condition


def _check_finite(batch: Batch, start: int) -> None:
    if batch.x.is_floating_point() and not batch.x.isfinite().all():
        row = int((~batch.x.isfinite()).flatten(1).any(1).nonzero()[0])
        raise TrainingError(
            f"sample {start + row} is not finite: the surrogate overflows; train it longer, with "
            "clipping or at a lower learning rate, or generate in float64"
        )


def _open_writer(
    path: Path, n: int, schema: Schema, system: object
) -> AbstractContextManager[Append]:
    if isinstance(system, HasFiles) and path.suffix in system.suffixes:
        return system.writer(path, n)
    if path.suffix in (".h5", ".hdf5"):
        return hdf5_writer(path, schema=schema)
    if path.suffix == ".root":
        return root_writer(path, schema)
    if path.suffix == ".npz":
        return npz_writer(path, schema=schema)
    choices = suggest(path.suffix, [".h5", ".hdf5", ".root", ".npz"])
    raise InputError(f"{path}: no format has the suffix {path.suffix!r}{choices}")
