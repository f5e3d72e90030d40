"""Models in MLflow's registry, by name and alias or version: where their run is on this machine."""

from __future__ import annotations

import atexit
import functools
import os
import re
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from physgen.errors import InputError, PhysgenError, suggest
from physgen.tracking.place import mlflow_settings, shown, sqlite_uri

INSIDE = "artifacts/run"
"""Where a model has the run."""
_SCHEME = re.compile(r"models:/+")
_MODEL = re.compile(r"(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<version>\d+))")


class Registered:
    """A version of a registered model, with the files of its run.

    Those of another machine are copied once, and removed at the end of the process.

    Args:
        model: "models:/NAME@ALIAS" or "models:/NAME/VERSION".
        uri: tracking URI; `None` is MLFLOW_TRACKING_URI, or `runs/mlflow.db` in this folder.

    Attributes:
        run: folder with recipe, weights, card and their hashes.

    Raises:
        InputError: there is no such model, version or alias, or physgen did not make it.
        PhysgenError: the server cannot be reached.

    >>> is_registered("models:/calo-flow@champion"), is_registered("runs/calo-flow/0123456789")
    (True, False)
    """

    def __init__(self, model: str, uri: str | None = None) -> None:
        found = _MODEL.fullmatch(_SCHEME.sub("", model, count=1))
        if found is None:
            raise InputError(f"{model}: write models:/NAME@ALIAS or models:/NAME/VERSION")
        self.model, self.uri = model, uri or _default_uri(model)
        with mlflow_settings(), warnings.catch_warnings(action="ignore", category=UserWarning):
            from mlflow.exceptions import MlflowException

            try:
                folder = self._folder(**found.groupdict())
            except MlflowException as error:
                raise PhysgenError(
                    f"MLflow at {shown(self.uri)} failed: {' '.join(str(error).split())[:300]}"
                ) from error
        self.run = folder / INSIDE
        if not folder.is_dir():
            raise InputError(f"{model}: its files are at {folder}, which is not on this machine")
        if not (self.run / "recipe.yaml").is_file():
            raise InputError(f"{model} was not made by physgen: it has no {INSIDE}/recipe.yaml")

    def _folder(self, name: str, alias: str | None, version: str | None) -> Path:
        """Return where the files of the model are."""
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        number = version or self._version(client, name, alias or "")
        source = self._source(client, name, number)
        if urlparse(source).scheme == "file":
            return Path(unquote(urlparse(source).path))
        return _copied(source, self.uri)

    def _version(self, client: Any, name: str, alias: str) -> str:
        """Return the version that has an alias."""
        from mlflow.exceptions import MlflowException

        try:
            aliases = client.get_registered_model(name).aliases
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            known = [one.name for one in client.search_registered_models(max_results=100)]
            raise InputError(
                f"{self.model}: MLflow at {shown(self.uri)} has no model {name!r}"
                f"{suggest(name, known)}; `physgen track sync RUN` registers one"
            ) from error
        if alias not in aliases:
            raise InputError(
                f"{self.model}: no version of {name!r} has the alias {alias!r}"
                f"{suggest(alias, aliases)}; `physgen track sync RUN --alias {alias}` gives it"
            )
        return str(aliases[alias])

    def _source(self, client: Any, name: str, version: str) -> str:
        """Return the URI of the files of a version."""
        from mlflow.exceptions import MlflowException

        try:
            return str(client.get_model_version_download_uri(name, version))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise InputError(
                f"{self.model}: MLflow at {shown(self.uri)} has no version {version} of {name!r}"
            ) from error


def is_registered(run: str | os.PathLike[str]) -> bool:
    """Return whether this names a registered model, not a folder."""
    return _SCHEME.match(os.fspath(run)) is not None


@functools.cache
def _copied(source: str, uri: str) -> Path:
    """Return a copy of files that never change."""
    from mlflow.artifacts import download_artifacts

    place = tempfile.mkdtemp(prefix="physgen-")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return Path(download_artifacts(source, dst_path=place, tracking_uri=uri))


def _default_uri(model: str) -> str:
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if uri is None and not Path("runs/mlflow.db").is_file():
        raise InputError(
            f"{model}: in which MLflow? There is no runs/mlflow.db here, and MLFLOW_TRACKING_URI "
            "is not set"
        )
    return uri or sqlite_uri(Path("runs/mlflow.db").resolve())
