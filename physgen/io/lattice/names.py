"""Replicas and trajectory numbers of configurations, from the names of their files.

The trajectory number is the last number in a name that differs between names which are otherwise
alike; a number behind the letter r, or a word such as `replica`, `stream` or `seed`, is never one.
Files whose names differ in anything else, folders included, are of different replicas.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from os.path import commonpath
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from physgen.errors import FormatError

_NUMBER = re.compile(r"(\d+)")
_REPLICA = re.compile(r"(?:^|[^a-z])(?:r|rep|replica|stream|series|seed|chain)[-_=.]?$", re.I)
_ENDING = re.compile(r"\.(?:h5|hdf5|ildg|lime|nersc|scidac|milc|npy|npz|dat)$", re.I)
MOST_STEPS = 2**20
"""Steps between the first and the last trajectory of a replica."""
_SHOWN = 6


@dataclass(frozen=True)
class History:
    """Files of configurations in the order of Monte Carlo time, replica after replica.

    Attributes:
        paths: of the files.
        replica: (N,) to which replica a file belongs, counted from 0.
        trajectory: (N,) trajectory numbers; the places in the list where names have none.
        replicas: what is common to the names of each replica.
        step: trajectories from one configuration to the next, the same for all replicas.
        numbered: whether the names have trajectory numbers.
    """

    paths: tuple[Path, ...]
    replica: NDArray[np.int64]
    trajectory: NDArray[np.int64]
    replicas: tuple[str, ...]
    step: int
    numbered: bool = True

    @property
    def times(self) -> NDArray[np.int64]:
        """(N,) steps since the first configuration of the same replica."""
        first = np.full(len(self.replicas), np.iinfo(np.int64).max)
        np.minimum.at(first, self.replica, self.trajectory)
        since: NDArray[np.int64] = self.trajectory - first[self.replica]
        return since // self.step

    def names(self) -> list[str]:
        """Return a name for each file that no other has: what is not common to all folders."""
        return [name.replace("/", "_") for name in _below_common(self.paths)]

    def missing(self) -> dict[str, list[int]]:
        """Return the trajectory numbers that are missing within each replica that lacks some."""
        result = {}
        for number, name in enumerate(self.replicas):
            there = self.trajectory[self.replica == number]
            absent = np.setdiff1d(np.arange(there[0], there[-1], self.step), there)
            if len(absent):
                result[name] = absent.tolist()
        return result

    def sentences(self) -> list[str]:
        """Return what is to be said of replicas and of missing trajectories."""
        if not self.numbered:
            return [
                "names without trajectory numbers: taken in alphabetical order, as if equally "
                "spaced in Monte Carlo time; if they are not, errors and tau_int are wrong"
            ]
        said = []
        for name, absent in self.missing().items():
            shown = ", ".join(map(str, absent[:_SHOWN])) + ", ..." * (len(absent) > _SHOWN)
            said.append(
                f"{name}: {len(absent)} of the trajectories are missing, by steps of {self.step}: "
                f"{shown}; the error analysis leaves their places empty"
            )
        return said


def history(paths: Sequence[Path]) -> History:
    """Return the files in the order of replicas and trajectories.

    Raises:
        FormatError: two files are of the same trajectory of one replica, or trajectory numbers of
            a replica lie too far apart to be a history.

    >>> found = history([Path(f"r{r}n{n}.ildg") for r in (1, 2) for n in (8, 10, 14)])
    >>> found.replicas, found.step, found.missing()
    (('r1n*', 'r2n*'), 2, {'r1n*': [12], 'r2n*': [12]})
    """
    names = _below_common(paths)
    fields = [_NUMBER.split(name) for name in names]
    alike: dict[tuple[str, ...], list[int]] = {}
    for index, parts in enumerate(fields):
        alike.setdefault(tuple(parts[::2]), []).append(index)
    labels, numbers = [""] * len(names), [-1] * len(names)
    for words, members in alike.items():
        at = _place(words, [fields[index] for index in members])
        for index in members:
            parts = list(fields[index])
            if at is not None:
                numbers[index], parts[at] = int(parts[at][:18]), "*"
            labels[index] = "".join(parts)
    numbered = len(names) == 1 or min(numbers) >= 0
    if not numbered:
        order = sorted(range(len(names)), key=names.__getitem__)
        return _in_order(paths, order, ["files"] * len(names), range(len(names)), numbered=False)
    order = sorted(range(len(names)), key=lambda i: (labels[i], numbers[i]))
    found = _in_order(paths, order, [labels[i] for i in order], [max(numbers[i], 0) for i in order])
    _check(found)
    return found


def steps(chain: NDArray[np.int64], trajectory: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Return (N,) steps since the beginning of each chain, by trajectory numbers if there are any.

    >>> steps(np.array([0, 1, 0, 1]), np.array([10, 5, 30, 15])).tolist()
    [0, 0, 2, 1]
    """
    result = np.zeros(len(chain), np.int64)
    members = [np.flatnonzero(chain == label) for label in np.unique(chain)]
    for rows in members:
        result[rows] = np.arange(len(rows))
        if trajectory is not None:
            result[rows] = trajectory[rows] - trajectory[rows[0]]
    apart = np.concatenate([np.diff(result[rows]) for rows in members])
    if (apart <= 0).any():
        raise FormatError("trajectory numbers of a chain do not rise; put its rows in their order")
    return result // max(1, math.gcd(*apart.tolist()))


def _below_common(paths: Sequence[Path]) -> list[str]:
    """Return names below the folder that all files are in, without the endings of formats."""
    whole = [Path(path).absolute() for path in paths]
    folder = commonpath([path.parent for path in whole])
    return [_ENDING.sub("", path.relative_to(folder).as_posix()) for path in whole]


def _place(words: Sequence[str], members: Sequence[Sequence[str]]) -> int | None:
    """Return which part of names that are alike is the trajectory number."""
    places = [2 * i + 1 for i in range(len(words) - 1) if not _REPLICA.search(words[i])]
    varying = [at for at in places if len({parts[at] for parts in members}) > 1]
    return max(varying or places, default=None)


def _in_order(
    paths: Sequence[Path],
    order: Sequence[int],
    labels: Sequence[str],
    numbers: Sequence[int],
    *,
    numbered: bool = True,
) -> History:
    """Return the history of files in an order; labels and numbers are in that order already."""
    replicas = tuple(dict.fromkeys(labels))
    replica = np.array([replicas.index(label) for label in labels], np.int64)
    trajectory = np.array(numbers, np.int64)
    apart = np.diff(trajectory)[np.diff(replica) == 0].tolist()
    step = max(1, math.gcd(*apart)) if apart else 1
    files = tuple(paths[index] for index in order)
    return History(files, replica, trajectory, replicas, step, numbered)


def _check(found: History) -> None:
    same = (np.diff(found.replica) == 0) & (np.diff(found.trajectory) == 0)
    if same.any():
        at = int(same.argmax())
        raise FormatError(
            f"{found.paths[at]} and {found.paths[at + 1]} are both trajectory "
            f"{found.trajectory[at]} of {found.replicas[found.replica[at]]}; leave one out"
        )
    if found.times.max() > MOST_STEPS:
        at = int(found.times.argmax())
        raise FormatError(
            f"{found.paths[at]}: trajectory {found.trajectory[at]} lies {found.times.max()} steps "
            f"of {found.step} behind the first of {found.replicas[found.replica[at]]}; are these "
            "trajectory numbers? Name the files of one replica alike but for them"
        )
