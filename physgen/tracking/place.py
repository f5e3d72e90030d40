"""Where the mirror of a run is, and under which of MLflow's settings it is written."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from physgen.isolation import environment


def default_uri(directory: Path) -> str:
    """Return MLFLOW_TRACKING_URI, or a SQLite file in the folder that holds all runs."""
    return os.environ.get("MLFLOW_TRACKING_URI") or sqlite_uri(
        directory.resolve().parent.parent / "mlflow.db"
    )


def sqlite_uri(path: Path) -> str:
    """Return the URI of a database, whatever characters its path has."""
    text = str(path)
    if not re.search(r"[?#%]", text):
        return f"sqlite:///{text}"
    # In the plain form a query would begin at a question mark; SQLite decodes this form itself.
    # Without the name of the driver MLflow would make a folder "file:" where it is called.
    return f"sqlite+pysqlite:///file:{quote(text)}?uri=true"


def shown(uri: str) -> str:
    """Return a URI without the password it may hold."""
    return re.sub(r"//[^/@]*@", "//", uri)


@contextmanager
def mlflow_settings() -> Iterator[None]:
    """Settle what MLflow reads when it is imported and at every request, unless the user did."""
    wanted = {
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    }
    free = {name: value for name, value in wanted.items() if name not in os.environ}
    with environment({"MLFLOW_DISABLE_TELEMETRY": "true", **free}):
        yield
