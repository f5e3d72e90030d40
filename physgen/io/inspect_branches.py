"""What `physgen inspect` says of trees of ROOT files, and of tables of Parquet and Arrow files.

That is what their branches or columns hold, and how to train on them.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np

from physgen.errors import FormatError
from physgen.io.branches import BranchSource
from physgen.io.four_momenta import CARTESIAN
from physgen.io.jetclass import COLUMNS as JETCLASS
from physgen.io.parquet import Table, open_table
from physgen.io.proposals import FEWEST, columns_to_learn, listed, train_on
from physgen.io.statistics import Statistics
from physgen.io.trees import Tree, open_root, open_tree, tree_names

BYTES_READ = 2**27
"""So much of a tree is read; of what is larger, evenly spaced blocks, and this is said."""
LARGEST_GROUP = 2**18
"""Rows of a row group that are decoded in vain without being noticed."""
_BLOCKS = 16
"""So many blocks are read of a tree that is larger."""

_ITEMS = 4
"""So many items of a jagged event are proposed to be kept."""
_SENTINELS = {-999.0, -9999.0, -99.0, -1000.0, 999.0, 9999.0, 99999.0, -1e30}


def inspect_root(path: Path, report: dict[str, Any]) -> None:
    """Fill in format, contents, the first problem and hints.

    Raises:
        FormatError: it is damaged, or there is no tree in it.
    """
    with open_root(path) as file:
        classes = file.classnames(recursive=True, cycle=False)
        names = tree_names(file)
    if not names:
        objects = ", ".join(sorted(set(classes.values()))) or "nothing"
        raise FormatError(f"{path}: there is no tree in this file, only {objects}")
    kinds = {"RNTuple" if "RNTuple" in classes[name] else "TTree" for name in names}
    report["format"] = "ROOT " + " and ".join(sorted(kinds))
    for name in names:
        _inspect_tree(path, name, open_tree(path, name), report)


def inspect_table(path: Path, report: dict[str, Any]) -> None:
    """Fill in contents, the first problem and hints of a Parquet or Arrow file.

    Raises:
        FormatError: it is damaged.
    """
    table = open_table(path)
    _inspect_tree(path, None, table, report)
    report["contents"]["table"]["rows of the largest group"] = table.group_rows
    if table.group_rows > LARGEST_GROUP:
        report["hints"].append(
            f"row groups of {table.group_rows} rows are slow to read in any order; rewrite it with "
            f"smaller ones: pyarrow.parquet.write_table(table, FILE, row_group_size=16384)"
        )


def _inspect_tree(path: Path, name: str | None, tree: Tree | Table, report: dict[str, Any]) -> None:
    """Describe a tree by its name, or the one table of a file."""
    entry: dict[str, Any] = {"entries": len(tree)}
    ranges = _ranges(tree)
    if ranges != [(0, len(tree))]:
        looked = sum(stop - start for start, stop in ranges)
        entry["looked at"] = f"{looked} of {len(tree)} entries, in {len(ranges)} blocks"
    branches = _inspect_branches(tree, ranges, report)
    report["contents"]["table" if name is None else name] = entry | {"branches": branches}
    if set(JETCLASS) <= branches.keys():
        report["format"] = "jets as in JetClass"
    if len(tree) == 0:
        report["problem"] = report["problem"] or f"{tree.where} is empty"
    else:
        report["hints"] += _advise(path, name, branches, tree.event_keys(), len(tree))
        report["hints"] += _tracks(path, name, tree, branches)


def _ranges(tree: Tree | Table) -> list[tuple[int, int]]:
    """Return which entries to look at: all of them, or blocks from the first to the last."""
    entries, size = len(tree), sum(tree.bytes_of(name) for name in tree.names)
    if size <= BYTES_READ:
        return [(0, entries)]
    step = max(1, int(entries * BYTES_READ / size) // _BLOCKS)
    starts = np.linspace(0, entries - step, _BLOCKS).astype(int).tolist()
    return [(start, start + step) for start in starts]


def _inspect_branches(
    tree: Tree | Table, ranges: list[tuple[int, int]], report: dict[str, Any]
) -> dict[str, Any]:
    """Return a description of each branch."""
    keys = set(tree.event_keys())
    described: dict[str, Any] = {}
    for branch in tree.names:
        try:
            described[branch], bad_row = _inspect_branch(tree, branch, ranges)
        except FormatError as error:
            # Text and objects are no fault of the file; what cannot be decoded may be.
            described[branch] = {"not read": str(error).removeprefix(f"{tree.where}: ")}
            continue
        if bad_row is not None:
            problem = f"{tree.where}: branch {branch!r} row {bad_row} holds NaN or infinity"
            report["problem"] = report["problem"] or problem
        entry = described[branch]
        extremes = {entry.get("low"), entry.get("high")} & _SENTINELS
        if extremes and branch not in keys:
            report["hints"].append(
                f"branch {branch!r} reaches exactly {extremes.pop():g}: a sentinel for 'absent'?"
            )
    return described


def _inspect_branch(
    tree: Tree | Table, branch: str, ranges: list[tuple[int, int]]
) -> tuple[dict[str, Any], int | None]:
    """Return type, range and oddities of a branch, and the first row that is not finite."""
    import awkward as ak

    dtype, depth = tree.kind(branch)
    statistics, most, bad_row = Statistics(), 0, None
    for start, stop in ranges:
        array = tree.read(branch, start, stop)
        if depth == 1:
            most = max(most, int(ak.max(ak.num(array, axis=1)) or 0))
        statistics.update(ak.to_numpy(ak.flatten(array, axis=None)), start)
    entry: dict[str, Any] = {"dtype": dtype}
    if depth:
        entry["jagged"] = " of ".join(["lists"] * depth)
        if depth == 1:
            entry["most items"] = most
    else:
        bad_row = statistics.first_bad_row
    return entry | statistics.to_dict(), bad_row


def _advise(
    path: Path, tree: str | None, branches: dict[str, Any], keys: list[str], entries: int
) -> list[str]:
    """Say how to train on a tree, what may be its weights, and whether its rows belong together."""
    named = "the table" if tree is None else f"tree {tree!r}"
    numbers = {name: entry for name, entry in branches.items() if "dtype" in entry}
    if set(JETCLASS) <= numbers.keys():
        return [f"jets as in JetClass: physgen train jets {shlex.quote(f'data.path={path}')}"]
    flat = [name for name, entry in numbers.items() if "jagged" not in entry]
    if not numbers:
        return [f"{named} has no columns of numbers"]
    hints = []
    weights = [branch for branch in flat if "weight" in branch.lower()]
    fields = columns_to_learn(numbers, {*keys, *weights})
    if fields and entries >= FEWEST:
        many = max(numbers[name].get("most items", 0) for name in fields) > _ITEMS
        further = [f"data.tree={tree}"] * (tree is not None) + (
            [f"system.max_items={_ITEMS}"] if many else []
        )
        BranchSource(path, tree, fields, max_items=_ITEMS if many else None).arrays(0, 1)
        hints.append(train_on(path, fields, *further))
    jagged = [name for name, entry in numbers.items() if entry.get("jagged") == "lists"]
    if jagged:
        items = shlex.quote(f"data.fields={listed(jagged[:3])}")
        hints.append(
            f"jagged branches are learned as columns of a table (events-flow {items}), or as sets "
            "of items with a mask (system.kind=item-sets surrogate.kind=independent-items)"
        )
    if weights:
        hints.append(f"event weights? {shlex.quote(f'data.weight={weights[0]}')}")
    keys = [key for key in keys if key in flat]
    if keys:
        source = BranchSource(path, tree, [keys[0]], group=keys)
        hashes = source.keys()
        groups = 0 if hashes is None else len(np.unique(hashes))
        if groups < len(source):
            hints.append(
                f"{named} has {len(source)} rows of {groups} events: keep the rows of one "
                f"event on one side of the split with {shlex.quote(f'data.group={listed(keys)}')}"
            )
    return hints


def _tracks(
    path: Path, name: str | None, tree: Tree | Table, branches: dict[str, Any]
) -> list[str]:
    """Say how to train on collections of `TLorentzVector`, and on the jets that these may be of."""
    found: dict[int, list[str]] = {0: [], 1: []}
    for branch, entry in branches.items():
        try:
            depth = tree.kind(f"{branch}.{CARTESIAN[0]}")[1] if "not read" in entry else None
        except FormatError:
            continue
        if depth in found:
            found[depth].append(branch)
    jets, collections = found[0], found[1]
    if not collections:
        return []
    words = [f"data.path={path}", *([] if name is None else [f"data.tree={name}"])]
    words.append(f"system.collections={listed(collections)}")
    words.append(f"system.jets={listed(jets if len(jets) == len(collections) else [])}")
    return [
        "four-momenta of tracks are learned relative to those of their jets (named in the same "
        "order), or to their sum; with system.unit=MeV where energies are in MeV: "
        f"physgen train tracks {' '.join(map(shlex.quote, words))}"
    ]
