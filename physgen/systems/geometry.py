"""Voxels of a cylindrical calorimeter, read from and written to CaloChallenge binning files.

Around the direction of the incoming particle each layer is cut into rings of radius r (mm) and
sectors of angle alpha. In the flat order of voxels the radius is fastest, then alpha, then layers:

    index = offset(layer) + i_alpha * n_r(layer) + i_r.

Sector i_alpha of n covers alpha in [-pi + 2 pi i/n, -pi + 2 pi (i + 1)/n). Coordinates of a voxel
are its middle's: eta = r cos(alpha), phi = r sin(alpha), in mm (CaloChallenge, arXiv:2410.21611).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

from physgen.errors import FormatError, InputError
from physgen.io.showers import check_code
from physgen.io.writer import atomic

_LARGEST_FILE = 16 * 2**20
_CELLS = re.compile(r"layers:([1-9]\d{0,3})x([1-9]\d{0,5})")


Coordinate = Literal["eta", "phi", "r"]
COORDINATES: tuple[Coordinate, ...] = get_args(Coordinate)
"""In the plane of a layer: r cos(alpha), r sin(alpha) and r, in mm."""


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
        id: as in the file; ids need not be contiguous.
        r_edges: edges of the rings in mm, ascending from 0.
        n_alpha: how many sectors.
    """

    id: int
    r_edges: tuple[float, ...]
    n_alpha: int

    @property
    def n_r(self) -> int:
        """How many rings."""
        return len(self.r_edges) - 1

    @property
    def n_voxels(self) -> int:
        """How many voxels."""
        return self.n_r * self.n_alpha


@dataclass(frozen=True)
class Geometry:
    """The used layers of a calorimeter, front to back.

    Attributes:
        layers: only those with voxels.
        pid: PDG code of the particle the binning is for.
        name: of that particle.
        eta: (low, high) of the incoming direction, where the file says so.
        unused: ids of the layers without voxels, ascending.
        placed: whether it is known where the voxels lie; if not, edges are numbers of cells.

    >>> from physgen.io.shipped import shipped
    >>> geometry = read_geometry(shipped("datasets", "calo-368.xml"))
    >>> geometry.n_voxels, len(geometry.layers)
    (368, 5)
    """

    layers: tuple[Layer, ...]
    pid: int = 22
    name: str = "photon"
    eta: tuple[float, float] | None = None
    unused: tuple[int, ...] = ()
    placed: bool = True

    @property
    def in_short(self) -> str:
        """Voxels of its layers, such as "8+144+192+12+12", or "45 x 144" where all have as many."""
        sizes = [layer.n_voxels for layer in self.layers]
        return f"{len(sizes)} x {sizes[0]}" if len(set(sizes)) == 1 else "+".join(map(str, sizes))

    @property
    def sha256(self) -> str:
        """Of what says where the voxels lie: ids, edges in mm and sectors of the layers."""
        layers = [[x.id, x.n_alpha, [f"{edge:.9g}" for edge in x.r_edges]] for x in self.layers]
        return hashlib.sha256(json.dumps(layers).encode()).hexdigest()

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """(n_layers + 1,) first voxel of each layer, and the number of voxels."""
        return np.cumsum([0, *(layer.n_voxels for layer in self.layers)])

    @property
    def n_voxels(self) -> int:
        """How many voxels."""
        return int(self.offsets[-1])

    @property
    def grid(self) -> tuple[int, int, int] | None:
        """(layers, sectors, rings) where all layers have as many, else `None`."""
        one = {(layer.n_alpha, layer.n_r) for layer in self.layers}
        return (len(self.layers), *one.pop()) if len(one) == 1 else None

    @cached_property
    def layer(self) -> NDArray[np.int64]:
        """(n_voxels,) position in `layers` of each voxel's layer."""
        return np.repeat(np.arange(len(self.layers)), np.diff(self.offsets))

    @cached_property
    def ring(self) -> NDArray[np.int64]:
        """(n_voxels,) number of each voxel's ring, counted through all layers."""
        first, rings = 0, []
        for layer in self.layers:
            rings.append(first + np.tile(np.arange(layer.n_r), layer.n_alpha))
            first += layer.n_r
        return np.concatenate(rings)

    @cached_property
    def radius(self) -> NDArray[np.float64]:
        """(n_voxels,) middle of each voxel's ring in mm."""
        middles = [(np.array(x.r_edges[1:]) + np.array(x.r_edges[:-1])) / 2 for x in self.layers]
        pairs = zip(middles, self.layers, strict=True)
        return np.concatenate([np.tile(middle, layer.n_alpha) for middle, layer in pairs])

    @cached_property
    def alpha(self) -> NDArray[np.float64]:
        """(n_voxels,) middle of each voxel's sector, in (-pi, pi)."""
        return np.concatenate(
            [
                np.repeat((np.arange(x.n_alpha) + 0.5) * 2 * np.pi / x.n_alpha - np.pi, x.n_r)
                for x in self.layers
            ]
        )

    @cached_property
    def voxel_grid(self) -> NDArray[np.int64]:
        """(layers, sectors, rings) numbers of voxels, -1 beyond the last ring of a layer.

        Of a layer of fewer sectors each stands for those whose middle it holds.
        """
        sectors = max(layer.n_alpha for layer in self.layers)
        rings = max(layer.n_r for layer in self.layers)
        grid = np.full((len(self.layers), sectors, rings), -1, dtype=np.int64)
        middles = (np.arange(sectors) + 0.5) / sectors
        for number, (layer, offset) in enumerate(zip(self.layers, self.offsets, strict=False)):
            alpha = (middles * layer.n_alpha).astype(np.int64)
            numbers = offset + alpha[:, None] * layer.n_r + np.arange(layer.n_r)
            grid[number, :, : layer.n_r] = numbers
        return grid

    def coordinate(self, name: Coordinate) -> NDArray[np.float64]:
        """Return where the voxels are, (n_voxels,) in mm: r cos(alpha), r sin(alpha) or r."""
        if name == "r":
            return self.radius
        return self.radius * (np.cos(self.alpha) if name == "eta" else np.sin(self.alpha))


def cells_in_layers(text: str) -> Geometry | None:
    """Return layers of cells whose places are not known, of a text such as "layers:47x2076".

    >>> geometry = cells_in_layers("layers:47x2076")
    >>> geometry.n_voxels, geometry.placed, cells_in_layers("calo-368.xml")
    (97572, False, None)
    """
    stated = _CELLS.fullmatch(text)
    if stated is None:
        return None
    edges = tuple(float(i) for i in range(int(stated[2]) + 1))
    layers = tuple(Layer(i, edges, 1) for i in range(int(stated[1])))
    return Geometry(layers, name="any particle", placed=False)


def read_geometry(path: Path, particle: str | None = None) -> Geometry:
    """Read the binning of one particle.

    Args:
        path: of the XML file.
        particle: its name, or PDG code in digits; `None` where the file holds one binning only.

    Raises:
        FormatError: not a binning file; file, layer and attribute are named.
        InputError: no such file, or it does not know the particle.
    """
    bins = _bins(Path(path))
    if particle is None and len(bins) == 1:
        return bins[0]
    result = [x for x in bins if particle in (x.name, str(x.pid))]
    if len(result) == 1:
        return result[0]
    known = ", ".join(f"{x.name} ({x.pid})" for x in bins)
    asked = "several particles" if particle is None else f"no single binning for {particle!r}"
    raise InputError(
        f"{path} holds {asked}: there is {known}; set system.particle={bins[0].name} (validate: "
        f"--set system.particle={bins[0].name}, convert: --particle {bins[0].name})"
    )


def write_geometry(path: Path, geometry: Geometry, overwrite: bool = False) -> None:
    """Write a binning file with one particle, atomically.

    Raises:
        InputError: the file exists (unless `overwrite`) or cannot be written.
    """
    root = ElementTree.Element("Bins")
    attributes = {"pid": str(geometry.pid), "name": geometry.name}
    if geometry.eta is not None:
        attributes |= {"etaMin": repr(geometry.eta[0]), "etaMax": repr(geometry.eta[1])}
    node = ElementTree.SubElement(root, "Bin", attributes)
    for layer in _with_unused(geometry):
        edges = ",".join(f"{edge:.17g}" for edge in layer.r_edges)
        ElementTree.SubElement(
            node, "Layer", id=str(layer.id), r_edges=edges, n_bin_alpha=str(layer.n_alpha)
        )
    ElementTree.indent(root)
    with atomic(path, overwrite) as part:
        part.write_bytes(ElementTree.tostring(root, encoding="utf-8") + b"\n")


def _with_unused(geometry: Geometry) -> list[Layer]:
    """Return all layers; the unused ones, which programs that count layers need, by their ids."""
    layers = list(geometry.layers)
    for number in geometry.unused:
        place = next((i for i, x in enumerate(layers) if x.id > number), len(layers))
        layers.insert(place, Layer(number, (0.0,), 1))
    return layers


def _bins(path: Path) -> list[Geometry]:
    root = _parse(path)
    if root.tag != "Bins":
        raise FormatError(f"{path}: the outermost element is <{root.tag}>, expected <Bins>")
    bins = [_bin(node, path) for node in root.findall("Bin")]
    if not bins:
        raise FormatError(f"{path}: <Bins> holds no <Bin>; one per particle is expected")
    return bins


def _parse(path: Path) -> ElementTree.Element:
    """Parse XML that declares no entities (which could read files or fill the memory)."""
    if not path.is_file():
        raise InputError(f"no binning file {path}; give the path of a CaloChallenge binning XML")
    if path.stat().st_size > _LARGEST_FILE:
        raise FormatError(f"{path} is larger than {_LARGEST_FILE // 2**20} MiB: no binning file")
    content = path.read_bytes()

    def refuse(*_: object) -> None:
        raise FormatError(f"{path}: document type declarations are refused; remove <!DOCTYPE ...>")

    check = expat.ParserCreate()
    check.StartDoctypeDeclHandler = refuse
    try:
        check.Parse(content, True)
        return ElementTree.fromstring(content)
    except (expat.ExpatError, ElementTree.ParseError, ValueError) as error:
        raise FormatError(f"{path} is not well-formed XML: {error}") from error


def _bin(node: ElementTree.Element, path: Path) -> Geometry:
    name = node.get("name", "")
    where = f"{path}: <Bin name={name!r}>"
    layers: list[Layer] = []
    unused: list[int] = []
    seen: set[int] = set()
    for child in node.findall("Layer"):
        number = _integer(child, "id", f"{where} <Layer>", 0)
        inside = f"{where} layer {number}"
        if number in seen:
            raise FormatError(f"{inside} appears twice; give each layer its own id")
        seen.add(number)
        edges = _edges(child, inside)
        if edges == (0.0,):
            unused.append(number)
        else:
            layers.append(Layer(number, edges, _integer(child, "n_bin_alpha", inside, 1)))
    if not layers:
        raise FormatError(f"{where} has no layer with voxels; each needs r_edges='0,...'")
    pid = _integer(node, "pid", where, None)
    check_code(f"{where} attribute pid", pid)
    low, high = node.get("etaMin"), node.get("etaMax")
    if low is None or high is None:
        return Geometry(tuple(layers), pid, name, None, tuple(sorted(unused)))
    eta = (_number(low, f"{where} attribute etaMin"), _number(high, f"{where} attribute etaMax"))
    return Geometry(tuple(layers), pid, name, eta, tuple(sorted(unused)))


def _edges(node: ElementTree.Element, where: str) -> tuple[float, ...]:
    where = f"{where} attribute r_edges"
    words = _attribute(node, "r_edges", where).split(",")
    edges = tuple(_number(word, where) for word in words)
    if edges[0] != 0 or any(b <= a for a, b in pairwise(edges)):
        raise FormatError(f"{where}: edges must ascend from 0, not {','.join(words)!r}")
    return edges


def _integer(node: ElementTree.Element, name: str, where: str, low: int | None) -> int:
    text = _attribute(node, name, f"{where} attribute {name}")
    try:
        value = int(text)
    except ValueError:
        raise FormatError(f"{where} attribute {name}: {text!r} is not an integer") from None
    if low is not None and value < low:
        raise FormatError(f"{where} attribute {name}: {value} is less than {low}")
    return value


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise FormatError(f"{where}: {text.strip()!r} is not a finite number")
    return value


def _attribute(node: ElementTree.Element, name: str, where: str) -> str:
    value = node.get(name)
    if value is None:
        raise FormatError(f"{where} is missing")
    return value
