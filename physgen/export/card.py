"""The card of an exported surrogate, `card.json`: all that a host has to know before it calls it.

A host that reads the card needs no knowledge of the training: names, order and units of inputs and
outputs, where they are valid, which noise they take, the geometry of showers, and how far the
samples were found to be right. Its own hash stands in it, as does that of the model beside it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from physgen.errors import CheckpointError
from physgen.io.documents import explain, read_json
from physgen.io.writer import sha256, write_bytes

NAME = "card.json"
VERSION = 2
"""Of what a card says, and how."""

TOLERANCE = 1e-6
"""Rounding by which a condition may exceed its domain, in units of the larger end."""

_OWN_HASH = re.compile(r'("card_sha256": )"[0-9a-f]*"')

Sha256 = Annotated[str, Field(pattern="[0-9a-f]{64}")]


class Part(BaseModel):
    """A part of a card: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Quantity(Part):
    """A physical quantity: its name, unit ("1" for a pure number), and which values it takes."""

    name: str
    unit: str
    domain: str


class Condition(Quantity):
    """A condition, valid from `low` to `high` (`None`: any); a label is one of `labels`."""

    low: float | None
    high: float | None
    labels: tuple[int, ...] | None = None

    @property
    def ends(self) -> tuple[float, float]:
        """What it is valid between, rounding allowed for.

        >>> Condition(name="E", unit="GeV", domain="real", low=None, high=1e6).ends
        (-inf, 1000001.0)
        """
        slack = TOLERANCE * max(abs(self.low or 0.0), abs(self.high or 0.0))
        low = -math.inf if self.low is None else self.low - slack
        return low, math.inf if self.high is None else self.high + slack


class TensorSpec(Part):
    """An input or output of the model.

    Attributes:
        name: in the model.
        role: noise, seed, condition, or vector (noise, then conditions); samples, their mask, or
            which of them are outside the domain.
        dtype: as numpy calls it.
        shape: of one entry of the batch, which comes first.
        axes: what the axes of `shape` count.
        quantities: of the last axis, in its order; one alone is of all entries.
    """

    name: str
    role: Literal["noise", "seed", "condition", "vector", "samples", "mask", "outside"]
    dtype: str
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    quantities: tuple[Quantity, ...] = ()


class Noise(Part):
    """The noise behind a sample.

    Attributes:
        rule: "input": the host gives it; "seed": the model draws it from a seed a sample.
        distribution: of its entries, which are independent.
        shape: of one sample's.
        generator: of the rule "seed".
    """

    rule: Literal["input", "seed"]
    distribution: Literal["standard normal"] = "standard normal"
    shape: tuple[int, ...]
    generator: Literal["Philox4x32-10, Box-Muller"] | None = None


class Layer(Part):
    """A layer of a calorimeter: `n_alpha` sectors of the rings between `r_edges_mm`."""

    id: int
    n_alpha: int
    r_edges_mm: tuple[float, ...]
    first_voxel: int


class Voxels(Part):
    """Where the voxels of a calorimeter are.

    Attributes:
        order: of the voxels of a sample.
        phi_offset_rad: where sector 0 begins.
        placed: whether it is known where they lie; if not, edges are numbers of cells.
        sha256: of ids, edges and sectors, see `physgen.systems.geometry`.
    """

    particle: str
    pdg: int
    order: str = "voxel = first_voxel + i_alpha * n_r + i_r, layers front to back"
    phi_offset_rad: float
    placed: bool
    layers: tuple[Layer, ...]
    sha256: str


class Data(Part):
    """What it was trained on; an absent hash is that of a training without data."""

    name: str | None
    sha256: str | None
    licence: str | None


class Worth(Part):
    """How many true samples the generated ones are worth, N_equiv, as the scorecard has it."""

    name: str
    value: float | None
    error: float | None


class Latency(Part):
    """Milliseconds a sample in torch, when the scorecard was made; `note` says where."""

    batch: int
    ms: float | None
    note: str


class Scores(Part):
    """What validation found of the samples."""

    verdict: Literal["pass", "fail", "info"]
    of: str
    warnings: tuple[str, ...]
    n_equiv: tuple[Worth, ...]
    latency: tuple[Latency, ...]


class Model(Part):
    """The file beside the card.

    Attributes:
        file: its name.
        opset: of ONNX operators.
        parameters: of the surrogate.
        parity: largest difference between torch and onnxruntime in some 257 samples, in units of
            the largest entry.
    """

    file: str
    sha256: Sha256
    opset: int
    parameters: int
    parity: float


class Card(Part):
    """The card of an exported surrogate.

    Attributes:
        version: of the card.
        physgen: which version wrote it.
        recipe, surrogate, sampler: what was trained, and how it is sampled.
        conditions: in the order of the columns of a `vector`, or of the inputs.
        outside_domain: "error": conditions beyond their domain are refused unless the caller allows
            them, and then the output says which these are.
        scores: `None`: the samples were never scored.
        card_sha256: of the card's text with this hash left empty, see `digest`.
    """

    version: Literal[2] = 2
    physgen: str
    recipe: str
    surrogate: str
    sampler: dict[str, Any] | None
    model: Model
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    conditions: tuple[Condition, ...]
    outside_domain: Literal["error"] = "error"
    noise: Noise
    geometry: Voxels | None
    data: Data
    scores: Scores | None
    card_sha256: str = ""


def digest(text: str) -> str:
    """Return the SHA-256 of a card's text, in which its own hash is left empty.

    >>> digest('{"version": 2, "card_sha256": "0a"}') == digest('{"version": 2, "card_sha256": ""}')
    True
    """
    return hashlib.sha256(_OWN_HASH.sub(r'\1""', text).encode()).hexdigest()


def write(folder: Path, card: Card) -> None:
    """Write `card.json` with its hash."""
    content = card.model_dump(mode="json") | {"card_sha256": ""}
    text = json.dumps(content, indent=1) + "\n"
    write_bytes(folder / NAME, _OWN_HASH.sub(rf'\1"{digest(text)}"', text).encode())


def read(folder: Path) -> Card:
    """Read and check `card.json`, and that the model beside it is the one it was written for.

    Raises:
        CheckpointError: card or model is missing, was changed, or is of another version.
    """
    path = folder / NAME
    if not path.exists():
        models = sorted(file.name for file in folder.glob("*.onnx")) if folder.is_dir() else []
        alone = f" beside {models[0]}, whose units and domain only it knows" if models else ""
        raise CheckpointError(
            f"{folder}: no {NAME}{alone}; give a folder that `physgen export --to onnx` wrote, "
            "whole"
        )
    content = read_json(path, CheckpointError)
    if not isinstance(content, dict) or "card_sha256" not in content:
        raise CheckpointError(f"{path} is not the card of an exported surrogate")
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"{path} is of version {content.get('version')!r} of cards, written by physgen "
            f"{content.get('physgen', 'of unknown version')}, and this physgen reads version "
            f"{VERSION}: export again, or use the version that wrote it"
        )
    try:
        card = Card.model_validate(content)
    except ValidationError as error:
        raise CheckpointError(f"{path}: {explain(error, Card)}; export again") from error
    if digest(path.read_bytes().decode()) != card.card_sha256:
        raise CheckpointError(
            f"{path} was changed after it was written (its SHA-256 differs): restore it from a "
            "copy, or export again"
        )
    model = folder / card.model.file
    if Path(card.model.file).name != card.model.file or not model.is_file():
        raise CheckpointError(f"{model} is missing: copy the whole folder, or export again")
    if sha256(model) != card.model.sha256:
        raise CheckpointError(
            f"{model} is not the file its card was written for (SHA-256 differs): it was changed "
            "or damaged; restore it from a copy, or export again"
        )
    return card
