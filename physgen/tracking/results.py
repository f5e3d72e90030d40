"""What a run came to, in MLflow: scores as metrics, verdict and warnings as tags, and the model."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, ClassVar

from physgen.errors import InputError
from physgen.tracking.mirror import key_of
from physgen.validation.scorecard import Scorecard

SCORECARD = "scorecard.json"
VERDICT = "physgen.verdict"
WARNINGS = "physgen.warnings"
"""Tags of the run and of the version of the model."""
_LONGEST = 5000
"""Characters of a tag, of which MLflow's stores allow as many."""


class Results:
    """Sends the scores of a run, and registers its model.

    Args:
        client: an `MlflowClient`.
        directory: of the run.
        run_id: of its mirror.
    """

    MODEL: ClassVar[str] = "surrogate-pyfunc"
    """Folder of the model among the artifacts of the run."""

    def __init__(self, client: Any, directory: Path, run_id: str) -> None:
        self.client, self.directory, self.run_id = client, directory, run_id
        # What MLflow does not allow in the name of a registered model.
        self.name = re.sub(r"[/:.%\"']", "-", directory.parent.name)

    def digest(self) -> str:
        """Return the SHA-256 of the scorecard; empty if there is none."""
        path = self.directory / SCORECARD
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""

    def send_scores(self) -> None:
        """Send value, error and pull of every row, the verdict, and what is a warning."""
        from mlflow.entities import Metric

        path = self.directory / SCORECARD
        if not path.exists():
            return
        card = Scorecard.from_json(path.read_text(encoding="utf-8"))
        stamp = int(1000 * path.stat().st_mtime)
        numbers = {
            f"scores/{row.name}{suffix}": value
            for row in card.rows
            for suffix, value in (("", row.value), ("/error", row.error), ("/pull", row.pull))
            if value is not None
        }
        metrics = [Metric(key_of(name), value, stamp, 0) for name, value in numbers.items()]
        for start in range(0, len(metrics), 1000):
            self.client.log_batch(self.run_id, metrics=metrics[start : start + 1000])
        self.client.set_tag(self.run_id, VERDICT, card.verdict)
        self.client.set_tag(self.run_id, WARNINGS, "\n".join(card.warnings)[:_LONGEST])

    def register(self, version: str) -> str:
        """Register the model of this run once, with its verdict and warnings; return its version.

        Args:
            version: that an earlier call returned.
        """
        from mlflow.exceptions import MlflowException

        run = self.client.get_run(self.run_id)
        if not version:
            try:
                self.client.create_registered_model(self.name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            result = self.client.search_model_versions(f"run_id = '{self.run_id}'")
            version = str(result[0].version if result else self._create(run.info.artifact_uri))
        for tag in (VERDICT, WARNINGS):
            if tag in run.data.tags:
                self.client.set_model_version_tag(self.name, version, tag, run.data.tags[tag])
        return version

    def give_alias(self, version: str, alias: str) -> None:
        """Let an alias stand for a version; `InputError` if MLflow has no such aliases."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.set_registered_model_alias(self.name, alias, version)
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            raise InputError(f"alias {alias!r}: {error.message}") from error

    def _create(self, artifacts: str) -> str:
        made = self.client.create_model_version(
            self.name, f"{artifacts}/{self.MODEL}", run_id=self.run_id, await_creation_for=0
        )
        return str(made.version)
