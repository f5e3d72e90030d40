"""How to train on a table: which of its columns, in a command that can be copied."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

FEWEST = 100
"""No training is proposed on fewer rows."""
_COLUMNS = 4
"""So many columns are proposed to train on."""
_NUMBERS = re.compile(r"(index|idx|number|num|id)$", re.IGNORECASE)
"""Integers of such names tell rows apart, and measure nothing."""


def train_on(path: Path, fields: Iterable[str], *further: str) -> str:
    """Return a sentence with the command that trains on columns of a file."""
    words = [f"data.path={path}", *further, f"data.fields={listed(fields)}"]
    command = " ".join(map(shlex.quote, words))
    return f"train on columns of it: physgen train events-flow {command}"


def columns_to_learn(described: Mapping[str, Any], others: set[str]) -> list[str]:
    """Return columns that a surrogate can learn: flat ones, else those of a jagged collection.

    They vary, measure something, and are finite; floating point comes before integers.

    Args:
        described: what inspection says of each column of numbers.
        others: columns that serve another end.
    """
    collections = defaultdict(list)
    flat = []
    counted = {_collection(name).lower() for name, entry in described.items() if "jagged" in entry}
    for name, entry in sorted(described.items(), key=lambda item: "float" not in item[1]["dtype"]):
        varies = entry.get("low", 0) < entry.get("high", 0) and not {"nan", "inf"} & set(entry)
        whole = "int" in entry["dtype"]
        if not varies or name in others or entry["dtype"] == "bool":
            continue
        if whole and (
            _NUMBERS.search(name) or (name.lower()[:1] == "n" and name.lower()[1:] in counted)
        ):
            continue
        if "jagged" not in entry:
            flat.append(name)
        elif entry["jagged"] == "lists" and "." not in name:
            collections[_collection(name)].append(name)
    return (flat or max(collections.values(), key=len, default=[]))[:_COLUMNS]


def listed(names: Iterable[str]) -> str:
    """Write names as a YAML list; a name that YAML would take for something else is quoted."""
    dumped: str = yaml.safe_dump(list(names), default_flow_style=True, width=10**6)
    return dumped.strip().replace(", ", ",")


def _collection(name: str) -> str:
    """Return the word that jagged branches of one collection begin with."""
    return name.partition("_")[0]
