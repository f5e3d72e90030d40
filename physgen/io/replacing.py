"""Copies of files of events in which some columns are new, with the old ones beside them.

A column X of the new file takes the type that X has in the old one, and the old X is there as
`X_unrefined`, as CMS calls it. Only new weights are never rounded to the integers that old ones
were (signs, say): they become double precision. All else is passed through: other columns, flat or
jagged, other trees, other objects, attributes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from physgen.batch import Variable
from physgen.columns import as_written
from physgen.errors import FormatError, InputError
from physgen.io import hdf5
from physgen.io.branches import open_branches
from physgen.io.formats import Format, format_of
from physgen.io.guard import library
from physgen.io.npz import read_arrays
from physgen.io.tree_copies import TreeCopy
from physgen.io.trees import open_root, open_tree, tree_names
from physgen.io.writer import atomic

UNREFINED = "_unrefined"
"""Ends the names of columns that have a new one beside them."""
WEIGHT = "weight"
"""Name of the variable that event weights are, whatever their column is called."""
RATIO = "ratio"
"""Name of that which they are where events had no weights; it takes the place of no column."""

_ROWS = 2**16
"""Rows that are copied at once."""

Columns = Mapping[str, tuple[Variable, Tensor]]
"""New columns (N,) by name, and what they are."""


@dataclass(frozen=True)
class Replaced:
    """What became of the columns of a file.

    Attributes:
        new: names of those that have an old one beside them.
        added: names of those that the file did not have.
        lost: branches that could not be passed through, and why.
    """

    new: tuple[str, ...]
    added: tuple[str, ...]
    lost: tuple[str, ...] = ()


def copy_with(
    source: Path,
    output: Path,
    columns: Columns,
    *,
    tree: str | None = None,
    facts: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Replaced:
    """Copy a ROOT, Parquet, HDF5 or npz file with new columns; the output is whole, or absent.

    Args:
        source: of events; RNTuples are written as TTrees.
        output: file of the same format.
        columns: one value an event; numbers are rounded where the old column holds integers.
        tree: of a ROOT file; `None` takes the only one.
        facts: kept in the file by name.
        overwrite: replace an existing file.

    Raises:
        InputError: the output has another format, or is the source.
        FormatError: the source is absent or unfit, has other rows, or was refined before.

    >>> import tempfile
    >>> import torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fast, full = Path(folder) / "fast.npz", Path(folder) / "full.npz"
    ...     np.savez(fast, pt=np.array([1, 2]), run=np.array([7, 7]))
    ...     done = copy_with(fast, full, {"pt": (Variable("pt"), torch.tensor([1.6, 2.2]))})
    ...     done.new, {name: array.tolist() for name, array in np.load(full).items()}
    (('pt',), {'pt': [2, 2], 'pt_unrefined': [1, 2], 'run': [7, 7]})
    """
    check_output(source, output)
    _, copy = _COPIES[format_of(source)]
    with atomic(output, overwrite) as part:
        return copy(source, part, columns, tree, {k: str(v) for k, v in (facts or {}).items()})


def check_output(source: Path, output: Path) -> None:
    """Refuse files that cannot be copied with new columns, and outputs of another format.

    Raises:
        InputError: the output has another format, or is the source.
        FormatError: the source is absent, or columns are not replaced in its format.
    """
    kind = format_of(source)
    if kind not in _COPIES:
        raise FormatError(
            f"{source}: columns are replaced in ROOT, Parquet, HDF5 and npz files; "
            f"`physgen inspect {source}` says what it is"
        )
    suffixes, _ = _COPIES[kind]
    if output.suffix not in suffixes:
        raise InputError(
            f"{output}: {source.name} is {kind}, and so is what is made of it; name the output "
            f"{output.stem}{suffixes[0]}"
        )
    if output.exists() and output.samefile(source):
        raise InputError(f"{output} is the file that is read; choose another path")


def _changes(where: str, rows: int, names: Sequence[str], columns: Columns) -> Replaced:
    """Return which columns are replaced, of a file of so many rows and columns of these names."""
    for name, (variable, values) in columns.items():
        if variable.name == RATIO and name in names:
            raise FormatError(
                f"{where} has a column {name!r}, which density ratios alone would replace: if it "
                "is the weight of events, name it in the recipe (data.source.weight) and train "
                "anew; else take a file without it"
            )
        if name + UNREFINED in names:
            raise FormatError(
                f"{where}: {name + UNREFINED!r} is there already, so that {name!r} was refined "
                "before; take the original file"
            )
        if len(values) != rows:
            raise FormatError(
                f"{where} has {rows} rows, and there are {len(values)} new values of {name!r}"
            )
    new = tuple(name for name in columns if name in names)
    return Replaced(new, tuple(name for name in columns if name not in names))


def _written(columns: Columns, name: str, rows: slice, dtype: Any = None) -> NDArray[Any]:
    """Return values in the type of the old column, else in that of the variable."""
    variable, values = columns[name]
    whole = variable.name == WEIGHT and np.dtype(dtype).kind in "biu"
    if dtype is not None and not whole:
        variable = replace(variable, dtype=str(np.dtype(dtype)))
    return as_written(values[rows], variable)


def _copy_npz(
    source: Path, part: Path, columns: Columns, tree: str | None, facts: Mapping[str, str]
) -> Replaced:
    arrays = read_arrays(source)
    rows = max((len(a) for n, a in arrays.items() if n in columns and a.ndim), default=0)
    rows = rows or len(next(iter(columns.values()))[1])
    done = _changes(str(source), rows, list(arrays), columns)
    result: dict[str, Any] = {}
    for name, array in arrays.items():
        if name in done.new:
            result[name] = _written(columns, name, slice(None), array.dtype)
            name += UNREFINED
        result[name] = array
    result |= {name: _written(columns, name, slice(None)) for name in done.added}
    with part.open("wb") as file:
        np.savez(file, allow_pickle=False, **(result | {k: np.array(v) for k, v in facts.items()}))
    return done


def _copy_hdf5(
    source: Path, part: Path, columns: Columns, tree: str | None, facts: Mapping[str, str]
) -> Replaced:
    import h5py

    with hdf5.open_hdf5(source) as file:
        names = hdf5.dataset_names(file)
        old = {name: hdf5.dataset(file, name) for name in columns if name in names}
        types = {name: hdf5.dtype_of(node) for name, node in old.items()}
        rows = [len(node) for node in old.values()] or [len(next(iter(columns.values()))[1])]
        done = _changes(str(source), rows[0], names, columns)
    shutil.copyfile(source, part)
    with library(str(source)), h5py.File(part, "r+") as file:
        for name in columns:
            unit = {}
            if name in done.new:
                file.move(name, name + UNREFINED)
                attributes = file[name + UNREFINED].attrs
                # Not how its numbers are packed.
                unit = {key: attributes[key] for key in ("unit", "units") if key in attributes}
            values = _written(columns, name, slice(None), types.get(name))
            node = file.create_dataset(name, data=values, chunks=True, fletcher32=True)
            node.attrs.update(unit or {"unit": columns[name][0].unit})
        file.attrs.update(facts)
    return done


def _copy_parquet(
    source: Path, part: Path, columns: Columns, tree: str | None, facts: Mapping[str, str]
) -> Replaced:
    table = open_branches(source)
    import pyarrow as pa
    import pyarrow.parquet as pq

    with library(str(source)):
        file = pq.ParquetFile(source)
        names = file.schema_arrow.names
        done = _changes(table.where, len(table), names, columns)
        types = {name: table.kind(name)[0] for name in done.new}
        metadata = dict(file.schema_arrow.metadata or {}) | {
            name.encode(): text.encode() for name, text in facts.items()
        }
        writer: Any = None
        start = 0
        for batch in file.iter_batches(_ROWS):
            rows = slice(start, start + len(batch))
            result = {}
            for name, column in zip(names, batch.columns, strict=True):
                if name in done.new:
                    result[name] = pa.array(_written(columns, name, rows, types[name]))
                    name += UNREFINED
                result[name] = column
            result |= {name: pa.array(_written(columns, name, rows)) for name in done.added}
            out = pa.table(result, metadata=metadata)
            writer = writer or pq.ParquetWriter(part, out.schema, write_page_checksum=True)
            writer.write_table(out)
            start = rows.stop
        if writer is not None:
            writer.close()
    return done


def _copy_root(
    source: Path, part: Path, columns: Columns, tree: str | None, facts: Mapping[str, str]
) -> Replaced:
    import uproot

    file = open_root(source)
    open_tree(source, tree)  # Which says what is wrong with the choice.
    trees = tree_names(file)
    chosen = trees[0] if tree is None else tree
    copies = {name: TreeCopy(file[name], f"{source}: tree {name!r}") for name in trees}
    names = [*copies[chosen].flat, *copies[chosen].jagged]
    rows = int(file[chosen].num_entries)
    done = _changes(copies[chosen].where, rows, names, columns)
    for name in done.new:
        if name not in copies[chosen].flat or copies[chosen].flat[name].shape:
            raise FormatError(
                f"{source}: branch {name!r} does not hold one number an event, or counts the items "
                "of others; flat columns can be replaced"
            )

    def take(
        name: str, some: slice, dtype: np.dtype[Any] | None
    ) -> tuple[str, NDArray[Any]] | None:
        return (name + UNREFINED, _written(columns, name, some, dtype)) if name in columns else None

    added = {name: np.dtype(_written(columns, name, slice(0, 0)).dtype) for name in done.added}
    with library(str(source)), uproot.recreate(part) as new:
        for name, copy in copies.items():
            if name == chosen:
                copy.write(new, name, take, added)
            else:
                copy.write(new, name, lambda *_: None, {})
        _copy_objects(file, new, {*trees, *facts})
        for name, text in facts.items():
            new[name] = text
    return replace(done, lost=tuple(one for copy in copies.values() for one in copy.lost))


def _copy_objects(file: Any, new: Any, but: Collection[str]) -> None:
    """Copy all that is no tree or folder from one ROOT file to another: histograms, texts."""
    kinds = file.classnames(recursive=True, cycle=False)
    for path, kind in kinds.items():
        if kind.startswith("TDirectory") or path in but:
            continue
        folder, _, name = path.rpartition("/")
        if kind == "TObjString":
            new[path] = str(file[path])
            continue
        source = file[folder] if folder else file
        target = new.mkdir(folder) if folder else new
        target.copy_from(source, filter_name=name)
        # It makes a folder without a name for what lies in no other.
        if ";1" in target.keys(recursive=False):
            del target[";1"]


_Copy = Callable[[Path, Path, Columns, str | None, Mapping[str, str]], Replaced]
_COPIES: dict[Format, tuple[tuple[str, ...], _Copy]] = {
    "ROOT": ((".root",), _copy_root),
    "Parquet": ((".parquet",), _copy_parquet),
    "HDF5": ((".h5", ".hdf5"), _copy_hdf5),
    "npz": ((".npz",), _copy_npz),
}
"""Suffixes of the formats, and what copies a file of each."""
