"""Tables that are simulated when they are first read: "simulated:NAME/SEED/N"."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from physgen.batch import Batch, Schema
from physgen.errors import FormatError, suggest
from physgen.io.fetch import data_folder
from physgen.io.writer import root_writer
from physgen.systems.jet_pair import JET_COLUMNS, MULTIPARTON, jet_table
from physgen.systems.shower_pair import DETECTORS, SHOWER_COLUMNS, shower_table

SIMULATED = "simulated:"
"""Begins paths of files that are simulated when they are first read."""


@dataclass(frozen=True)
class _Table:
    """Columns, what simulates (name, n, seed), and how many rows a file has by default."""

    columns: Schema
    simulate: Callable[[str, int, int], Batch]
    n: int


_TABLES = {
    **dict.fromkeys(DETECTORS, _Table(SHOWER_COLUMNS, shower_table, 80_000)),
    **dict.fromkeys(MULTIPARTON, _Table(JET_COLUMNS, jet_table, 20_000)),
}


def simulated_file(path: str) -> Path:
    """Return the ROOT file of "simulated:NAME[/SEED[/N]]", made where it is not there yet.

    It is kept in the folder of `physgen.io.fetch.data_folder`.

    Raises:
        FormatError: there is no simulation of this name.
        InputError: a package that simulates is not installed.
    """
    found = re.fullmatch(rf"{SIMULATED}([a-z-]+)(?:/(\d+))?(?:/(\d+))?", path)
    if found is None or found[1] not in _TABLES or found[3] == "0":
        raise FormatError(
            f"{path}: simulated are {SIMULATED}NAME/SEED/N{suggest(path, sorted(_TABLES))}"
        )
    name, seed = found[1], int(found[2] or 1)
    table = _TABLES[name]
    n = int(found[3] or table.n)
    file = data_folder() / f"{name}-{seed}-{n}.root"
    if not file.is_file():
        rows = table.simulate(name, n, seed)
        with root_writer(file, table.columns, overwrite=True) as append:
            append(rows)
    return file
