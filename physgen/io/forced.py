"""The mark of gauge configurations that were converted though checks failed.

In HDF5 it is a dataset of text beside the configurations, one for each, empty where all agreed; in
NERSC a line of the header; in ILDG a line of `scidac-record-xml`. It is kept when they are
converted again, whether or not the new file agrees with itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import h5py
import numpy as np

from physgen.io.guard import library
from physgen.io.hdf5 import check_storage, has, located

FORCED = "read_by_force"
"""What the mark is called in files; in capitals in the header of NERSC."""
FORCED_ROWS = "configurations read by force"
"""What is wrong with an ensemble in which there are some."""
LONGEST = 4096
"""Bytes of a mark in HDF5."""
_SHOWN = 10


def forced_in(file: h5py.File, rows: int) -> dict[int, str]:
    """Return what did not agree, by row, of those of `rows` configurations that are marked."""
    if not has(file, FORCED):
        return {}
    where = f"{file.filename}: dataset {FORCED!r}"
    node = located(file, FORCED)
    with library(where):
        if node.shape != (rows,) or node.dtype.kind != "S":
            return {}
        check_storage(node, where)
        texts = node[()]
    marked = np.flatnonzero(texts != b"").tolist()
    return {row: texts[row].decode("utf-8", "replace") for row in marked}


def forced_sentence(where: str, marked: Mapping[str, str], total: int) -> str:
    """Return what is to be said of configurations that are marked.

    Args:
        where: the file, or the ensemble.
        marked: what did not agree, by what a configuration is called.
        total: configurations there.

    >>> forced_sentence("u.h5", {"row 3": "a.3: checksum 1 is not 2"}, 12)
    'u.h5: 1 of 12 was read by force when it was converted: row 3 (a.3: checksum 1 is not 2)'
    """
    named = [f"{name} ({why})" for name, why in marked.items()]
    rest = len(named) - _SHOWN
    listed = "; ".join(named[:_SHOWN]) + (f"; and {rest} more" if rest > 0 else "")
    were = (
        "was read by force when it was" if len(named) == 1 else "were read by force when they were"
    )
    return f"{where}: {len(named)} of {total} {were} converted: {listed}"
