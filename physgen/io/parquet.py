"""Tables of Parquet and Arrow (Feather) files, read by row groups: columns of numbers and of lists.

A column of a structure, or of a list of structures, is named "a.b". Rows of a group that is larger
than what is asked for pass through memory in pieces, so that no more than these are held.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from physgen.errors import FormatError, suggest
from physgen.io.formats import format_of, refuse_cut_short
from physgen.io.guard import library, regular
from physgen.io.probe import probe
from physgen.io.trees import keys_among

_PIECE = 2**14
"""Rows of a row group that are decoded at once."""
_BUFFER = 2**18
"""Bytes of a column that are read at once."""
SECONDS = 10
"""Of processor time to list what is in a file and decode its first rows."""


def open_table(path: Path) -> Table:
    """Open a Parquet or Arrow file for reading.

    Raises:
        FormatError: there is no such file, it is neither, is cut short or damaged, or the package
            pyarrow is not installed.
    """
    path = regular(Path(path))
    refuse_cut_short(path)
    needs_pyarrow(path)
    # The file says how much memory its first page takes: a damaged one may say anything.
    probe(path, lambda: _try(path), SECONDS)
    with library(str(path)):
        return Table(path)


def needs_pyarrow(path: Path) -> None:
    """Raise `FormatError` if the package pyarrow is not installed."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise FormatError(
            f"{path}: Parquet and Arrow files need the package pyarrow, which is not installed; "
            "`pip install 'physgen[parquet]'`"
        ) from error


def _try(path: Path) -> None:
    table = Table(path)
    for name in table.names:
        table.bytes_of(name)
        with suppress(FormatError):  # Not all columns are of numbers.
            table.read(name, 0, min(1, len(table)))


class Table:
    """Columns of a file by name, read in ranges of rows; what `Tree` is for ROOT.

    Attributes:
        where: the file, for messages.
        names: of all columns of numbers or of lists of them, and others.
        written: the schema that physgen wrote into the file, in JSON; `None` if it wrote none.
        group_rows: rows of the largest row group.

    >>> import tempfile
    >>> import pyarrow as pa
    >>> import pyarrow.parquet as pq
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pq.write_table(pa.table({"pt": [[3.0, 1.0], [2.0]]}), Path(folder) / "a.parquet")
    ...     table = Table(Path(folder) / "a.parquet")
    ...     table.kind("pt"), table.read("pt", 1, 2).tolist()
    (('float64', 1), [[2.0]])
    """

    def __init__(self, path: Path) -> None:
        self.where = f"{path}: table"
        self._file = _ParquetFile(path) if format_of(path) == "Parquet" else _ArrowFile(path)
        self._leaves = _leaves(self._file.schema)
        self.names = list(self._leaves)
        text = (self._file.schema.metadata or {}).get(b"physgen_schema")
        self.written = None if text is None else text.decode(errors="replace")
        self.group_rows = int(np.diff(self._file.starts).max(initial=0))

    def __len__(self) -> int:
        return int(self._file.starts[-1])

    def bytes_of(self, name: str) -> int:
        """Return how many bytes a column takes, as far as the file says it."""
        return self._file.bytes_of(self._leaves[name])

    def kind(self, name: str) -> tuple[str, int]:
        """Return (numpy type, depth of lists) of a column.

        Raises:
            FormatError: there is no such column, or it does not hold numbers.
        """
        import pyarrow.types as of

        if name not in self._leaves:
            members = [column for column in self.names if column.startswith(f"{name}.")]
            if members:
                raise FormatError(
                    f"{self.where}: column {name!r} holds objects; name a member"
                    f"{suggest('', members)}"
                )
            raise FormatError(
                f"{self.where}: there is no column {name!r}{suggest(name, self.names)}"
            )
        kind, depth = self._leaves[name].kind, self._leaves[name].depth
        if of.is_dictionary(kind):
            kind = kind.value_type
        if not (of.is_boolean(kind) or of.is_integer(kind) or of.is_floating(kind)):
            raise FormatError(
                f"{self.where}: column {name!r} holds {kind}; only columns of numbers can be read"
            )
        return np.dtype(kind.to_pandas_dtype()).name, depth

    def read(self, name: str, start: int, stop: int) -> Any:
        """Return rows [start, stop) of a column as an awkward array.

        Raises:
            FormatError: there is no such column, it does not hold numbers, a value is missing
                (null), or it cannot be decoded.
        """
        import awkward as ak

        dtype, depth = self.kind(name)
        start, stop, _ = slice(start, stop).indices(len(self))
        rows = f"rows {start} to {stop - 1}"
        leaf, where = self._leaves[name], f"{self.where}: column {name!r}, {rows}"
        with library(where):
            pieces = self._file.pieces(leaf, start, stop)
            contents = [_content(piece, leaf.members, where) for piece in pieces]
        if not contents:
            empty: Any = ak.contents.NumpyArray(np.zeros(0, dtype))
            for _ in range(depth):
                empty = ak.contents.ListOffsetArray(ak.index.Index64(np.zeros(1, np.int64)), empty)
            contents = [empty]
        arrays = [ak.Array(content) for content in contents]
        array = arrays[0] if len(arrays) == 1 else ak.concatenate(arrays)
        if len(array) != stop - start:
            raise FormatError(
                f"{self.where}: column {name!r} has {len(array)} of the {stop - start} {rows}: it "
                "is damaged; copy or make the file again"
            )
        return array

    def event_keys(self) -> list[str]:
        """Return the columns that say which event a row is of; see `keys_among`."""
        return keys_among(self.names, self.kind)


class _Leaf(NamedTuple):
    """An innermost column of an Arrow schema.

    Attributes:
        number: of the column, as Parquet counts.
        top: name of the outermost column that it is in.
        members: names of the structures on the way to it.
        kind: Arrow type of its values.
        depth: of lists around them.
    """

    number: int
    top: str
    members: tuple[str, ...]
    kind: Any
    depth: int


def _leaves(schema: Any) -> dict[str, _Leaf]:
    """Return all innermost columns of an Arrow schema by their dotted names."""
    import pyarrow.types as of

    result: list[_Leaf] = []

    def walk(top: str, members: tuple[str, ...], kind: Any, depth: int) -> None:
        if of.is_list(kind) or of.is_large_list(kind) or of.is_fixed_size_list(kind):
            walk(top, members, kind.value_type, depth + 1)
        elif of.is_struct(kind):
            for field in kind:
                walk(top, (*members, field.name), field.type, depth)
        elif of.is_map(kind):  # Keys and values are two columns, of which none can be read.
            for member in ("key", "value"):
                result.append(_Leaf(len(result), top, (*members, member), kind, depth))
        else:
            result.append(_Leaf(len(result), top, members, kind, depth))

    for field in schema:
        walk(field.name, (), field.type, 0)
    return {".".join((leaf.top, *leaf.members)): leaf for leaf in result}


def _content(array: Any, members: Sequence[str], where: str) -> Any:
    """Return numbers in an Arrow array as an awkward layout of lists, without structures."""
    import awkward as ak
    import pyarrow.types as of

    if array.null_count:
        raise FormatError(
            f"{where}: {array.null_count} values are missing (null); fill them, or leave such rows "
            "out"
        )
    kind = array.type
    if of.is_fixed_size_list(kind):
        content = _content(array.flatten(), members, where)
        return ak.contents.RegularArray(content, kind.list_size, len(array))
    if of.is_list(kind) or of.is_large_list(kind):
        offsets = array.offsets.to_numpy().astype(np.int64)
        content = _content(array.flatten(), members, where)
        return ak.contents.ListOffsetArray(ak.index.Index64(offsets - offsets[0]), content)
    if of.is_struct(kind):
        member = array.flatten()[kind.get_field_index(members[0])]
        return _content(member, members[1:], where)
    if of.is_dictionary(kind):
        array = array.dictionary_decode()
    return ak.contents.NumpyArray(array.to_numpy(zero_copy_only=False))


class _ParquetFile:
    """A Parquet file, whose columns are gone through in pieces of row groups.

    Attributes:
        schema: of Arrow.
        starts: (groups + 1,) first rows of the row groups, and the end.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        # Without these two the whole column of a row group is read before it is unpacked.
        piecemeal: dict[str, Any] = {"buffer_size": _BUFFER, "pre_buffer": False}
        self._file = pq.ParquetFile(path, page_checksum_verification=True, **piecemeal)
        self.schema = self._file.schema_arrow
        metadata = self._file.metadata
        self._groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        rows = [group.num_rows for group in self._groups]
        if min(rows, default=0) < 0 or sum(rows) != metadata.num_rows:
            raise FormatError(
                f"{path}: the numbers of rows of its row groups contradict that of the file, "
                f"{metadata.num_rows}: it is damaged; copy or make it again"
            )
        self.starts: NDArray[np.int64] = np.cumsum([0, *rows])
        self._open: dict[int, tuple[int, Iterator[Any], Any]] = {}

    def bytes_of(self, leaf: _Leaf) -> int:
        """Return the bytes of a column, encoded but not compressed."""
        return sum(int(g.column(leaf.number).total_uncompressed_size) for g in self._groups)

    def pieces(self, leaf: _Leaf, start: int, stop: int) -> Iterator[Any]:
        """Yield Arrow arrays that make rows [start, stop) of a column.

        What was opened goes on where it was, if that is in the same row group and not behind.
        """
        path = self._file.schema.column(leaf.number).path
        while start < stop:
            group = int(np.searchsorted(self.starts, start, side="right")) - 1
            at, rest, held = self._open.pop(leaf.number, (-1, iter(()), None))
            if not self.starts[group] <= at <= start:
                at, held = int(self.starts[group]), None
                rest = self._file.iter_batches(_PIECE, [group], [path], use_threads=False)
            while held is None or at + len(held) <= start:
                at += 0 if held is None else len(held)
                held = next(rest).column(0)
            self._open[leaf.number] = (at, rest, held)
            piece = held[start - at : stop - at]
            yield piece
            start += len(piece)


class _ArrowFile:
    """An Arrow (Feather) file, mapped into memory; see `_ParquetFile`."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self._file = pa.ipc.open_file(pa.memory_map(str(path)))
        self.schema = self._file.schema
        batches = map(self._file.get_batch, range(self._file.num_record_batches))
        self.starts: NDArray[np.int64] = np.cumsum([0, *(batch.num_rows for batch in batches)])
        self._valid: set[tuple[int, str]] = set()

    def bytes_of(self, leaf: _Leaf) -> int:
        """Return the bytes of a column and of what lies beside it in a structure."""
        batches = map(self._file.get_batch, range(self._file.num_record_batches))
        return sum(int(batch.column(leaf.top).nbytes) for batch in batches)

    def pieces(self, leaf: _Leaf, start: int, stop: int) -> Iterator[Any]:
        """Yield Arrow arrays that make rows [start, stop) of a column."""
        for number, (low, high) in enumerate(pairwise(self.starts.tolist())):
            a, b = max(start, low), min(stop, high)
            if a < b:
                column = self._file.get_batch(number).column(leaf.top)
                # Nothing has looked at lengths and offsets of what is only mapped into memory.
                if (number, leaf.top) not in self._valid:
                    column.validate(full=True)
                    self._valid.add((number, leaf.top))
                yield column[a - low : b - low]
