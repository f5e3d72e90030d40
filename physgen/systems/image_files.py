"""Files of grey images: where they are, which arrays are images and labels, what is white.

Read are IDX (plain or compressed; labels from the file beside it), npz and HDF5 files, data set
cards, and scikit-learn's digits. Lattices and layers of showers are images too: a card says which
array they are and which values are intensities 0 and 1,

    read: {path: spins.h5, array: samples, black: -1, white: 1}
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat, PositiveInt

from physgen.errors import FormatError, suggest
from physgen.io.arrays import names_in, open_array
from physgen.io.cards import Card, read_card
from physgen.io.fetch import data_folder
from physgen.io.formats import format_of
from physgen.io.idx import read_idx
from physgen.io.source import check_finite

DIGITS = "sklearn:digits"
"""Stands for the digits that come with scikit-learn."""
FETCHED = "fetched:"
"""Begins paths of files that `physgen fetch` has stored."""

_MOST_CLASSES = 1_000_000
"""More than any set of images has."""
_IMAGES = ("x", "images", "data", "x_train")
_LABELS = ("condition", "labels", "label", "y", "target", "y_train")


@dataclass(frozen=True)
class ImageArrays:
    """What a file holds.

    Attributes:
        name: the path, for messages.
        pixels: (N, H, W), integers or float32.
        white: the value of `pixels` that is intensity 1.
        labels: (N,) int64, or `None`.
        black: the value of `pixels` that is intensity 0.
        fault: why the file's labels cannot be used, if it has some.
        weight: (N,), or `None`.
    """

    name: str
    pixels: NDArray[Any]
    white: float
    labels: NDArray[np.int64] | None
    black: float = 0.0
    fault: str | None = None
    weight: NDArray[Any] | None = None

    def intensities(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return (n, H, W) in [0, 1] of some rows."""
        black, white = np.float32(self.black), np.float32(self.white)
        return (self.pixels[rows].astype(np.float32) - black) / (white - black)

    @property
    def binary(self) -> bool:
        """Whether all pixels are black or white."""
        return bool(((self.pixels == self.black) | (self.pixels == self.white)).all())

    def digest(self) -> str:
        """Return the SHA-256 of intensities, labels and weights."""
        black = f" {self.black:g}" if self.black else ""
        about = f"{self.pixels.shape} {self.pixels.dtype} {self.white:g}{black}\n"
        sha = hashlib.sha256(about.encode())
        sha.update(np.ascontiguousarray(self.pixels).data)
        if self.labels is not None:
            sha.update(self.labels.data)
        if self.weight is not None:
            sha.update(np.ascontiguousarray(self.weight).data)
        return sha.hexdigest()


class ImageCard(Card):
    """What the section `read` of a data set card of images may say.

    Attributes:
        path: of the file.
        array: name of the array that holds the images, in HDF5 and npz files.
        labels: path of the IDX file of the labels.
        shape: rows and columns of an image.
        classes: how many there are.
        black, white: the values that are intensities 0 and 1.
    """

    path: str
    array: str | None = None
    labels: str | None = None
    shape: tuple[PositiveInt, PositiveInt] | None = None
    classes: Annotated[int, Field(gt=0, le=_MOST_CLASSES)] | None = None
    black: FiniteFloat = 0.0
    white: FiniteFloat | None = None


def image_card(path: str) -> ImageCard:
    """Return what a data set card says of images; for other paths that is the path alone.

    Raises:
        FormatError: the card cannot be read, or says something unknown or of the wrong type.
    """
    if Path(path).suffix not in (".yaml", ".yml"):
        return ImageCard(path=path)
    return read_card(Path(path), ImageCard)


def read_images(card: ImageCard) -> ImageArrays:
    """Read the images that a card, or a path alone, describes.

    Raises:
        FormatError: the file is absent or unfit; the row of a bad value is named.
    """
    if card.path == DIGITS:
        return _sklearn_digits()
    file = _located(card.path)
    pixels, labels, fault = _arrays(file, card.array)
    if card.labels is not None:
        labels, fault = read_idx(Path(card.labels)), None
    pixels = _framed(np.asarray(pixels), card.shape, str(file))
    white = _white(pixels, str(file)) if card.white is None else card.white
    _check_intensities(pixels, card.black, white, str(file))
    classes = None
    try:
        classes = None if labels is None else _checked_labels(labels, len(pixels), str(file))
    except FormatError as error:
        fault = str(error)
    weight = _weights(file, card.array, len(pixels))
    return ImageArrays(str(file), pixels, white, classes, card.black, fault, weight)


def _sklearn_digits() -> ImageArrays:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = digits.images.astype(np.uint8)
    return ImageArrays("scikit-learn's digits", pixels, 16.0, digits.target.astype(np.int64))


def _located(path: str) -> Path:
    if not path.startswith(FETCHED):
        return Path(path)
    name = path.removeprefix(FETCHED)
    result = data_folder() / name
    if not result.is_file():
        raise FormatError(
            f"{result} is not there: `physgen fetch {Path(name).stem}` gets it, or set data.path "
            "to an IDX or npz file of your own"
        )
    return result


def _arrays(path: Path, array: str | None) -> tuple[NDArray[Any], NDArray[Any] | None, str | None]:
    """Return images, of an array if it is named, labels as they are in the file, and their fault.

    Labels need not be used: what is wrong with them is said when they are.
    """
    if format_of(path) not in ("HDF5", "npz"):
        if array is not None:
            raise FormatError(f"{path}: read.array = {array!r}, but an IDX file is one array")
        companions = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
        labels = read_idx(companions) if companions != path and companions.exists() else None
        return read_idx(path), labels, None
    known = names_in(path)
    images = _IMAGES if array is None else (array,)
    image = next((name for name in images if name in known), None)
    if image is None:
        raise FormatError(
            f"{path}: no array of images called {' or '.join(images)}; a data set card names "
            f"another as read.array{suggest('', known)}"
        )
    pixels, label = _whole(path, image, known), next((n for n in _LABELS if n in known), None)
    try:
        return pixels, None if label is None else _whole(path, label, known), None
    except FormatError as error:
        return pixels, None, str(error)


def _weights(path: Path, array: str | None, n: int) -> NDArray[Any] | None:
    """Return (n,) weights that physgen wrote beside images; `None` without any."""
    if format_of(path) not in ("HDF5", "npz") or not {"x", "weight"} <= set(names_in(path)):
        return None
    if array not in (None, "x"):
        return None
    source = open_array(path, "x", companions={"weight": "weight"})
    return source.arrays(0, n).get("weight")


def _whole(path: Path, name: str, known: list[str]) -> NDArray[Any]:
    """Return an array; some archives keep the two parts of a set under two names."""
    rest = name.replace("_train", "_test")
    parts = [name, rest] if name.endswith("_train") and rest in known else [name]
    sources = [open_array(path, part, companions={}) for part in parts]
    return np.concatenate([source.arrays(0, len(source))["x"] for source in sources])


def _framed(pixels: NDArray[Any], shape: tuple[int, int] | None, name: str) -> NDArray[Any]:
    """Return (N, H, W): flat rows are squares, a single channel is dropped."""
    if pixels.dtype.kind not in "biuf" or pixels.ndim < 2:
        raise FormatError(f"{name}: {pixels.dtype} of shape {pixels.shape} are not images")
    if not len(pixels):
        raise FormatError(f"{name}: no images")
    one = pixels.shape[1:]
    if pixels.ndim == 4 and 1 in (one[0], one[2]):
        one = one[1:] if one[0] == 1 else one[:2]
    if pixels.ndim == 2:
        side = math.isqrt(one[0])
        one = shape or ((side, side) if side * side == one[0] else one)
    if len(one) != 2 or math.prod(one) != math.prod(pixels.shape[1:]):
        raise FormatError(
            f"{name}: rows of shape {pixels.shape[1:]} are not grey images of (rows, columns)"
        )
    if shape is not None and shape != one:
        raise FormatError(f"{name}: images of {one}, but the card says {shape}")
    return pixels.reshape(len(pixels), *one)


def _white(pixels: NDArray[Any], name: str) -> float:
    """Return 1 for intensities and bits, 255 for bytes."""
    if pixels.dtype.kind in "bf" or (pixels.size and pixels.max() <= 1):
        return 1.0
    if pixels.dtype == np.uint8:
        return 255.0
    raise FormatError(
        f"{name}: {pixels.dtype} up to {pixels.max()}: which value is intensity 1? Say it as "
        "read.white in a data set card"
    )


def _check_intensities(pixels: NDArray[Any], black: float, white: float, name: str) -> None:
    if black >= white:
        raise FormatError(f"{name}: black is {black:g} and white {white:g}; white is the larger")
    check_finite(pixels, 0, name)
    outside = (pixels < black) | (pixels > white)
    bad = outside.reshape(len(pixels), -1).any(1)
    if bad.any():
        row = int(bad.argmax())
        value = pixels[row][outside[row]][0]
        raise FormatError(
            f"{name}: row {row} holds {value:g}, outside [{black:g}, {white:g}]; divide by the "
            "largest value, or say which values are intensities 0 and 1 as read.black and "
            "read.white in a data set card"
        )


def _checked_labels(labels: NDArray[Any], n: int, name: str) -> NDArray[np.int64]:
    """Return (n,) class numbers of labels (n,), (n, 1) or one-hot (n, classes)."""
    flat = np.asarray(labels).reshape(len(labels), -1)
    if flat.dtype.kind not in "biuf":
        raise FormatError(f"{name}: labels of {labels.dtype} are no class numbers; number them")
    if len(flat) != n:
        raise FormatError(f"{name}: {n} images, but labels of shape {labels.shape}")
    if flat.shape[1] > 1:
        if not (np.isin(flat, (0, 1)).all() and (flat.sum(1) == 1).all()):
            raise FormatError(
                f"{name}: {n} images, but labels of shape {labels.shape}, which are not one-hot"
            )
        return np.asarray(flat.argmax(1), np.int64)
    numbers = flat[:, 0].astype(np.float64)
    bad = ~((numbers >= 0) & (numbers == np.round(numbers)))
    if bad.any():
        row = int(bad.argmax())
        raise FormatError(f"{name}: the label of row {row} is {numbers[row]:g}, not a class number")
    return numbers.astype(np.int64)
