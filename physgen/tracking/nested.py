"""Runs of a scan below one run in MLflow, written by a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from physgen.errors import InputError, PhysgenError
from physgen.tracking.mirror import Mirror
from physgen.tracking.place import default_uri, mlflow_settings
from physgen.tracking.sender import sync


def nest_apart(directories: Sequence[Path], facts: Mapping[str, Any]) -> str:
    """Do `nest` in a process of its own; return the id of the parent.

    Raises:
        PhysgenError: MLflow cannot be reached; nothing is lost, do it again later.
    """
    command = [sys.executable, "-P", "-m", "physgen.tracking.nested"]
    given = json.dumps({"directories": [str(one) for one in directories], "facts": dict(facts)})
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    try:
        result = json.loads(done.stdout.splitlines()[-1])
        return str(result["parent"])
    except (IndexError, ValueError, KeyError):
        last = " ".join(done.stderr.splitlines()[-1:])
        raise PhysgenError(f"MLflow was not sent the scan ({last}); run it again later") from None


def nest(directories: Sequence[Path], facts: Mapping[str, Any]) -> str:
    """Send runs to MLflow, and put them below one run that stands for the scan; return its id.

    The same scan has the same parent.

    Args:
        directories: of runs of one recipe.
        facts: of the scan, by name; "scan" tells it from others.
    """
    from mlflow import MlflowClient
    from mlflow.entities import Param

    uri = default_uri(directories[0])
    children = [sync(one, uri).run_id for one in directories]
    with mlflow_settings():
        client = MlflowClient(tracking_uri=uri)
        experiment = Mirror(client, uri, directories[0]).experiment()
        query = f"tags.`physgen.scan` = '{facts['scan']}'"
        found = client.search_runs([experiment], query, max_results=1)
        if found:
            parent = str(found[0].info.run_id)
        else:
            tags = {"physgen.scan": str(facts["scan"])}
            name = f"scan {facts['scan']}"
            run = client.create_run(experiment, tags=tags, run_name=name)
            parent = str(run.info.run_id)
            params = [Param(key, str(value)[:6000]) for key, value in facts.items()]
            client.log_batch(parent, params=params)
        for child in children:
            client.set_tag(child, "mlflow.parentRunId", parent)
        client.set_terminated(parent)
    return parent


def main() -> int:
    """Nest the runs that standard input names, in JSON; print the parent."""
    given = json.loads(sys.stdin.read())
    try:
        parent = nest([Path(one) for one in given["directories"]], given["facts"])
    except (PhysgenError, InputError) as error:
        print(str(error), file=sys.stderr)
        return 1
    print(json.dumps({"parent": parent}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
