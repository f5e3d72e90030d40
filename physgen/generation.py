"""Samples that depend on the seed alone, not on how the work is cut.

Sample i belongs to block i // 4096. A block is computed in pieces (one, unless its samples are maps
of noise, each of its own). A piece is always computed whole, with a generator keyed by (seed,
block, piece), and cut afterwards: so neither n, nor the number of workers, nor where an interrupted
run went on changes a sample. (The device does: its random numbers are others.) The output file
appears when the last block is in it. Samples of Markov chains carry the number of the chain that
they go on from, the same in all blocks: more samples are not more chains. Those that are corrected
are a chain a block, begun anew.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from physgen.arguments import Whole, user_path, whole
from physgen.batch import Batch, Schema, Variable
from physgen.conditions import Condition, conditions
from physgen.engine.random import keyed_seed
from physgen.errors import DomainError, InputError, TrainingError, printable, suggest
from physgen.io.writer import Append, hdf5_writer, npz_writer, refuse_existing, root_writer
from physgen.isolation import isolated
from physgen.surrogates.base import FromNoise, Surrogate
from physgen.surrogates.correction import Corrected
from physgen.systems.base import HasFiles, System
from physgen.tables import html_table
from physgen.version import __version__

BLOCK = 4096
"""Samples of a block; part of the definition of the output, so not an option."""
PIECES = (0, 1, 16, 256, BLOCK)
"""Where the pieces of a block begin that is pushed from noise: few samples take a short time."""

Source = Surrogate | Corrected
"""What is drawn from."""


def generate(
    surrogate: Source,
    n: Whole,
    *,
    seed: Whole,
    condition: Condition | None = None,
) -> Batch:
    """Return `n` samples in physical units, on the CPU. See `generate_blocks`."""
    parts = generate_blocks(surrogate, n, seed=seed, condition=condition)
    return Batch.concatenate(list(parts)).replace(schema=surrogate.schema)


@contextmanager
def conditions_of_file(path: str | PathLike[str]) -> Iterator[None]:
    """Name the file in errors about conditions that were read from it."""
    try:
        yield
    except DomainError as error:
        raise DomainError(f"{path}: {error}; or leave such rows out") from error


@dataclass(frozen=True, repr=False)
class Sampler:
    """A trained surrogate that generates samples, the same for the same seed.

    Attributes:
        surrogate: the torch module, on the device to compute on.
        corrected: what makes its samples exact, if anything does.
        open_system: returns the system, which decides the formats of files.
        read_conditions: reads them from a file.
        facts: of the run, written into files.

    >>> from physgen.batch import Schema, Variable
    >>> from physgen.surrogates.autoencoders.principal import PCA
    >>> surrogate = PCA(Schema((2,), (Variable("a"), Variable("b"))), components=1)
    >>> surrogate.initialise(Batch(torch.randn(50, 2)))
    >>> sampler = Sampler(surrogate)
    >>> torch.equal(sampler.sample(10, seed=1).x, sampler.sample(5000, seed=1).x[:10])
    True
    """

    surrogate: Surrogate
    corrected: Corrected | None = None
    open_system: Callable[[], System] | None = None
    read_conditions: Callable[[Path, tuple[int, int] | None], Batch] | None = None
    facts: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Say what is generated, not each layer of the network."""
        names = ", ".join(variable.name for variable in self.schema.variables)
        given = ", ".join(variable.name for variable in self.schema.condition)
        shape = "x".join(map(str, self.schema.shape))
        return (
            f"<Sampler: {type(self.surrogate).__name__}, {shape} of {names}"
            f"{f', given {given}' if given else ''}, on {self.surrogate.device}"
            f"{'' if self.corrected is None else f', corrected by {self.corrected.method}'}>"
        )

    def _repr_html_(self) -> str:
        """Return what it generates, at which conditions, for notebooks."""
        prior = self.source.conditions
        n = sum(parameter.numel() for parameter in self.surrogate.parameters())
        facts = {
            "surrogate": f"{type(self.surrogate).__name__}, {n:,} parameters",
            "samples": f"{tuple(self.schema.shape)}: " + _named(self.schema.variables),
            "conditions": _named(prior.variables) or "none",
            "device": str(self.surrogate.device),
            **({} if self.corrected is None else {"corrected by": self.corrected.method}),
            **self.facts,
        }
        return html_table("Sampler", [(key, printable(value)) for key, value in facts.items()])

    @property
    def schema(self) -> Schema:
        """What a sample is, and which conditions it may be given."""
        return self.surrogate.schema

    @property
    def source(self) -> Source:
        """What is drawn from: the surrogate, or what corrects it."""
        return self.corrected or self.surrogate

    @isolated()
    def conditions_in(
        self, file: str | PathLike[str], rows: tuple[int, int] | None = None
    ) -> Batch:
        """Return rows of a file (start, stop) as conditions of samples, with their event weights.

        Of a surrogate that was trained on pairs, or makes samples from others, these are files as
        those were (`data.fast`, `data.source`); else files of samples like the generated ones.

        Raises:
            FormatError: the file is absent or unfit.
            InputError: the surrogate has no conditions, or does not come from a run.
        """
        if self.read_conditions is None or not self.schema.condition:
            raise InputError("these samples have no conditions that could be read from a file")
        return self.read_conditions(user_path(file), rows)

    def outside_domain(self, n: int, condition: Condition | None) -> str:
        """Say how many of `n` conditions are outside the trained domain; "" if none is.

        They are accepted with `sampling.extrapolate`, and files of their samples say it.
        """
        prior = self.source.conditions
        given = conditions(prior.variables, condition, n)
        return "" if given is None else prior.outside(given)

    @isolated()
    def sample(self, n: Whole, seed: Whole = 1, condition: Condition | None = None) -> Batch:
        """Return `n` samples in physical units, on the CPU.

        Args:
            n: how many samples.
            seed: decides all of them.
            condition: in physical units: by name, a number or `n` of them each; or (n, C) numbers
                in the order of the schema, (C,) for all samples, and for a single condition (n,) or
                a number; or rows of a file, see `conditions_in`. `None` draws from the conditions
                of the training data.

        Raises:
            DomainError: a condition is unknown, missing, or outside the trained domain (but for
                `sampling.extrapolate`).
            InputError: `n`, `seed` or `condition` cannot be understood.
        """
        return generate(self.source, n, seed=seed, condition=condition)

    @isolated()
    def write(
        self,
        output: str | PathLike[str],
        n: Whole,
        seed: Whole = 1,
        condition: Condition | None = None,
        *,
        overwrite: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Path:
        """Write the samples of `sample` to a file, block by block; return its path.

        Memory is that of one block; npz, which cannot grow, is held whole. The file says where it
        comes from, in JSON under the name `physgen_provenance`.

        Args:
            output: file that appears when it is complete. The system decides its format if it
                writes files of this suffix; else .h5, .hdf5, .root and .npz hold plain samples.
            n, seed, condition: see `sample`.
            overwrite: replace an existing file, once the new one is complete.
            progress: called with the number of samples done, after each block.

        Raises:
            DomainError: a condition is unknown, missing, or outside the trained domain (but for
                `sampling.extrapolate`).
            InputError: an argument cannot be understood, the output exists, or its suffix names no
                format.
            TrainingError: a sample, or its weight, is not finite.
        """
        path, n, seed = user_path(output), whole("n", n), whole("seed", seed)
        system = None if self.open_system is None else self.open_system()
        refuse_existing(path, overwrite)
        replaced = path.exists()
        temporary = path.with_name(f"{path.stem}.{secrets.token_hex(4)}{path.suffix}")
        target = temporary if replaced else path
        provenance = {"physgen": __version__, **self.facts, "n": n, "seed": seed}
        if outside := self.outside_domain(n, condition):
            provenance["outside_domain"] = outside
        facts = {"physgen_provenance": json.dumps(provenance)}
        parts = generate_blocks(self.source, n, seed=seed, condition=condition)
        try:
            with open_writer(path, target, n, self.schema, system, facts) as append:
                done = 0
                for batch in parts:
                    append(batch)
                    done += len(batch)
                    if progress is not None:
                        progress(done)
            if replaced:
                target.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return path


def generate_blocks(
    surrogate: Source,
    n: Whole,
    *,
    seed: Whole,
    condition: Condition | None = None,
    first: int = 0,
    last: int | None = None,
) -> Iterator[Batch]:
    """Yield `n` samples in blocks of 4096 (the last may be shorter), on the CPU.

    A block depends on surrogate, seed and its number alone.

    Args:
        surrogate: on the device to compute on.
        n: how many samples in all.
        seed: decides all samples.
        condition: of the samples of these blocks, in physical units, see `conditions`; `None` draws
            from those of the training data.
        first, last: blocks to begin with, and to stop before: a worker's share, or where an
            earlier call stopped; `None` goes on to the end.

    Raises:
        DomainError: a condition is outside the trained domain (its row is named), or there are not
            as many as samples.
        InputError: `n`, `seed` or the condition cannot be understood.
        TrainingError: a sample, or its weight, is not finite.
    """
    n = whole("n", n)
    if n < 1:
        raise InputError(f"n = {n}: ask for one sample or more")
    n_blocks = -(-n // BLOCK)
    end = n_blocks if last is None else last
    if not 0 <= first <= end <= n_blocks:
        raise InputError(f"blocks {first} to {last} of {n_blocks}: {n} samples have no others")
    begin = first * BLOCK
    given = conditions(surrogate.conditions.variables, condition, min(end * BLOCK, n) - begin)
    if given is not None:
        surrogate.conditions.check(given.to(surrogate.conditions.low))
    if isinstance(surrogate, Surrogate):
        surrogate.eval()
    base = keyed_seed("generate", whole("seed", seed))
    edges = PIECES if isinstance(surrogate, FromNoise) else (0, BLOCK)
    for block in range(first, end):
        start, stop = block * BLOCK, min((block + 1) * BLOCK, n)
        pieces = []
        for number, (low, high) in enumerate(pairwise(edges)):
            if start + low >= stop:
                break
            # Torch's CPU generator uses the lowest 32 bits of a seed: counting up from the base
            # keeps the pieces of one run apart, which hashing each of them would not.
            key = (base + len(PIECES) * block + number) % 2**63
            generator = torch.Generator(surrogate.device).manual_seed(key)
            rows = None
            if given is not None:
                own = given[start + low - begin : min(start + high, stop) - begin]
                rows = _whole_piece(own, high - low)
                rows = rows.to(surrogate.device, surrogate.dtype)
            with torch.no_grad():
                pieces.append(surrogate.sample(high - low, rows, generator=generator))
        batch = Batch.concatenate(pieces)
        batch = batch[: stop - start].to("cpu")
        if isinstance(condition, Batch) and condition.weight is not None:
            weight = condition.weight[start - begin : stop - begin]
            batch = batch.replace(weight=weight if batch.weight is None else weight * batch.weight)
        if isinstance(surrogate, Corrected) and batch.chain is not None:
            # A block has no more chains than samples.
            batch = batch.replace(chain=batch.chain + block * BLOCK)
        _check_finite(batch, start)
        yield batch


def _named(variables: Sequence[Variable]) -> str:
    named = [f"{variable.name} [{variable.unit}]" for variable in variables[:20]]
    return ", ".join(named) + (", ..." if variables[20:] else "")


def _whole_piece(condition: Tensor, n: int) -> Tensor:
    missing = n - len(condition)
    return torch.cat([condition, condition[-1:].expand(missing, -1)]) if missing else condition


def _check_finite(batch: Batch, start: int) -> None:
    for what, numbers in (("sample", batch.x), ("the weight of sample", batch.weight)):
        if numbers is None or not numbers.is_floating_point() or numbers.isfinite().all():
            continue
        row = int((~numbers.isfinite()).reshape(len(batch), -1).any(1).nonzero()[0])
        raise TrainingError(
            f"{what} {start + row} is not finite: the surrogate overflows; train it longer, with "
            "clipping or at a lower learning rate, or generate in float64"
        )


def open_writer(
    path: Path, target: Path, n: int, schema: Schema, system: object, facts: Mapping[str, str]
) -> AbstractContextManager[Append]:
    """Return the writer of `target`, which takes the place of `path` when it is complete."""
    if isinstance(system, HasFiles) and path.suffix in system.suffixes:
        return system.writer(target, n, facts)
    if path.suffix in (".h5", ".hdf5"):
        return hdf5_writer(target, schema=schema, attributes=facts)
    if path.suffix == ".root":
        return root_writer(target, schema, attributes=facts)
    if path.suffix == ".npz":
        return npz_writer(target, schema=schema, attributes=facts)
    choices = suggest(path.suffix, [".h5", ".hdf5", ".root", ".npz"])
    raise InputError(f"{path}: no format has the suffix {path.suffix!r}{choices}")
