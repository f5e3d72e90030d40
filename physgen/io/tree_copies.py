"""Trees of ROOT files written again, branch by branch, with some columns exchanged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physgen.errors import FormatError

NUMBERS = 2**22
"""Of numbers that are copied at once, for branches of one number a row."""

_ANONYMOUS = "_collection"
"""Begins fields of RNTuples that only hold others, which have names of their own."""

Take = Callable[[str, slice, np.dtype[Any] | None], tuple[str, NDArray[Any]] | None]
"""Returns a new name for an old column, and the new values of some rows; `None` if it stays."""


class TreeCopy:
    """Branches of a tree that can be written, and why others cannot.

    Args:
        tree: of an open file, a TTree or RNTuple.
        where: file and tree, for messages.

    Attributes:
        flat: (type, shape of an entry) of branches with as many numbers in each entry.
        jagged: branches of lists by the name of the branch that counts their items.
        lost: branches that hold something else, with what it is.

    >>> import tempfile
    >>> import uproot
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with uproot.recreate(f"{folder}/a.root") as file:
    ...         file["events"] = {"pt": np.array([1.5, 2.5])}
    ...     with uproot.open(f"{folder}/a.root") as file:
    ...         TreeCopy(file["events"], "a.root").flat
    {'pt': dtype('float64')}
    """

    def __init__(self, tree: Any, where: str) -> None:
        self.tree, self.where = tree, where
        self.flat: dict[str, np.dtype[Any]] = {}
        self.jagged: dict[str, dict[str, str]] = {}
        self.lost: list[str] = []
        names = [n for n in tree.keys(recursive=False) if not n.startswith(_ANONYMOUS)]
        for name in names:
            self._describe(name, names)
        for counter in self.jagged:
            self.flat.pop(counter, None)  # Written with what it counts.

    def _describe(self, name: str, names: list[str]) -> None:
        import awkward as ak

        try:
            kind = self._read(name, slice(0, 1)).type.content
        except Exception as error:  # What uproot cannot decode raises whatever it means.
            self.lost.append(f"{self.where}: branch {name!r} ({str(error)[:80]})")
            return
        shape: tuple[int, ...] = ()
        inner = kind
        while isinstance(inner, ak.types.RegularType) and "__array__" not in inner.parameters:
            inner, shape = inner.content, (*shape, inner.size)
        if isinstance(inner, ak.types.NumpyType):
            self.flat[name] = np.dtype((inner.primitive, shape))
        elif (
            isinstance(kind, ak.types.ListType)
            and "__array__" not in kind.parameters
            and isinstance(kind.content, ak.types.NumpyType)
        ):
            counter = _counter(self.tree[name]) or f"n{name}"
            while counter in names and _counter(self.tree[name]) is None:
                counter += "_"
            self.jagged.setdefault(counter, {})[name] = kind.content.primitive
        else:
            self.lost.append(f"{self.where}: branch {name!r} of {kind}")

    def _read(self, name: str, rows: slice) -> Any:
        branch = self.tree[name]
        return branch.array(entry_start=rows.start, entry_stop=rows.stop, array_cache=None)

    def write(self, new: Any, path: str, take: Take, added: Mapping[str, np.dtype[Any]]) -> None:
        """Write the tree into an open file.

        Args:
            new: file to write.
            path: of the tree in it.
            take: what becomes of columns.
            added: columns that the tree does not have, and their types.
        """
        import awkward as ak

        types: dict[str, Any] = {}
        for name, dtype in self.flat.items():
            changed = take(name, slice(0, 0), dtype)
            types[name] = dtype if changed is None else changed[1].dtype
            if changed is not None:
                types[changed[0]] = dtype
        types |= added
        for counter, members in self.jagged.items():
            fields = {name: f"{primitive}" for name, primitive in members.items()}
            record = ", ".join(f'"{name}": {primitive}' for name, primitive in fields.items())
            types[_key(counter)] = ak.types.from_datashape(f"var * {{{record}}}", highlevel=False)
        new.mktree(
            path,
            types,
            title=str(getattr(self.tree, "title", "") or ""),
            counter_name=lambda key: key.removesuffix(_MARK),
            field_name=lambda outer, inner: inner,
        )
        step = max(1, NUMBERS // max(1, len(types)))
        rows = int(self.tree.num_entries)
        for start in range(0, rows, step):
            new[path].extend(self._columns(slice(start, min(start + step, rows)), take, added))

    def _columns(
        self, rows: slice, take: Take, added: Mapping[str, np.dtype[Any]]
    ) -> dict[str, Any]:
        import awkward as ak

        columns: dict[str, Any] = {}
        for name, dtype in self.flat.items():
            old = ak.to_numpy(self._read(name, rows))
            changed = take(name, rows, dtype)
            columns[name] = old if changed is None else changed[1]
            if changed is not None:
                columns[changed[0]] = old
        for name, dtype in added.items():
            changed = take(name, rows, dtype)
            if changed is not None:
                columns[name] = changed[1]
        for counter, members in self.jagged.items():
            lists = {name: self._read(name, rows) for name in members}
            counts = [ak.num(one).to_numpy() for one in lists.values()]
            if any((one != counts[0]).any() for one in counts):
                raise FormatError(
                    f"{self.where}: branches {', '.join(lists)}, which {counter!r} counts, have "
                    "different numbers of items; copy or make the file again"
                )
            columns[_key(counter)] = ak.zip(lists)
        return columns


_MARK = " items"


def _key(counter: str) -> str:
    """Return what lists are called together, apart from the branch that counts them."""
    return counter + _MARK


def _counter(branch: Any) -> str | None:
    """Return the name of the branch that counts the items of a TTree's branch of lists."""
    try:
        leaf = branch.member("fLeaves")[0].member("fLeafCount")
        return None if leaf is None else str(leaf.member("fName"))
    except Exception:  # Fields of RNTuples and vectors have none.
        return None
