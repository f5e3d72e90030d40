"""Files made to hang, to fill the memory, or to read what they should not: refused at once."""

import ctypes
import gzip
import os
import signal
import struct
import zipfile

import h5py
import numpy as np
import pytest

from physgen.batch import Schema, Variable
from physgen.errors import FormatError, InputError
from physgen.io import probe as trial
from physgen.io.branches import BranchSource
from physgen.io.calochallenge import CaloChallengeSource
from physgen.io.hdf5 import MOST_DATASETS, dataset_names, open_hdf5
from physgen.io.hdf5_source import HDF5Source
from physgen.io.idx import read_idx
from physgen.io.inspect import inspect
from physgen.io.npz import NpzSource, read_arrays
from physgen.io.spins import SpinSource
from physgen.systems.ensemble import Ensemble
from physgen.systems.event_files import Named, open_columns
from physgen.systems.image_files import image_card, read_images
from physgen.systems.lattice_files import open_ensemble

READERS = {
    "hdf5": HDF5Source,
    "spins": SpinSource,
    "spins in npz": lambda path: SpinSource(path.with_suffix(".npz")),
    "showers": CaloChallengeSource,
    "npz": NpzSource,
    "idx": read_idx,
    "root": lambda path: BranchSource(path, "events", ["x"]),
    "images": lambda path: read_images(image_card(str(path))),
    "ensemble": lambda path: list(Ensemble(path=str(path)).parts()),
    "inspect": inspect,
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize("kind", ["pipe", "zero", "folder"])
def test_what_is_no_regular_file_is_refused_unopened(tmp_path, read, kind):
    for suffix in ("", ".npz"):
        path = tmp_path / f"a{suffix}"
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "zero":
            path.symlink_to("/dev/zero")
        else:
            path.mkdir()
    with pytest.raises(InputError, match="a directory" if kind == "folder" else "device or a pipe"):
        read(tmp_path / "a")


# Archives.


def zipped(path, **members):
    """An npz of (header, size) pairs: `size` zero bytes behind each header."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, (header, size) in members.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                member.write(header)
                for _ in range(size // 2**20):
                    member.write(bytes(2**20))
                member.write(bytes(size % 2**20))
    return path


def header(shape, dtype="<f8"):
    text = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def test_an_npz_that_unpacks_to_gigabytes_is_refused_unread(tmp_path):
    size = 2**29
    path = zipped(tmp_path / "bomb.npz", x=(header((size // 8,)), size))
    assert path.stat().st_size < 2**20
    with pytest.raises(FormatError, match="'x' claims to unpack from"):
        read_arrays(path)
    assert "claims to unpack" in inspect(path)["problem"]


@pytest.mark.parametrize(
    ("shape", "dtype", "said"),
    [
        ((10**12,), "<f8", "declares shape"),
        ((2**62, 2**62), "<f8", "declares shape"),
        ((-1,), "<f8", "declares shape|damaged"),
        ((5,), "|O", "Python objects"),
        ((5,), [("a", "|O")], "Python objects"),
        ((4,), "<f8", "declares shape"),
        ("((" * 3000, "<f8", "damaged"),
    ],
)
def test_headers_that_lie_are_refused_unread(tmp_path, shape, dtype, said):
    path = zipped(tmp_path / "a.npz", x=(header(shape, dtype)[:60_000], 40))
    with pytest.raises(FormatError, match=said) as caught:
        read_arrays(path)
    assert "\n" not in str(caught.value)
    assert inspect(path)["problem"]


def test_members_that_share_their_bytes_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", header((1000,)) + bytes(8000))
        first = archive.filelist[0]
        for number in range(50):
            other = zipfile.ZipInfo(f"y{number}.npy")
            for field in ("CRC", "compress_size", "file_size", "header_offset"):
                setattr(other, field, getattr(first, field))
            archive.filelist.append(other)
    with pytest.raises(FormatError, match="share their bytes"):
        read_arrays(path)


def idx(shape, content, pack=lambda content: content):
    return pack(
        b"\0\0\x08" + bytes([len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + content
    )


def test_an_idx_that_unpacks_to_gigabytes_is_refused_unread(tmp_path):
    path = tmp_path / "images-idx3-ubyte.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(idx((2**20, 28, 28), b""))
        for _ in range(300):
            file.write(bytes(2**20))
    with pytest.raises(FormatError, match="claims to unpack from"):
        read_idx(path)


def test_an_idx_with_more_behind_its_end_is_not_unpacked_to_the_end(tmp_path):
    path = tmp_path / "images-idx3-ubyte.gz"
    path.write_bytes(idx((2, 2), bytes(2**24), gzip.compress))
    with pytest.raises(FormatError, match="here are more"):
        read_idx(path)


def test_an_idx_that_declares_more_than_the_file_holds_is_refused(tmp_path):
    path = tmp_path / "images-idx3-ubyte"
    path.write_bytes(idx((2**32 - 1, 2**32 - 1), bytes(10)))
    with pytest.raises(FormatError, match="here are 10"):
        read_idx(path)


# HDF5.


def test_deep_and_wide_files_are_listed_in_part(tmp_path):
    with h5py.File(tmp_path / "deep.h5", "w") as file:
        node = file
        for _ in range(3000):
            node = node.create_group("g")
        node["x"] = np.arange(5.0)
        file["y"] = np.arange(5.0)
        file["self"] = file["g"]
        file["g/up"] = file["/"]
    with open_hdf5(tmp_path / "deep.h5") as file:
        assert dataset_names(file) == ["y"]
    with h5py.File(tmp_path / "wide.h5", "w") as file:
        for number in range(2 * MOST_DATASETS):
            file[f"d{number}"] = np.arange(3.0)
    found = inspect(tmp_path / "wide.h5")
    assert len(found["contents"]) == MOST_DATASETS
    assert any("only the first" in hint for hint in found["hints"])


def test_groups_that_hold_nothing_end_the_listing(tmp_path, monkeypatch):
    monkeypatch.setattr("physgen.io.hdf5._MOST_OBJECTS", 50)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for number in range(60):
            file.create_group(f"g{number:03}")
        file["z"] = np.arange(3.0)
    with open_hdf5(tmp_path / "a.h5") as file:
        assert dataset_names(file) == []


class GANMonitor:
    """Says whether a file was opened, by any library of this process or of its children."""

    def __init__(self, path):
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._queue = self._libc.inotify_init1(os.O_NONBLOCK)
        opened = 0x20
        assert self._libc.inotify_add_watch(self._queue, os.fsencode(path), opened) >= 0

    def opened(self):
        try:
            return bool(os.read(self._queue, 4096))
        except BlockingIOError:
            return False

    def close(self):
        os.close(self._queue)


LINKS = ("external link", "soft link", "virtual", "unlimited virtual", "external storage")
NAMES = (
    *("x", "samples", "configurations", "incident_energies", "showers", "images", "labels"),
    *("condition", "weight", "weights", "chain", "mask", "log_weight", "variable_type", "phi"),
)


def leading_out(path, secret, kind, name):
    """A file in which `name` is another file's data, and all else is its own."""
    values = np.ones((4, 6))
    with h5py.File(path, "w") as file:
        file.attrs["physgen_schema"] = (
            '{"shape": [6], "variables": [{"name": "x"}], "condition": []}'
        )
        for other in set(NAMES) - {name}:
            flat = other in ("weight", "weights", "chain", "log_weight", "labels")
            file[other] = np.arange(4) if flat else values
        if kind == "external link":
            file[name] = h5py.ExternalLink(str(secret), "/secret")
        elif kind == "soft link":
            file["way"] = h5py.ExternalLink(str(secret), "/")
            file[name] = h5py.SoftLink("/way/secret")
        elif kind == "virtual":
            layout = h5py.VirtualLayout((4, 6), dtype=float)
            layout[:] = h5py.VirtualSource(str(secret), "secret", (4, 6))
            file.create_virtual_dataset(name, layout)
        elif kind == "unlimited virtual":
            layout = h5py.VirtualLayout((4, 6), dtype=float, maxshape=(None, 6))
            source = h5py.VirtualSource(str(secret), "secret", (4, 6), maxshape=(None, 6))
            layout[: h5py.h5s.UNLIMITED] = source[: h5py.h5s.UNLIMITED]
            file.create_virtual_dataset(name, layout)
        else:
            file.create_dataset(name, (4, 6), float, external=[(str(secret), 0, 4 * 6 * 8)])
    return path


FIELD = Schema((6,), (Variable("phi"),))
ROLES = {
    "hdf5": (HDF5Source, ("x", "condition", "weight", "chain", "log_weight", "mask")),
    "spins": (SpinSource, ("samples", "weights", "chain", "variable_type")),
    "showers": (CaloChallengeSource, ("incident_energies", "showers")),
    "images": (READERS["images"], ("images", "labels")),
    "ensemble": (READERS["ensemble"], ("samples", "chain")),
    "field": (lambda path: open_ensemble(path, FIELD), ("configurations", "chain")),
    "columns": (
        lambda path: open_columns([path], Named(["phi"], weight="weight", group=("chain",))),
        ("phi", "weight", "chain"),
    ),
    "inspect": (inspect, ("x", "samples", "showers", "variable_type")),
}


@pytest.mark.parametrize("kind", LINKS)
@pytest.mark.filterwarnings("ignore:.*it is not used")
def test_no_reader_opens_another_file(tmp_path, kind, record_property):
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file.create_dataset("secret", data=np.full((4, 6), 7.25), maxshape=(None, 6))
    watch = GANMonitor(secret)
    refused = 0
    for reader, (read, names) in ROLES.items():
        for name in names:
            path = leading_out(tmp_path / f"{reader}-{name}.h5", secret, kind, name)
            watch.opened()  # To make such a file may open the other.
            try:
                source = read(path)
                if hasattr(source, "read"):
                    source.read(0, 4)
            except InputError:
                refused += 1
            assert not watch.opened(), f"{reader} followed {name!r}, a {kind}"
            path.unlink()
    assert refused > 8
    record_property("cases", sum(len(names) for _, names in ROLES.values()))
    watch.close()


# The library itself.


def test_a_crash_of_the_library_is_survived(tmp_path):
    def crash():
        os.kill(os.getpid(), signal.SIGSEGV)

    def ends():
        raise OSError("damaged")

    for name, work, said in (
        ("crash", crash, r"crashes the library .*SIGSEGV"),
        ("memory", lambda: bytearray(2**30), "more than 512 MiB"),
        ("error", ends, None),
    ):
        path = tmp_path / name
        path.write_bytes(b"x")
        if said is None:
            trial.probe(path, work)
            trial.probe(path, crash)  # What was survived once is not tried again.
            continue
        for attempt in (work, ends):
            with pytest.raises(FormatError, match=said):
                trial.probe(path, attempt)


def test_an_endless_loop_of_the_library_is_ended(tmp_path):
    def loop():
        while True:
            pass

    with pytest.raises(FormatError, match="busy for more than 1 s"):
        trial.probe(tmp_path, loop, seconds=1)


def test_a_file_that_changed_is_tried_again(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"x")
    trial.probe(path, lambda: None)
    path.write_bytes(b"xy")
    with pytest.raises(FormatError, match="crashes"):
        trial.probe(path, lambda: os.abort())
