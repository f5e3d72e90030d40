"""Generation in shards: a folder of files that any number of processes may write.

A shard is a range of whole blocks of samples, and a block follows from (run, seed, number of the
block) alone (`physgen.generation`). So the samples, shard after shard, are those of
`physgen generate` into one file, whatever the number of shards and workers, and whatever died on
the way. The bytes of a shard follow from the run, seed, n, the number of shards and the format
(ROOT files hold a date and a random identifier besides).

A shard is computed by one thread, since the number of threads can change the last bit of a sum.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from physgen import card as cards
from physgen.arguments import Whole, plain, user_path, whole
from physgen.conditions import conditions
from physgen.engine.device import DeviceName, choose_device
from physgen.errors import InputError
from physgen.generation import BLOCK, Sampler, conditions_of_file
from physgen.io.shards import (
    GENERATION,
    MANIFEST,
    MOST,
    Shard,
    differences,
    holds_others,
    is_shards,
    make_room,
    read_manifest,
    shard_path,
    stated_shard,
    write_document,
    write_manifest,
)
from physgen.io.writer import sha256
from physgen.isolation import isolated
from physgen.run import Run
from physgen.scale.one_shard import opened, rows_of, torch_version, write_shard, writer
from physgen.scale.workers import outcomes
from physgen.systems.base import HasFiles
from physgen.version import __version__

if TYPE_CHECKING:
    from distributed import Client


@dataclass(frozen=True)
class Shards:
    """Samples of a run, cut in shards that may be written by many processes.

    Attributes:
        run: a run directory whose training has finished, which all workers see.
        n: how many samples in all; "1e9" is understood.
        shards: how many files; a shard has one block of 4096 samples or more.
        seed: decides all samples.
        suffix: of the files; that of HDF5 where the system writes it, if empty.
        condition: in physical units by name, the same for all samples; `None` draws from those of
            the training data.
        condition_from: file of whose rows (the first n) the samples have the conditions.
        device: where to compute; another kind of device draws other random numbers.
        sampling: changes to the section `sampling` of the recipe.
        uncorrected: see `physgen.load`.
        trust: see `physgen.load`.

    >>> import tempfile
    >>> import physgen
    >>> small = {"system.shape": [4, 4], "engine.steps": 2, "engine.batch_size": 8}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = physgen.train("phi4-coupling", small, runs=folder, score=False, track=False)
    ...     written = Shards(run.path, n=10_000, shards=2).write(f"{folder}/fields")
    ...     sorted(path.name for path in written.glob("*.h5"))
    ['shard-00000.h5', 'shard-00001.h5']
    """

    run: str | PathLike[str]
    n: Whole
    shards: Whole
    seed: Whole = 1
    suffix: str = ""
    condition: Mapping[str, float | str] | None = None
    condition_from: str | PathLike[str] | None = None
    device: DeviceName = "auto"
    sampling: Mapping[str, Any] = field(default_factory=dict)
    uncorrected: bool = False
    trust: bool = False

    @isolated()
    def write(
        self,
        folder: str | PathLike[str],
        *,
        client: Client | None = None,
        overwrite: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Path:
        """Write all shards that are not there yet into a folder; return it.

        Those that are there are compared with their SHA-256. The last thing that is written is
        `manifest.json`.

        Args:
            folder: made if absent; of the same generation if not.
            client: of Dask, whose workers write the shards; this process does without.
            overwrite: remove first the shards of another generation, or a manifest that is damaged.
            progress: called with the samples done, and all, after each shard.

        Raises:
            CheckpointError: a shard, or its run, is not what was written.
            DomainError: a condition is outside the trained domain.
            InputError: an argument cannot be understood, or the folder holds something else.
            PhysgenError: workers died again and again, or the scheduler is gone.
            TrainingError: a sample is not finite.
        """
        path, generation, text = self._begin(folder, overwrite=overwrite)
        n, shards = generation["n"], generation["shards"]
        tasks = [(text, str(path), number) for number in range(shards)]
        done: dict[int, Shard] = {}
        for number, shard in outcomes(client, write_shard, tasks):
            done[number] = shard
            if progress is not None:
                progress(sum(one.n for one in done.values()), n)
        write_manifest(path, generation, [done[number] for number in range(shards)])
        return path

    @isolated()
    def write_one(self, folder: str | PathLike[str], number: Whole) -> Path:
        """Write one shard, a job of its own; return its path. Numbers begin at 0.

        The job that finds all others complete writes `manifest.json`.

        Raises:
            InputError: there is no such shard, and what `write` raises.
        """
        number, shards = whole("shard", number), whole("shards", self.shards)
        if not 0 <= number < shards:
            raise InputError(
                f"shard {number}/{shards}: out of range; the shards are 0/{shards} to "
                f"{shards - 1}/{shards}"
                if shards
                else f"shard {number}/0: there must be at least one shard, as in 0/1"
            )
        path, generation, text = self._begin(folder, overwrite=False)
        n, shard = generation["n"], write_shard(text, str(path), number)
        # The others are as long as their own jobs wrote them; who reads the folder sees to that.
        every = [
            stated_shard(shard_path(path, i, generation["suffix"]), rows_of(n, shards, i))
            for i in range(shards)
        ]
        there = [one for one in every if one is not None]
        if len(there) == shards:
            write_manifest(path, generation, there)
        return path / shard.file

    def _begin(
        self, folder: str | PathLike[str], *, overwrite: bool
    ) -> tuple[Path, dict[str, Any], str]:
        """Check all arguments; make the folder, or see that it is of this generation.

        Return it, what the samples follow from, and the text for the workers.
        """
        path = user_path(folder)
        generation, text = self._resolved()
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file; shards are written into a folder")
        if holds_others(path):
            raise InputError(f"{path} is not empty, and holds no shards: choose another folder")
        path.mkdir(parents=True, exist_ok=True)
        if overwrite:
            make_room(path, generation)
        if not is_shards(path):
            write_document(path / GENERATION, generation)
        if differ := differences(path, generation):
            said = "; ".join(f"{key} {old}, not {new}" for key, (old, new) in differ.items())
            raise InputError(
                f"{path} holds shards of another generation ({said}): choose another folder, "
                "or pass --overwrite"
            )
        if (path / MANIFEST).exists():
            read_manifest(path)
        return path, generation, text

    def _resolved(self) -> tuple[dict[str, Any], str]:
        """Return what the samples follow from, and with it what workers need, as text."""
        n, shards = whole("n", self.n), whole("shards", self.shards)
        n_blocks = -(-n // BLOCK)
        if not 1 <= shards <= min(n_blocks, MOST):
            raise InputError(
                f"shards = {shards}: {n} samples are {n_blocks} blocks of {BLOCK}, so that there "
                f"may be 1 to {max(1, min(n_blocks, MOST))} shards"
            )
        run = Run(user_path(self.run), self.trust, self.sampling)
        run.check()
        given = None if self.condition_from is None else user_path(self.condition_from)
        system = run.system
        own = system.suffixes if isinstance(system, HasFiles) else (".h5",)
        suffix = self.suffix or (".h5" if ".h5" in own else own[0])
        generation: dict[str, Any] = {
            "physgen": __version__,
            "torch": torch_version(),
            "recipe": run.recipe.name,
            "run": run.path.name,
            "weights": cards.read_card(run.path / "surrogate")["weights_sha256"],
            "n": n,
            "shards": shards,
            "seed": whole("seed", self.seed),
            "suffix": suffix,
            "condition": plain(self.condition),
            "condition_from": None if given is None else sha256(given),
            "device": choose_device(self.device).type,
            "sampling": plain(self.sampling),
            "uncorrected": self.uncorrected,
        }
        work = {
            "generation": generation,
            "run": str(run.path),
            "condition_from": None if given is None else str(given),
            "trust": self.trust,
        }
        text = json.dumps(work)
        sampler = opened(text)
        self._check_conditions(sampler, n, given)
        writer(sampler, Path(f"shard{suffix}"), n, {})
        return generation, text

    def _check_conditions(self, sampler: Sampler, n: int, file: Path | None) -> None:
        prior = sampler.source.conditions
        if file is None:
            given = conditions(prior.variables, self.condition, 1)
            if given is not None:
                prior.check(given.to(prior.low))
            return
        if self.condition is not None:
            raise InputError("condition and condition_from both state conditions; leave one out")
        for start in range(0, n, 256 * BLOCK):
            rows = sampler.conditions_in(file, (start, min(start + 256 * BLOCK, n)))
            assert rows.condition is not None
            with conditions_of_file(file):
                prior.check(rows.condition.to(prior.low))
