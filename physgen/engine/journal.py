"""The journal of a run: one JSON object a line, appended, never changed.

A line is either a measurement ``{"step", "time", "metrics"}``, of which there is one a step, in
order, or an event ``{"event", "step", "time", ...}`` (start, resume, stop). Times are stamped once,
when the line is written: a tracker that is sent the same line twice stores it once.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from physgen.errors import FormatError

NAME = "journal.jsonl"


class Journal:
    """Writes the journal of a run directory.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> journal = Journal(Path(folder.name))
    >>> journal.measure(50, {"loss": 0.25})
    >>> [(line["step"], line["metrics"]) for line in read(journal.path)]
    [(50, {'loss': 0.25})]
    >>> folder.cleanup()
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / NAME

    def truncate(self, step: int) -> None:
        """Drop measurements after `step`, which a resumed run will make again, and a torn line."""
        if not self.path.exists():
            return
        earlier = [entry for entry in read(self.path) if "event" in entry or entry["step"] <= step]
        part = self.path.with_name(self.path.name + ".part")
        with part.open("w") as file:
            file.writelines(_line(entry) for entry in earlier)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.path)

    def measure(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append the metrics of a step."""
        self._append({"step": step, "time": time.time(), "metrics": dict(metrics)})

    def note(self, event: str, step: int, **details: Any) -> None:
        """Append an event."""
        self._append({"event": event, "step": step, "time": time.time(), **details})

    def sync(self) -> None:
        """Wait until the journal is on the disk."""
        with self.path.open("ab") as file:
            os.fsync(file.fileno())

    def _append(self, entry: dict[str, Any]) -> None:
        # Opened for each line: a single write of a whole line, and no handle to lose.
        with self.path.open("a") as file:
            file.write(_line(entry))


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the entries of a journal; a last line torn by a kill is left out.

    Raises:
        FormatError: a line other than the last is not an entry.
    """
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            entry = json.loads(line)
            if not isinstance(entry, dict) or not isinstance(entry["step"], int):
                raise ValueError("not an entry")
        except (ValueError, KeyError, RecursionError):
            # Only the last line can lack its newline: what follows it is the empty remainder.
            if number == len(lines):
                return
            raise FormatError(
                f"{path}, line {number}: not a journal entry; the file was changed by something "
                "other than physgen (delete the line to go on without it)"
            ) from None
        yield entry


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, separators=(",", ":")) + "\n"
