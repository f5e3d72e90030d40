"""The card of a surrogate: what it is, in which units, where it is valid, how far to trust it.

A kept surrogate is a folder of two files, `weights.safetensors` and `card.json`; the card names the
SHA-256 of the weights, so that a flipped bit is noticed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from physgen.batch import Schema
from physgen.errors import CheckpointError, InputError, suggest
from physgen.io.documents import read_json
from physgen.io.tensors import read_tensors, write_tensors
from physgen.io.writer import atomic, sha256
from physgen.version import FORMAT, __version__

if TYPE_CHECKING:
    from physgen.surrogates.base import Surrogate

WEIGHTS = "weights.safetensors"
CARD = "card.json"

_DTYPES = ("float32", "float64", "bfloat16", "float16")


def save(surrogate: Surrogate, directory: Path, description: dict[str, Any]) -> None:
    """Write weights and card; `description` holds what it takes to build the surrogate again."""
    directory.mkdir(parents=True, exist_ok=True)
    with atomic(directory / WEIGHTS, overwrite=True) as part:
        write_tensors(part, surrogate.state_dict())
    conditions = surrogate.conditions
    classes = conditions.trained_classes()
    card = {
        **description,
        "physgen": __version__,
        "format": FORMAT,
        "schema": surrogate.schema.to_dict(),
        "dtype": str(surrogate.dtype).removeprefix("torch."),
        "parameters": sum(p.numel() for p in surrogate.parameters()),
        "condition_domain": {
            variable.name: {"unit": variable.unit, "low": low, "high": high}
            | ({"classes": classes[variable.name]} if variable.name in classes else {})
            for variable, low, high in zip(
                conditions.variables, conditions.low.tolist(), conditions.high.tolist(), strict=True
            )
        },
        "columns": surrogate.transform.describe(),
        "weights_sha256": sha256(directory / WEIGHTS),
    }
    write_card(directory, card)


def write_card(directory: Path, card: dict[str, Any]) -> None:
    """Write `card.json`."""
    with atomic(directory / CARD, overwrite=True) as part:
        part.write_text(to_text(card), encoding="utf-8")


def to_text(card: dict[str, Any]) -> str:
    """Return what `write_card` writes."""
    return json.dumps(card, indent=1) + "\n"


def read_card(directory: Path) -> dict[str, Any]:
    """Read `card.json`; `CheckpointError` if there is none or it is not a card."""
    path = directory / CARD
    if not path.exists():
        raise CheckpointError(
            f"{directory}: no {CARD}; give a run directory of `physgen train` whose training has "
            "finished"
        )
    card = read_json(path, CheckpointError)
    if not isinstance(card, dict):
        raise CheckpointError(f"{path} is not the card of a surrogate")
    if card.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} was written by physgen {card.get('physgen', 'of unknown version')} (format "
            f"{card.get('format', 1)} of cards), and this is {__version__} (format {FORMAT}): "
            "train again, or use the version that wrote it"
        )
    for key in ("schema", "dtype", "condition_domain", "weights_sha256"):
        if key not in card:
            raise CheckpointError(f"{path} is not the card of a surrogate: it has no {key!r}")
    if card["dtype"] not in _DTYPES:
        raise CheckpointError(f"{path}: dtype {card['dtype']!r}{suggest(card['dtype'], _DTYPES)}")
    try:
        Schema.from_dict(card["schema"])
    except InputError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return card


def load_weights(surrogate: Surrogate, directory: Path, card: dict[str, Any]) -> None:
    """Load the weights after checking their hash against the card."""
    path = directory / WEIGHTS
    if not path.exists():
        raise CheckpointError(f"{path} is missing: copy the whole folder, or train again")
    if sha256(path) != card["weights_sha256"]:
        raise CheckpointError(
            f"{path} is not the file its card was written for (SHA-256 differs): it was changed or "
            "damaged; restore it from a copy, or train again"
        )
    try:
        surrogate.load_state_dict(read_tensors(path))
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit the surrogate of its card: {error}") from error
