"""Sends what is new in a run directory to MLflow.

The journal is sent in batches behind a cursor that is stored beside it. Sending a line twice does
no harm, since its time was stamped when it was written and MLflow stores equal points once; a
resumed run measures some steps again, with other times, so steps below the cursor are not sent.
A run that was deleted in MLflow, or whose database is a new one, is sent anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from physgen.engine import journal
from physgen.engine.checkpoint import exclusive
from physgen.errors import CheckpointError, InputError, PhysgenError
from physgen.export import pyfunc
from physgen.io import manifest
from physgen.io.documents import read_json
from physgen.io.writer import atomic, sha256
from physgen.tracking.mirror import Mirror, key_of
from physgen.tracking.place import default_uri, mlflow_settings, shown
from physgen.tracking.results import Results

CURSOR = "tracking.json"
BATCH = 1000
"""Most metrics MLflow takes in one call."""

ARTIFACTS = {
    "recipe.yaml": "",
    "optimisation.yaml": "",
    "result.json": "",
    "provenance.json": "",
    "scorecard.json": "",
    "report.html": "",
    "plots": "plots",
    "surrogate": "surrogate",
    pyfunc.FOLDER: Results.MODEL,
}
"""What is copied to MLflow, where a run has it, and into which folder."""


@dataclass
class Cursor:
    """How far one run has been sent to one server.

    Attributes:
        run_id: of the MLflow run; empty before it exists.
        step: measurements up to it have been sent.
        events: how many of the journal's events have been sent.
        scores: SHA-256 of the scorecard that was sent.
        model: version of the registered model; empty before it exists.
        files: SHA-256 of each artifact as it was last sent.
    """

    run_id: str = ""
    step: int = -1
    events: int = 0
    scores: str = ""
    model: str = ""
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Synced:
    """What a `sync` did.

    Attributes:
        uri: of the server.
        run_id: of the run there.
        measurements, files: how many were new.
        model: the registered model, its version, and the alias it was given.
        note: what was found changed there.
    """

    uri: str
    run_id: str
    measurements: int
    files: int
    model: str = ""
    note: str = ""


def sync(
    directory: Path, uri: str | None = None, *, final: bool = True, alias: str | None = None
) -> Synced:
    """Bring MLflow up to date with a run directory; safe to repeat and to interrupt.

    Args:
        directory: of the run.
        uri: tracking URI; `None` is `default_uri`.
        final: also make, send and register the model of a finished run; while it is still being
            scored that would be too early.
        alias: give the version of the registered model this alias, which another version loses.

    Raises:
        InputError: there is no journal, another process is sending this run, it is not finished and
            there is an alias, or MLflow has no such aliases.
        Deleted: the experiment was deleted in MLflow; the message says how to go on.
        PhysgenError: the server cannot be reached or refuses; nothing is lost, sync again later.
    """
    directory = directory.resolve()
    if not (directory / journal.NAME).exists():
        raise InputError(f"{directory} has no {journal.NAME}: give a run directory of physgen")
    server = uri or default_uri(directory)
    with _one_sender(directory), mlflow_settings():
        try:
            return _Sender(directory, server).send(final, alias)
        except (PhysgenError, KeyboardInterrupt):
            raise
        # Whatever MLflow and the libraries below it raise, which is not one family.
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise PhysgenError(
                f"MLflow at {shown(server)} failed: {reason}; the journal keeps everything, run "
                f"`physgen track sync {directory}` when the server is back"
            ) from error


def sent(directory: Path) -> dict[str, str]:
    """Return the ids of a run's mirrors in MLflow, by tracking URI."""
    cursors = _read_cursors(directory / CURSOR)
    return {uri: cursor.run_id for uri, cursor in cursors.items() if cursor.run_id}


class _Sender:
    def __init__(self, directory: Path, uri: str) -> None:
        from mlflow import MlflowClient

        self.directory, self.uri = directory, uri
        self.client = MlflowClient(tracking_uri=uri)
        self.mirror = Mirror(self.client, uri, directory)
        self.path = directory / CURSOR
        self.cursors = _read_cursors(self.path)
        self.cursor = self.cursors.setdefault(uri, Cursor())

    def send(self, final: bool, alias: str | None) -> Synced:
        entries = list(journal.read(self.directory / journal.NAME))
        note = self._resolve_run(entries)
        measurements = self._measurements(entries)
        self._events([entry for entry in entries if "event" in entry])
        finished = final and (self.directory / manifest.NAME).exists()
        if finished and not pyfunc.is_current(self.directory):
            pyfunc.save(self.directory)
        files = self._files()
        results = Results(self.client, self.directory, self.cursor.run_id)
        scores = results.digest()
        if scores != self.cursor.scores:
            results.send_scores()
            self.cursor.scores = scores
            self._store()
        if alias is not None and not finished:
            raise InputError(
                f"{self.directory} is not a finished run, and has no model for the alias {alias!r}"
            )
        if finished:
            self.cursor.model = results.register(self.cursor.model)
            self._store()
            if alias is not None:
                results.give_alias(self.cursor.model, alias)
        model = f"{results.name}, version {self.cursor.model}" if self.cursor.model else ""
        if model and alias is not None:
            model += f", alias {alias}"
        return Synced(shown(self.uri), self.cursor.run_id, measurements, files, model, note)

    def _resolve_run(self, entries: list[dict[str, Any]]) -> str:
        """Point the cursor to the run there; return what was found changed."""
        known = self.cursor.run_id
        state = self.mirror.state(known) if known else "absent"
        if state == "active":
            return ""
        began = int(1000 * entries[0]["time"]) if entries else None
        run_id = self.mirror.find() or self.mirror.create(began)
        self.cursors[self.uri] = self.cursor = Cursor(run_id)
        self._store()
        if not known:
            return ""
        gone = "was deleted" if state == "deleted" else "is not there any more"
        return f"the run {known} {gone} in MLflow: all was sent anew"

    def _measurements(self, entries: list[dict[str, Any]]) -> int:
        from mlflow.entities import Metric

        new = [e for e in entries if "metrics" in e and e["step"] > self.cursor.step]
        batch: list[Any] = []
        for index, entry in enumerate(new):
            stamp = int(1000 * entry["time"])
            batch += [
                Metric(key_of(name), float(value), stamp, entry["step"])
                for name, value in entry["metrics"].items()
            ]
            following = len(new[index + 1]["metrics"]) if index + 1 < len(new) else BATCH
            # Cut between steps, so that the cursor can be one number.
            if len(batch) + following > BATCH:
                for start in range(0, len(batch), BATCH):
                    self.client.log_batch(self.cursor.run_id, metrics=batch[start : start + BATCH])
                self.cursor.step, batch = entry["step"], []
                self._store()
        return len(new)

    def _events(self, events: list[dict[str, Any]]) -> None:
        if len(events) == self.cursor.events:
            return
        run_id = self.cursor.run_id
        restarts = [event for event in events if event["event"] == "resume"]
        self.client.set_tag(run_id, "physgen.restarts", str(len(restarts)))
        for number, event in enumerate(restarts, start=1):
            self.client.set_tag(run_id, f"physgen.restart.{number}", f"step {event['step']}")
        last = events[-1]
        status = {"finish": "FINISHED", "stop": "KILLED", "fail": "FAILED"}.get(last["event"])
        if status is None:
            self.client.update_run(run_id, status="RUNNING")
        else:
            self.client.set_terminated(run_id, status, int(1000 * last["time"]))
        self.cursor.events = len(events)
        self._store()

    def _files(self) -> int:
        number = 0
        for name, place in ARTIFACTS.items():
            root = self.directory / name
            if not root.exists():
                continue
            result = [p for p in (root.rglob("*") if root.is_dir() else [root]) if p.is_file()]
            for path in sorted(result):
                key = path.relative_to(self.directory).as_posix()
                digest = sha256(path)
                if path.suffix == ".part" or self.cursor.files.get(key) == digest:
                    continue
                inner = path.relative_to(root).parent if root.is_dir() else Path()
                folder = (Path(place) / inner).as_posix()
                self.client.log_artifact(
                    self.cursor.run_id, str(path), None if folder == "." else folder
                )
                self.cursor.files[key] = digest
                self._store()
                number += 1
        return number

    def _store(self) -> None:
        with atomic(self.path, overwrite=True) as part:
            content = {uri: vars(cursor) for uri, cursor in self.cursors.items()}
            part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


@contextmanager
def _one_sender(directory: Path) -> Iterator[None]:
    folder = directory / ".tracking"
    folder.mkdir(exist_ok=True)
    try:
        with exclusive(folder):
            yield
    except CheckpointError as error:
        raise InputError(f"{directory} is being sent to MLflow already; wait for it") from error


def _read_cursors(path: Path) -> dict[str, Cursor]:
    try:
        return {uri: Cursor(**fields) for uri, fields in _read_json(path).items()}
    except TypeError as error:
        raise InputError(
            f"{path} is not a tracking cursor; remove it to send the run anew"
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    result = read_json(path)
    return result if isinstance(result, dict) else {}
