"""Sends what is new in a run directory to MLflow.

The journal is sent in batches behind a cursor that is stored beside it. Sending a line twice does
no harm, since its time was stamped when it was written and MLflow stores equal points once; a
resumed run measures some steps again, with other times, so steps below the cursor are not sent.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from physgen.engine import journal
from physgen.engine.checkpoint import exclusive
from physgen.errors import CheckpointError, InputError, PhysgenError
from physgen.io.documents import read_json, read_yaml
from physgen.io.writer import atomic, sha256

CURSOR = "tracking.json"
BATCH = 1000
"""Most metrics MLflow takes in one call."""

ARTIFACTS = (
    "recipe.yaml",
    "provenance.json",
    "scorecard.json",
    "report.html",
    "plots",
    "surrogate",
)
"""What is copied to MLflow, where a run has it."""

PYFUNC = "export/pyfunc"
"""Where a run keeps its surrogate as an MLflow model; copied as the model `surrogate-pyfunc`."""


@dataclass
class Cursor:
    """How far one run has been sent to one server.

    Attributes:
        run_id: of the MLflow run; empty before it exists.
        step: measurements up to it have been sent.
        events: how many of the journal's events have been sent.
        files: SHA-256 of each artifact as it was last sent.
    """

    run_id: str = ""
    step: int = -1
    events: int = 0
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Synced:
    """What a `sync` did: the server, the run there, and how much was new."""

    uri: str
    run_id: str
    measurements: int
    files: int


def default_uri(directory: Path) -> str:
    """Return MLFLOW_TRACKING_URI, or a SQLite file in the folder that holds all runs."""
    runs = directory.resolve().parent.parent
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{runs / 'mlflow.db'}"


def sync(directory: Path, uri: str | None = None) -> Synced:
    """Bring MLflow up to date with a run directory; safe to repeat and to interrupt.

    Args:
        directory: of the run.
        uri: tracking URI; `None` is `default_uri`.

    Raises:
        InputError: there is no journal, or another process is sending this run.
        PhysgenError: the server cannot be reached or refuses; nothing is lost, sync again later.
    """
    directory = directory.resolve()
    if not (directory / journal.NAME).exists():
        raise InputError(f"{directory} has no {journal.NAME}: give a run directory of physgen")
    server = uri or default_uri(directory)
    with _one_sender(directory):
        try:
            return _Sender(directory, server).send()
        except (PhysgenError, KeyboardInterrupt):
            raise
        # Whatever MLflow and the libraries below it raise, which is not one family.
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise PhysgenError(
                f"MLflow at {server} failed: {reason}; the journal keeps everything, run "
                f"`physgen track sync {directory}` when the server is back"
            ) from error


class _Sender:
    def __init__(self, directory: Path, uri: str) -> None:
        # These are read when MLflow is imported.
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        from mlflow import MlflowClient

        self.directory, self.uri = directory, uri
        self.client = MlflowClient(tracking_uri=uri)
        self.path = directory / CURSOR
        self.cursors = _read_cursors(self.path)
        self.cursor = self.cursors.setdefault(uri, Cursor())

    def send(self) -> Synced:
        entries = list(journal.read(self.directory / journal.NAME))
        if not self.cursor.run_id or not self._exists(self.cursor.run_id):
            self.cursors[self.uri] = self.cursor = Cursor(self._find() or self._create(entries))
            self._store()
        measurements = self._measurements(entries)
        self._events([entry for entry in entries if "event" in entry])
        return Synced(self.uri, self.cursor.run_id, measurements, self._files())

    def _exists(self, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        return True

    def _find(self) -> str | None:
        """Return the run that an earlier sender made but did not live to write down."""
        found = self.client.search_runs(
            [self._experiment()], f"tags.`physgen.run` = '{self._name()}'", max_results=1
        )
        return str(found[0].info.run_id) if found else None

    def _experiment(self) -> str:
        name = self.directory.parent.name
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        # A database has no place for files of its own; MLflow would take the working directory.
        artifacts = None
        if self.uri.startswith("sqlite:"):
            artifacts = (self.directory.parent.parent / "mlartifacts" / name).as_uri()
        return str(self.client.create_experiment(name, artifact_location=artifacts))

    def _name(self) -> str:
        return re.sub(r"[^\w./-]", "_", f"{self.directory.parent.name}/{self.directory.name}")

    def _create(self, entries: list[dict[str, Any]]) -> str:
        from mlflow.entities import Param

        provenance = _read_json(self.directory / "provenance.json")
        began = int(1000 * entries[0]["time"]) if entries else None
        tags = {"physgen.run": self._name(), "physgen.version": str(provenance.get("physgen", ""))}
        run_id = str(
            self.client.create_run(
                self._experiment(), start_time=began, tags=tags, run_name=self.directory.name
            ).info.run_id
        )
        recipe = self.directory / "recipe.yaml"
        settings = read_yaml(recipe) if recipe.exists() else {}
        # Parameters can never change, so they are sent once, by who makes the run.
        params = [Param(_key(name), str(value)[:6000]) for name, value in _leaves(settings)]
        for start in range(0, len(params), 100):
            self.client.log_batch(run_id, params=params[start : start + 100])
        self._dataset(run_id, provenance.get("data") or {})
        return run_id

    def _dataset(self, run_id: str, data: Mapping[str, Any]) -> None:
        if not data.get("sha256"):
            return
        from mlflow.entities import Dataset, DatasetInput, InputTag

        name = str(data.get("name", "data"))
        dataset = Dataset(
            name=Path(name).name[:500],
            # MLflow's digests are at most 36 characters.
            digest=str(data["sha256"])[:36],
            source_type="local",
            source=json.dumps({"uri": name}),
            profile=json.dumps({"rows": data.get("rows"), "sha256": data["sha256"]}),
        )
        context = InputTag("mlflow.data.context", "training")
        self.client.log_inputs(run_id, [DatasetInput(dataset, [context])])

    def _measurements(self, entries: list[dict[str, Any]]) -> int:
        from mlflow.entities import Metric

        new = [e for e in entries if "metrics" in e and e["step"] > self.cursor.step]
        batch: list[Any] = []
        for index, entry in enumerate(new):
            stamp = int(1000 * entry["time"])
            batch += [
                Metric(_key(name), float(value), stamp, entry["step"])
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
        sent = 0
        places = [(name, None) for name in ARTIFACTS] + [(PYFUNC, "surrogate-pyfunc")]
        for name, target in places:
            root = self.directory / name
            if not root.exists():
                continue
            found = [p for p in (root.rglob("*") if root.is_dir() else [root]) if p.is_file()]
            for path in sorted(found):
                key = path.relative_to(self.directory).as_posix()
                digest = sha256(path)
                if path.suffix == ".part" or self.cursor.files.get(key) == digest:
                    continue
                inner = path.relative_to(root).parent if root.is_dir() else Path()
                folder = (Path(target or name) if root.is_dir() else Path()) / inner
                place = None if folder == Path() else folder.as_posix()
                self.client.log_artifact(self.cursor.run_id, str(path), place)
                self.cursor.files[key] = digest
                self._store()
                sent += 1
        return sent

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
    found = read_json(path)
    return found if isinstance(found, dict) else {}


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted names and values of a recipe."""
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(tree, list) and any(isinstance(value, Mapping) for value in tree):
        for index, value in enumerate(tree):
            yield from _leaves(value, f"{prefix}.{index}")
    elif prefix:
        yield prefix, tree


def _key(name: str) -> str:
    """Replace what MLflow does not allow in a name."""
    return re.sub(r"[^\w./ -]", "_", name)[:250]
