"""The run in MLflow that mirrors a run directory: found again by recipe and data, or made anew."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from physgen.errors import InputError
from physgen.io.documents import read_json, read_yaml
from physgen.io.writer import sha256
from physgen.tracking.place import shown


class Deleted(InputError):
    """The experiment was deleted in MLflow, which keeps its name until it is restored or gone."""


class Mirror:
    """Looks for the MLflow run of a directory.

    Args:
        client: an `MlflowClient`.
        uri: what it is connected to.
        directory: of the run.
    """

    def __init__(self, client: Any, uri: str, directory: Path) -> None:
        self.client, self.uri, self.directory = client, uri, directory

    def state(self, run_id: str) -> str:
        """Return "active", "deleted", or "absent" (the database is another, or it was purged)."""
        from mlflow.exceptions import MlflowException

        try:
            return str(self.client.get_run(run_id).info.lifecycle_stage)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return "absent"
            raise

    def find(self) -> str | None:
        """Return the run of this recipe and data, in whatever experiment it is by now."""
        query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in self.tags().items())
        experiments = [one.experiment_id for one in self.client.search_experiments()]
        result = self.client.search_runs(experiments, query, max_results=1) if experiments else []
        return str(result[0].info.run_id) if result else None

    def tags(self) -> dict[str, str]:
        """Return what tells this run from all others: the recipe, and the data."""
        recipe = self._settings()
        data = (self._provenance().get("data") or {}).get("sha256")
        return {
            "physgen.recipe": sha256(recipe)[:16] if recipe.exists() else self._name(),
            "physgen.data": str(data or "none")[:64],
        }

    def create(self, began: int | None) -> str:
        """Make the run, with the settings of the recipe and the data; return its id.

        Args:
            began: when the training did, in ms.
        """
        from mlflow.entities import Param

        recipe = self._settings()
        tags = {
            **self.tags(),
            "physgen.run": self._name(),
            "physgen.version": str(self._provenance().get("physgen", "")),
        }
        run_id = str(
            self.client.create_run(
                self.experiment(), start_time=began, tags=tags, run_name=self.directory.name
            ).info.run_id
        )
        settings = read_yaml(recipe) if recipe.exists() else {}
        # Parameters can never change, so they are sent once, by who makes the run.
        params = [Param(key_of(name), str(value)[:6000]) for name, value in _leaves(settings)]
        for start in range(0, len(params), 100):
            self.client.log_batch(run_id, params=params[start : start + 100])
        self._dataset(run_id, self._provenance().get("data") or {})
        return run_id

    def experiment(self) -> str:
        """Return the experiment of the recipe's name, made if there is none; raises `Deleted`."""
        name = self.directory.parent.name
        result = self.client.get_experiment_by_name(name)
        if result is not None and result.lifecycle_stage == "deleted":
            raise Deleted(
                f"MLflow at {shown(self.uri)}: the experiment {name!r} was deleted, and nothing "
                "can be sent to it; restore it with `mlflow experiments restore --experiment-id "
                f"{result.experiment_id}`, or remove it for good with `mlflow gc`, then run "
                f"`physgen track sync {self.directory}`"
            )
        if result is not None:
            return str(result.experiment_id)
        # A database has no place for files of its own; MLflow would take the working directory.
        artifacts = None
        if self.uri.startswith("sqlite"):
            artifacts = (self.directory.parent.parent / "mlartifacts" / name).as_uri()
        return str(self.client.create_experiment(name, artifact_location=artifacts))

    def _settings(self) -> Path:
        """Return the file of what was asked for: of an optimisation it is no recipe."""
        optimisation = self.directory / "optimisation.yaml"
        return optimisation if optimisation.exists() else self.directory / "recipe.yaml"

    def _name(self) -> str:
        return re.sub(r"[^\w./-]", "_", f"{self.directory.parent.name}/{self.directory.name}")

    def _provenance(self) -> dict[str, Any]:
        path = self.directory / "provenance.json"
        result = read_json(path, InputError) if path.exists() else {}
        return result if isinstance(result, dict) else {}

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


def key_of(name: str) -> str:
    """Replace what MLflow does not allow in a name; long names end in their hash."""
    key = re.sub(r"[^\w./ -]", "_", name)
    return (
        key if len(key) <= 250 else f"{key[:230]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    )


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
