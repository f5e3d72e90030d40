"""Trees of ROOT files (TTree and RNTuple): opened with distrust, described, read in ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from physgen.errors import FormatError, suggest
from physgen.io.formats import refuse_cut_short
from physgen.io.guard import library, regular
from physgen.io.probe import probe

_TREE_CLASSES = ("TTree", "TNtuple", "TNtupleD", "ROOT::RNTuple", "ROOT::Experimental::RNTuple")

_MOST_ENTRIES = 2**40
"""More than any file holds."""

SECONDS = 10
"""Of processor time to list what is in a small file."""

_EVENT_KEYS = {
    *("run", "runnumber", "run_number"),
    *("event", "eventnumber", "event_number", "eventid", "event_id", "evt", "evtid"),
    *("luminosityblock", "lumiblock", "lumi", "ls"),
}


def keys_among(names: Sequence[str], kind: Callable[[str], tuple[str, int]]) -> list[str]:
    """Return the columns that look like run, block and event numbers: named so, and flat.

    Text ("2012B"), lists and objects of such names are no numbers of events.

    Args:
        names: of all columns.
        kind: returns the type and the jagged depth of one; `FormatError` if it holds no numbers.
    """

    def is_flat(name: str) -> bool:
        try:
            return kind(name)[1] == 0
        except FormatError:
            return False

    return [name for name in names if name.lower() in _EVENT_KEYS and is_flat(name)]


def open_root(path: Path) -> Any:
    """Open a ROOT file for reading.

    Raises:
        FormatError: there is no such file, it is not ROOT, it is cut short, or damaged so that
            uproot never ends.
    """
    import uproot

    path = regular(Path(path))
    refuse_cut_short(path)
    with path.open("rb") as file:
        if file.read(4) != b"root":
            raise FormatError(f"{path}: not a ROOT file; `physgen inspect {path}` says what it is")

    def opened() -> Any:
        # The dictionary keeps a colon in the path from being taken for an object in the file.
        return uproot.open({path: None}, object_cache=None, array_cache=None)

    # Listing takes uproot less than a second a MiB, unless damaged lengths lead it in circles.
    probe(path, lambda: _try(opened()), SECONDS + path.stat().st_size // 2**20)
    try:
        return opened()
    except Exception as error:  # Damage raises whatever the damaged bytes happen to mean.
        raise _damaged(path, error) from error


def _try(file: Any) -> None:
    """List what is in a file, and count the entries of RNTuples, which walks over all their pages.

    The number of pages is what the file says it is.
    """
    for name, kind in file.classnames(recursive=True, cycle=False).items():
        if "RNTuple" in kind:
            _ = file[name].num_entries


def tree_names(file: Any) -> list[str]:
    """Return the paths of all trees in an open file."""
    classes = file.classnames(recursive=True, cycle=False)
    return [name for name, kind in classes.items() if kind in _TREE_CLASSES]


def open_tree(path: Path, name: str | None = None) -> Tree:
    """Return a tree of a file; `None` takes the only one.

    Raises:
        FormatError: as `open_root`; there is no such tree (near misses are named), or several to
            choose from.
    """
    file = open_root(path)
    try:
        names = tree_names(file)
        if name is None and len(names) == 1:
            name = names[0]
        if name in names:
            written = file.get("physgen_schema")
            return Tree(file[name], f"{path}: tree {name!r}", written and str(written))
    except Exception as error:
        raise _damaged(path, error) from error
    if not names:
        raise FormatError(f"{path}: there is no tree in this file{suggest('', file.keys())}")
    if name is None:
        raise FormatError(f"{path}: which tree?{suggest('', names)}; set data.tree")
    raise FormatError(f"{path}: there is no tree {name!r}{suggest(name, names)}")


class Tree:
    """A tree of an open ROOT file: its branches by name, read in ranges of entries.

    Attributes:
        where: file and tree, for messages.
        names: of all branches or fields; those inside objects with their paths.
        written: the schema that physgen wrote beside the tree, in JSON; `None` if it wrote none.
        group_rows: rows that are cheap to read together only, 0 for any number.
    """

    group_rows = 0

    def __init__(self, handle: Any, where: str, written: str | None = None) -> None:
        self._handle, self.where, self.written = handle, where, written
        # Asking for the names walks over all branches: once, not at every read.
        with library(where):
            self.names: list[str] = list(handle.keys())
            self._entries = int(handle.num_entries)
        if not 0 <= self._entries <= _MOST_ENTRIES:
            raise FormatError(f"{where} declares {self._entries} entries: it is damaged")
        self._known = set(self.names)

    def __len__(self) -> int:
        return self._entries

    def bytes_of(self, name: str) -> int:
        """Return how many bytes a branch takes in memory, as far as the file says it."""
        with library(f"{self.where}: branch {name!r}"):
            return int(getattr(self._handle[name], "uncompressed_bytes", 0))

    def read(self, name: str, start: int, stop: int) -> Any:
        """Return entries [start, stop) of a branch as an awkward array.

        `name` may go on into the members of an object: "jet1P4.fP.fX".

        Raises:
            FormatError: there is no such branch or member, or it cannot be decoded.
        """
        import awkward as ak

        branch, members = self._resolve(name)
        try:
            array = self._handle[branch].array(entry_start=start, entry_stop=stop, array_cache=None)
        except Exception as error:
            raise FormatError(
                f"{self.where}: branch {branch!r} cannot be decoded in entries {start} to "
                f"{stop - 1}: damaged, or of a type that has no columns ({_short(error)})"
            ) from error
        if len(array) != (asked := len(range(*slice(start, stop).indices(len(self))))):
            raise FormatError(
                f"{self.where}: branch {branch!r} has {len(array)} of the {asked} entries {start} "
                f"to {stop - 1}: it is damaged; copy or make the file again"
            )
        for member in members:
            if member not in ak.fields(array):
                raise FormatError(
                    f"{self.where}: branch {branch!r} has no member {member!r}"
                    f"{suggest(member, ak.fields(array))}"
                )
            array = array[member]
        return array

    def kind(self, name: str) -> tuple[str, int]:
        """Return (numpy type, jagged depth) of a branch, see `describe_branch`.

        Raises:
            FormatError: there is no such branch, or it does not hold numbers.
        """
        return describe_branch(self.read(name, 0, min(1, len(self))), name, self.where)

    def event_keys(self) -> list[str]:
        """Return the branches that say which event a row is of; see `keys_among`."""
        return keys_among(self.names, self.kind)

    def _resolve(self, name: str) -> tuple[str, list[str]]:
        for branch, members in _cuts(name):
            if branch in self._known:
                return branch, members
        raise FormatError(f"{self.where}: there is no branch {name!r}{suggest(name, self.names)}")


def describe_branch(array: Any, name: str, where: str) -> tuple[str, int]:
    """Return (numpy type, jagged depth) of the entries of an awkward array.

    Raises:
        FormatError: text, objects (their members are named) or values that may be missing.
    """
    import awkward as ak

    kind, depth = array.type.content, 0
    while isinstance(kind, ak.types.ListType | ak.types.RegularType):
        if "__array__" in kind.parameters:
            raise FormatError(f"{where}: branch {name!r} holds text; choose branches of numbers")
        kind, depth = kind.content, depth + 1
    if isinstance(kind, ak.types.RecordType):
        fields = kind.fields or [str(index) for index in range(len(kind.contents))]
        members = [f"{name}.{field}" for field in fields]
        raise FormatError(
            f"{where}: branch {name!r} holds objects; name a member{suggest('', members)}"
        )
    if not isinstance(kind, ak.types.NumpyType):
        raise FormatError(
            f"{where}: branch {name!r} holds {kind}; only numbers that are always present can be "
            "read"
        )
    return str(kind.primitive), depth


def _cuts(name: str) -> Iterator[tuple[str, list[str]]]:
    """Yield all ways to read a dotted name as a branch and members, longest branch first."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        yield ".".join(parts[:end]), parts[end:]


def _damaged(path: Path, error: Exception) -> FormatError:
    return FormatError(
        f"{path}: cut short, damaged, or of an unsupported version "
        f"({_short(error)}); copy or make it again"
    )


def _short(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0][:120] if text else type(error).__name__
