"""One shard: what a worker does, which is given text and numbers alone."""

from __future__ import annotations

import json
import platform
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from physgen import card as cards
from physgen import pipeline
from physgen.conditions import Condition
from physgen.engine.threads import restored_threads
from physgen.errors import CheckpointError
from physgen.generation import BLOCK, Sampler, conditions_of_file, generate_blocks, open_writer
from physgen.io.shards import NEW, Shard, checked_shard, shard_path, written_shard
from physgen.io.writer import Append
from physgen.isolation import isolated
from physgen.version import __version__

_ONE = threading.Lock()
"""Threads of one worker share its surrogate and the number of torch's threads."""


def rows_of(n: int, shards: int, number: int) -> tuple[int, int]:
    """Return the rows of a shard: of the blocks, as many as the others have, or one more.

    >>> [rows_of(10_000, 2, number) for number in range(2)]
    [(0, 4096), (4096, 10000)]
    """
    n_blocks = -(-n // BLOCK)
    first, last = number * n_blocks // shards, (number + 1) * n_blocks // shards
    return first * BLOCK, min(last * BLOCK, n)


def write_shard(text: str, folder: str, number: int) -> Shard:
    """Write a shard unless it is there; what a worker does.

    Args:
        text: of `Shards`.
        folder: that exists.
        number: of the shard.
    """
    generation = json.loads(text)["generation"]
    path = shard_path(Path(folder), number, generation["suffix"])
    n, shards, seed = generation["n"], generation["shards"], generation["seed"]
    start, stop = rows_of(n, shards, number)
    with _ONE, isolated(), _one_thread():
        if (there := checked_shard(path, (start, stop))) is not None:
            return there
        sampler = opened(text)
        given, named = _given(json.loads(text), sampler, (start, stop))
        provenance = {"physgen": __version__, **sampler.facts, "n": n, "seed": seed}
        provenance |= {"shard": f"{number}/{shards}", "rows": [start, stop]}
        if outside := sampler.outside_domain(stop - start, given):
            provenance["outside_domain"] = outside
        new = path.with_name(f"{NEW}{path.name}")
        new.unlink(missing_ok=True)
        with named, writer(sampler, new, stop - start, provenance) as append:
            for batch in generate_blocks(
                sampler.source,
                n,
                seed=seed,
                condition=given,
                first=start // BLOCK,
                last=-(-stop // BLOCK),
            ):
                append(batch)
        new.replace(path)
        return written_shard(path, (start, stop))


def _given(
    work: Mapping[str, Any], sampler: Sampler, rows: tuple[int, int]
) -> tuple[Condition | None, AbstractContextManager[None]]:
    """Return the conditions of rows, and what names the file that they come from in errors."""
    file = work["condition_from"]
    if file is None:
        return work["generation"]["condition"], nullcontext()
    return sampler.conditions_in(file, rows), conditions_of_file(file)


@contextmanager
def _one_thread() -> Iterator[None]:
    with restored_threads():
        torch.set_num_threads(1)
        yield


@lru_cache(maxsize=1)
def opened(text: str) -> Sampler:
    """Return what generates the samples of a generation; one is held in a process.

    Raises:
        CheckpointError: the run, or this installation, is not the one that was asked.
    """
    work = json.loads(text)
    generation, run = work["generation"], Path(work["run"])
    here = {
        "weights": cards.read_card(run / "surrogate")["weights_sha256"],
        "physgen": __version__,
        "torch": torch_version(),
    }
    for name, value in here.items():
        if value != generation[name]:
            raise CheckpointError(
                f"{run} on {platform.node()} has {name} {value}, and {generation[name]} is wanted: "
                "all workers need the same run and the same versions"
            )
    return pipeline.load(
        run,
        generation["device"],
        sampling=generation["sampling"],
        uncorrected=generation["uncorrected"],
        trust=work["trust"],
    )


def torch_version() -> str:
    """Return the version of torch, the CPU build being the same as the CUDA one."""
    return str(torch.__version__).partition("+")[0]


def writer(
    sampler: Sampler, path: Path, n: int, provenance: Mapping[str, Any]
) -> AbstractContextManager[Append]:
    """Return what writes `n` samples into a file; it is made when the block is entered."""
    assert sampler.open_system is not None  # Runs have one.
    facts = {"physgen_provenance": json.dumps(provenance)}
    return open_writer(path, path, n, sampler.schema, sampler.open_system(), facts)
