r"""Grey images: digits, and whatever else is a picture.

A pixel is an intensity in [0, 1], or 0 or 1 in one of the two ways of binarising: by the threshold
1/2, or dynamically, each pixel being 1 with the probability that is its intensity (Salakhutdinov &
Murray, ICML 2008). The likelihoods of the two are not comparable.

Observables are moments of the intensity, and topology: with white meaning at least 1/2, how many
pieces there are (by edges and corners), which share of the white pixels the largest has, and how
many holes (black regions, by edges, that do not reach the rim).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from physgen.batch import Batch, Schema, Variable
from physgen.errors import FormatError, RecipeError
from physgen.io.writer import Append, hdf5_writer, npz_writer
from physgen.systems.base import Derived
from physgen.systems.image_files import ImageArrays, ImageCard, image_card, read_images

Binarise = Literal["none", "threshold", "dynamic"]


@dataclass(frozen=True, kw_only=True)
class Images:
    """Images of a file.

    Args:
        path: of an IDX, npz or HDF5 file, or of a data set card (YAML, also one that physgen ships,
            by its name: digits.yaml, mnist.yaml), whose section `read` holds the path, and where
            needed `array`, `labels` (an IDX file), `shape`, `classes`, `black` and `white`.
        labels: whether the class of an image is its condition.
        binarise: how pixels become 0 or 1.
        draws: how often an image occurs, each time with other pixels, if binarised dynamically.

    Raises:
        RecipeError: the path is missing, or there are no draws.
        FormatError: the file, or what is in it, is absent or unfit.

    >>> images = Images(path="digits.yaml", labels=True)
    >>> images.schema.shape, images.schema.condition[0].high
    ((8, 8), 9)
    """

    file_keys: ClassVar[frozenset[str]] = frozenset({"path"})

    path: str | None = None
    labels: bool = False
    binarise: Binarise = "none"
    draws: int = 4

    def __post_init__(self) -> None:
        if self.path is not None and not isinstance(self.path, str):
            raise RecipeError(
                "system images: images are read from one file; join them in data.path"
            )
        if self.draws < 1:
            raise RecipeError(f"system.draws = {self.draws}: every image occurs at least once")

    @cached_property
    def schema(self) -> Schema:
        """One intensity a pixel; the label as condition if asked for."""
        card = self._card
        shape = card.shape or self._pictures.pixels.shape[1:]
        domain: Literal["real", "binary"] = "real" if self.binarise == "none" else "binary"
        condition: tuple[Variable, ...] = ()
        if self.labels:
            classes = card.classes or int(_labels_of(self._pictures).max()) + 1
            condition = (Variable("label", domain="integer", low=0, high=classes - 1),)
        pixel = Variable("intensity", domain=domain, low=0, high=1)
        return Schema((int(shape[0]), int(shape[1])), (pixel,), condition)

    @property
    def derived(self) -> Mapping[str, Derived]:
        """Nothing."""
        return {}

    @property
    def units(self) -> Mapping[str, str]:
        """Lengths are in pixels."""
        return dict.fromkeys(("x", "y", "width", "height"), "px")

    def observables(self, batch: Batch) -> dict[str, Tensor]:
        """Return (B,) each, NaN where an image is black.

        "intensity" is the mean, "x" and "y" the centre of mass from the left and the top, "width"
        and "height" the deviations about it, "tilt" their correlation, "edges" the mean difference
        of neighbours; "pieces", "largest piece" and "holes" are as at the module's head.

        >>> ring = torch.zeros(1, 8, 8)
        >>> ring[0, 2:6, 2:6] = 1
        >>> ring[0, 3:5, 3:5] = 0
        >>> values = Images().observables(Batch(ring))
        >>> [int(values[name]) for name in ("pieces", "holes")]
        [1, 1]
        """
        images = batch.x.double().clamp_min(0)
        rows, columns = images.shape[1:]
        y = torch.arange(rows, device=images.device, dtype=images.dtype)
        x = torch.arange(columns, device=images.device, dtype=images.dtype)
        mass = images.sum((1, 2))
        # 0/0 is NaN, which is what a black image has for a centre.
        x_share, y_share = images.sum(1) / mass[:, None], images.sum(2) / mass[:, None]
        x_mean, y_mean = x_share @ x, y_share @ y
        x_off, y_off = x - x_mean[:, None], y - y_mean[:, None]
        width = (x_share * x_off.square()).sum(1).sqrt()
        height = (y_share * y_off.square()).sum(1).sqrt()
        together = torch.einsum("bij,bi,bj->b", images, y_off, x_off) / mass
        edges = images.diff(dim=1).abs().mean((1, 2)) + images.diff(dim=2).abs().mean((1, 2))
        return {
            "intensity": images.mean((1, 2)),
            "x": x_mean,
            "y": y_mean,
            "width": width,
            "height": height,
            "tilt": together / (width * height),
            "edges": edges / 2,
            **_topology(images),
        }

    def features(self, batch: Batch, level: Literal["low", "high"]) -> Tensor:
        """Return the (B, H W) pixels ("low"), or the observables, 0 where undefined ("high")."""
        if level == "low":
            return batch.x.flatten(1)
        return torch.stack(list(self.observables(batch).values()), 1).nan_to_num(0).to(batch.x)

    def labelled(self, n: int) -> tuple[Tensor, Tensor]:
        """Return (n, H, W) images and (n,) labels, evenly from all of the file.

        Raises:
            FormatError: the file holds no labels.
        """
        pictures = self._pictures
        labels = _labels_of(pictures)
        chosen = np.linspace(0, len(labels) - 1, min(n, len(labels))).round().astype(np.int64)
        source = self._source(pictures)
        rows = [source.read(i, i + 1).x for i in chosen.tolist()]
        return torch.cat(rows), torch.from_numpy(labels[chosen])

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Suffixes of the files that `writer` makes."""
        return (".h5", ".hdf5", ".npz")

    def open(self, path: Path) -> ImageSource:
        """Open a file or a card; raises `FormatError` if its images are not of this shape."""
        same = self.path is not None and str(path) == self.path
        source = self._source(self._pictures if same else read_images(image_card(str(path))))
        if self.path is not None and source.schema.shape != self.schema.shape:
            raise FormatError(
                f"{path}: images of {source.schema.shape}, but this system's are of "
                f"{self.schema.shape}; set data.path to the file you mean"
            )
        return source

    def writer(
        self, path: Path, n: int, facts: Mapping[str, Any] | None = None
    ) -> AbstractContextManager[Append]:
        """Write `x` (and labels as `condition`) as HDF5, or npz by the name."""
        if path.suffix == ".npz":
            return npz_writer(path, schema=self.schema, attributes=facts)
        return hdf5_writer(path, schema=self.schema, attributes=facts)

    @cached_property
    def _card(self) -> ImageCard:
        if self.path is None:
            raise RecipeError(
                "system images: say which images in data.path, such as digits.yaml or mnist.yaml"
            )
        return image_card(self.path)

    @cached_property
    def _pictures(self) -> ImageArrays:
        return read_images(self._card)

    def _source(self, pictures: ImageArrays) -> ImageSource:
        """Return pictures as this system sees them."""
        schema = replace(self.schema, shape=pictures.pixels.shape[1:])
        return ImageSource(pictures, schema, binarise=self.binarise, draws=self.draws)


class ImageSource:
    """Pictures as intensities, binarised if asked for.

    Row i of dynamically binarised pictures is draw i // N of picture i mod N, so that the draws of
    one picture lie far apart when blocks of rows are mixed; its pixels follow from i alone.
    Pictures that are black and white already are drawn once.

    Args:
        pictures: what a file holds.
        schema: of the rows.
        binarise, draws: see `Images`.

    Raises:
        FormatError: the schema has labels and the file has none, or has others.
    """

    def __init__(
        self, pictures: ImageArrays, schema: Schema, *, binarise: Binarise, draws: int
    ) -> None:
        self._pictures, self._binarise, self.schema = pictures, binarise, schema
        self.name = pictures.name
        dynamic = binarise == "dynamic" and not pictures.binary
        self.draws = draws if dynamic else 1
        self.block = max(1, 2**22 // (4 * math.prod(schema.shape)))
        if schema.condition:
            high, labels = schema.condition[0].high, _labels_of(pictures)
            if high is not None and labels.max(initial=0) > high:
                raise FormatError(
                    f"{self.name}: the label of row {int(labels.argmax())} is {labels.max()}, but "
                    f"there are classes 0 to {high:g} only"
                )

    def has_labels(self) -> bool:
        """Return whether the file holds the classes of its images, used or not."""
        return self._pictures.labels is not None

    def __len__(self) -> int:
        return len(self._pictures.pixels) * self.draws

    def read(self, start: int, stop: int) -> Batch:
        """Return rows [start, stop), x (B, H, W) float32."""
        numbers = np.arange(start, min(stop, len(self))) % len(self._pictures.pixels)
        x = self._pictures.intensities(numbers)
        if self._binarise == "threshold":
            x = (x >= 0.5).astype(np.float32)
        elif self._binarise == "dynamic":
            x = (_uniform(start, x.shape) < x).astype(np.float32)
        condition = None
        if self.schema.condition:
            condition = torch.from_numpy(_labels_of(self._pictures)[numbers]).float()[:, None]
        weight = self._pictures.weight
        given = None if weight is None else torch.from_numpy(weight[numbers])
        return Batch(torch.from_numpy(x), condition, weight=given)

    def digest(self) -> str:
        """Return the SHA-256 of the pictures, and how they are binarised."""
        how = "" if self._binarise == "none" else f" {self._binarise} {self.draws}"
        return self._pictures.digest() + how

    def keys(self) -> NDArray[np.int64] | None:
        """Return the number of the picture that each row was drawn from, if there are several."""
        n = len(self._pictures.pixels)
        return None if self.draws == 1 else np.arange(len(self), dtype=np.int64) % n


def _uniform(start: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return numbers in [0, 1) for rows `start` and on, which follow from the row alone."""
    size = math.prod(shape[1:])
    # A step of this counter gives four words, so sixteen numbers of 16 bits.
    steps = -(-size // 16)
    words = np.random.Philox(key=0).advance(start * steps).random_raw(shape[0] * steps * 4)
    numbers = words.view(np.uint16).reshape(shape[0], -1)[:, :size].astype(np.float32)
    return numbers.reshape(shape) / np.float32(2**16)


def _labels_of(pictures: ImageArrays) -> NDArray[np.int64]:
    if pictures.fault is not None:
        raise FormatError(pictures.fault)
    if pictures.labels is None:
        raise FormatError(
            f"{pictures.name}: no labels: an IDX file has them in a file beside it, with "
            "labels-idx1 for images-idx3 in its name, or named as read.labels in a card; an npz "
            "has them as `labels`"
        )
    return pictures.labels


def _topology(images: Tensor) -> dict[str, Tensor]:
    """Return pieces, the largest one's share, and holes, of (B, H, W) images."""
    from scipy import ndimage

    white = images.detach().cpu().numpy() >= 0.5
    n = len(white)
    # One call for all images: pieces do not reach from one to the next.
    alone, corners = np.zeros((3, 3, 3)), np.zeros((3, 3, 3))
    corners[1] = 1
    alone[1] = ndimage.generate_binary_structure(2, 1)
    pieces, n_pieces = ndimage.label(white, corners)
    sizes = np.bincount(pieces.ravel(), minlength=n_pieces + 1)[1:]
    image_of = np.zeros(n_pieces, np.int64)
    image_of[pieces[white] - 1] = np.nonzero(white)[0]
    largest = np.zeros(n)
    np.maximum.at(largest, image_of, sizes)
    with np.errstate(invalid="ignore"):
        share = largest / white.sum((1, 2))
    # A rim of black makes one region of all that reaches it.
    black = ~np.pad(white, ((0, 0), (1, 1), (1, 1)))
    regions, n_regions = ndimage.label(black, alone)
    region_of = np.zeros(n_regions, np.int64)
    region_of[regions[black] - 1] = np.nonzero(black)[0]
    result = {
        "pieces": np.bincount(image_of, minlength=n),
        "largest piece": share,
        "holes": np.bincount(region_of, minlength=n) - 1,
    }
    return {name: torch.from_numpy(value).to(images) for name, value in result.items()}
