"""An ensemble of gauge configurations in files as a source of samples, one file at a time.

In memory links are U[mu, t, z, y, x, a, b, c] in float64: direction mu goes along the axis mu of
the lattice, time is the first, and real and imaginary parts are on the last axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physgen.batch import Batch, Schema, Variable
from physgen.errors import FormatError
from physgen.io.forced import FORCED_ROWS, forced_sentence
from physgen.io.lattice.arrays import labels
from physgen.io.lattice.configuration import Given, Header, Links
from physgen.io.lattice.content import NOTHING_GIVEN, Configuration, read, read_header
from physgen.io.lattice.names import History, history, steps
from physgen.io.source import Stamp, as_batch, blocks, digest_of


class ConfigurationSource:
    """Gauge configurations of files of any format, in the order of Monte Carlo time.

    Args:
        paths: of the files, in any order; replicas and trajectory numbers are in their names.
        given: what the files do not say themselves.
        force: read configurations though checks fail.

    Attributes:
        history: the files in their order.
        headers: what each file says.
        failed: why checks failed, of those that were read by force, by path, and number in files of
            several.
        marked: why checks failed when they were converted by force, by path, or number in a file of
            several.
        replica: (N,) the replica, or the chain, of each configuration.
        times: (N,) steps of Monte Carlo time since the first configuration of the same replica.
        trajectory: (N,) trajectory numbers, or the times where none are known.

    Raises:
        FormatError: a file is none, or damaged; or files differ in lattice, group or precision.
    """

    def __init__(
        self, paths: Sequence[Path], *, given: Given = NOTHING_GIVEN, force: bool = False
    ) -> None:
        self.history: History = history(paths)
        self._given, self._force = given, force
        self.name, self.block = named(self.history.paths), 1
        self.failed: dict[str, str] = {}
        self._seen: dict[tuple[float, float], str] = {}
        self._twins: dict[str, str] = {}
        self.headers = [read_header(path, given)[1] for path in self.history.paths]
        self._stamps = [Stamp(path) for path in self.history.paths]
        first = self.headers[0]
        for path, header in zip(self.history.paths, self.headers, strict=True):
            _check_alike(self.history.paths[0], first, path, header)
        counts = [header.count for header in self.headers]
        self.marked = {
            f"configuration {within}" if header.count > 1 else str(path): why
            for path, header in zip(self.history.paths, self.headers, strict=True)
            for within, why in header.forced.items()
        }
        if max(counts) > 1 and len(counts) > 1:
            raise FormatError(
                f"{self.name}: files of several configurations each; name one file, or convert them"
            )
        self._starts = np.cumsum([0, *counts])
        self.replica, self.times, self.trajectory = self._labels()
        self.schema = schema_of(first)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def configuration(self, row: int) -> Configuration:
        """Return a configuration as it is in its file, checked.

        Raises:
            FormatError: it cannot be read; a check fails, and there is no `force`; or the file was
                changed since the source was made.
        """
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        self._stamps[number].check()
        path = self.history.paths[number]
        within = row - int(self._starts[number])
        result = read(path, self._given, row=within, force=self._force)
        if wrong := [check for check in result.checks if not check.passed]:
            self.failed[self._called(number, within)] = "; ".join(map(str, wrong))
        # No two configurations have the same plaquette and link trace to the last bit.
        mark = result.measured.plaquette, result.measured.link_trace
        where = str(path) if len(self.headers) > 1 else f"configuration {within}"
        if self._seen.setdefault(mark, where) != where:
            self._twins[where] = self._seen[mark]
        return result

    def arrays(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Return x of rows [start, stop), and the replica of each as `chain`."""
        stop = min(stop, len(self))
        x = np.empty((max(stop - start, 0), *self.schema.shape))
        for row in range(start, stop):
            x[row - start] = in_memory(self.configuration(row).links)
        return {"x": x, "chain": self.replica[start:stop]}

    def read(self, start: int, stop: int) -> Batch:
        """Return rows [start, stop), see `arrays`."""
        return as_batch(self.arrays(start, stop))

    def digest(self) -> str:
        """Return the SHA-256 of the links as physgen computes with them."""
        return digest_of(blocks(self))

    def keys(self) -> NDArray[np.int64] | None:
        """Return `None`: configurations have no groups but their replicas."""
        return None

    def notes(self) -> list[str]:
        """Return what is to be said of gaps, of checks that failed, and of copies."""
        said = self.history.sentences() if len(self.headers) > 1 else self._empty_places()
        said += [f"{name}: read by force: {why}" for name, why in self.failed.items()]
        said += self.faults().values()
        if self._twins:
            first, other = next(iter(self._twins.items()))
            said.append(
                f"{len(self._twins)} configurations are copies of others, the first {first} of "
                f"{other}: errors are too small; leave copies out, unless rejected proposals made "
                "them"
            )
        return said

    def faults(self) -> dict[str, str]:
        """Return what is to be said of configurations that are marked, see `physgen.io.forced`."""
        if not self.marked:
            return {}
        return {FORCED_ROWS: forced_sentence(self.name, self.marked, len(self))}

    def _called(self, number: int, within: int) -> str:
        """Return what the configuration `within` the file of a number is called."""
        several = self.headers[number].count > 1
        return f"{self.history.paths[number]}" + f": configuration {within}" * several

    def _empty_places(self) -> list[str]:
        """Return what is to be said of trajectories that are missing in one file."""
        _, number = np.unique(self.replica, return_inverse=True)
        lengths = np.zeros(number.max() + 1, np.int64)
        np.maximum.at(lengths, number, self.times + 1)
        missing = int(lengths.sum()) - len(self)
        places = "the error analysis leaves their places empty"
        return [f"{self.name}: {missing} trajectories are missing; {places}"] if missing else []

    def _labels(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return replica, time and trajectory: of names of files, or of what stands in one."""
        past = self.history
        if len(self.headers) > 1 or len(self) == 1:
            return past.replica, past.times, past.trajectory
        said = labels(past.paths[0], len(self))
        chain = said.get("chain", np.zeros(len(self), np.int64))
        times = steps(chain, said.get("trajectory"))
        return chain, times, said.get("trajectory", times)


def schema_of(header: Header) -> Schema:
    """Return what a configuration is in memory."""
    shape = (len(header.shape), *header.shape, header.n, header.n, 2)
    return Schema(shape, (Variable("U", domain="special-unitary", dtype="float64"),))


def in_memory(links: Links) -> NDArray[np.float64]:
    """Return (d, T, ..., N, N, 2) numbers of (T, ..., d, N, N) links."""
    moved = np.moveaxis(links[..., ::-1, :, :], -3, 0)
    whole = np.ascontiguousarray(moved, np.complex128)
    return whole.view(np.float64).reshape(*whole.shape, 2)


def in_files(x: NDArray[np.floating[Any]]) -> Links:
    """Return (T, ..., d, N, N) links of (d, T, ..., N, N, 2) numbers: the inverse of `in_memory`.

    >>> x = np.arange(2 * 4 * 3 * 2 * 2 * 2.0).reshape(2, 4, 3, 2, 2, 2)
    >>> bool((in_memory(in_files(x)) == x).all())
    True
    """
    kind = np.complex64 if x.dtype.itemsize == 4 else np.complex128
    links = np.ascontiguousarray(x).view(kind)[..., 0]
    return np.ascontiguousarray(np.moveaxis(links, 0, -3)[..., ::-1, :, :])


def named(paths: Sequence[Path]) -> str:
    """Return what an ensemble is called in messages."""
    return str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"


def _check_alike(first: Path, one: Header, other: Path, header: Header) -> None:
    for what, of in (
        ("a lattice (t, z, y, x) of", lambda h: "x".join(map(str, h.shape))),
        ("the group", lambda h: h.group),
        ("a precision of", lambda h: f"{h.bits} bits"),
        ("the format", lambda h: h.format),
    ):
        if of(header) != of(one):
            raise FormatError(
                f"{other} has {what} {of(header)}, and {first} {of(one)}: an ensemble is of one "
                "kind; name the files of one apart from the others"
            )
