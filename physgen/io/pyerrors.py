"""Observables of Markov chains in files that pyerrors reads, with replicas, trajectories and gaps.

The format is pyerrors' own JSON, version 1.1 (Joswig, Kuberski, Kuhlmann & Neuendorf, Comput. Phys.
Commun. 288 (2023) 108750, arXiv 2209.14371; `pyerrors.input.json.load_json`), compressed: of each
observable its mean and, replica by replica, rows [trajectory number, fluctuation around that mean].
pyerrors itself is not needed.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physgen.errors import InputError
from physgen.io.writer import atomic, write_bytes
from physgen.version import __version__

SUFFIX = ".json.gz"
FEWEST = 5
"""Measurements that pyerrors needs of each replica."""


@dataclass(frozen=True)
class Replica:
    """Where measurements of an ensemble come from.

    Attributes:
        name: of the replica.
        rows: (T,) where its measurements are, in the order of Monte Carlo time.
        trajectory: (T,) their trajectory numbers, rising.
    """

    name: str
    rows: NDArray[np.int64]
    trajectory: NDArray[np.int64]


def write_pyerrors(
    path: Path,
    values: Mapping[str, NDArray[np.floating[Any]]],
    replicas: Sequence[Replica],
    *,
    description: str = "",
    overwrite: bool = False,
) -> list[str]:
    """Write observables as a list of pyerrors' `Obs`, each with its name as its tag.

    The ensemble is called as the file is, without its ending. Where a value is NaN the observable
    is not defined, and that trajectory is one of its gaps; a replica where it never is defined is
    none of its replicas.

    Args:
        path: of the file, NAME.json.gz.
        values: (N,) measurements by the name of the observable.
        replicas: which of them belong together.
        description: what pyerrors shows on reading.
        overwrite: replace an existing file.

    Returns:
        the names of the observables that were written; those that are nowhere defined are not.

    Raises:
        InputError: the file has another ending, or exists; trajectory numbers do not rise; a
            replica has fewer than five measurements, or values that are infinite.

    >>> import tempfile
    >>> chain = Replica("r1", np.arange(5), np.array([10, 20, 30, 50, 60]))  # 40 is missing
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "beta2.json.gz"
    ...     names = write_pyerrors(file, {"P": np.array([1.0, 2, 3, 4, 5])}, [chain])
    ...     written = json.loads(gzip.decompress(file.read_bytes()))["obsdata"][0]
    >>> names, written["value"], written["data"][0]["replica"][0]["name"]
    (['P'], [3.0], 'beta2|r1')
    >>> written["data"][0]["replica"][0]["deltas"]
    [[10, -2.0], [20, -1.0], [30, 0.0], [50, 1.0], [60, 2.0]]
    """
    if not path.name.endswith(SUFFIX) or path.name == SUFFIX:
        raise InputError(f"{path}: files for pyerrors end in {SUFFIX}; call it NAME{SUFFIX}")
    ensemble = _called(path.name.removesuffix(SUFFIX))
    names = [f"{ensemble}|{_called(replica.name)}" for replica in replicas]
    if len(set(names)) < len(names):
        raise InputError(f"{path}: two replicas have the same name; {', '.join(names)}")
    for replica in replicas:
        if (np.diff(replica.trajectory) <= 0).any():
            raise InputError(
                f"replica {replica.name}: its trajectory numbers do not rise; put its "
                "configurations in the order of Monte Carlo time"
            )
    found = [
        _observable(name, column, replicas, names, ensemble) for name, column in values.items()
    ]
    document = {
        "program": f"physgen {__version__}",
        "version": "1.1",
        "description": description,
        "obsdata": [one for one in found if one is not None],
    }
    text = json.dumps(document, allow_nan=False, separators=(",", ":"))
    with atomic(path, overwrite) as part:
        write_bytes(part, gzip.compress(text.encode(), mtime=0))
    return [name for name, one in zip(values, found, strict=True) if one is not None]


def _observable(
    name: str,
    column: NDArray[np.floating[Any]],
    replicas: Sequence[Replica],
    names: Sequence[str],
    ensemble: str,
) -> dict[str, Any] | None:
    """Return one `Obs` as pyerrors writes it; `None` if it is nowhere defined."""
    parts = []
    for replica, called in zip(replicas, names, strict=True):
        values = column[replica.rows].astype(np.float64)
        there = ~np.isnan(values)
        if not there.any():
            continue
        if there.sum() < FEWEST or np.isinf(values).any():
            raise InputError(
                f"{name} of replica {replica.name}: {int(there.sum())} measurements, "
                f"{int(np.isinf(values).sum())} of them infinite; pyerrors needs {FEWEST} finite "
                "ones of each replica: leave it out, or make it longer"
            )
        parts.append((called, replica.trajectory[there], values[there]))
    if not parts:
        return None
    mean = float(np.concatenate([values for _, _, values in parts]).mean())
    return {
        "type": "Obs",
        "layout": "1",
        "tag": [name],
        "value": [mean],
        "data": [
            {
                "id": ensemble,
                "replica": [
                    {
                        "name": called,
                        "deltas": [
                            [number, delta]
                            for number, delta in zip(
                                trajectory.tolist(), (values - mean).tolist(), strict=True
                            )
                        ],
                    }
                    for called, trajectory, values in parts
                ],
            }
        ],
    }


def _called(name: str) -> str:
    """Return a name in which nothing separates ensemble from replica."""
    return name.replace("|", "_")
