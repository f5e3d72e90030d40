"""Verbs about the mirror of runs in MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from physgen.cli.app import Json, tracking
from physgen.console import print_mapping


@tracking.command()
def sync(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    uri: Annotated[
        str | None, typer.Option(help="Tracking URI; MLFLOW_TRACKING_URI or SQLite if absent.")
    ] = None,
    alias: Annotated[
        str | None, typer.Option(help="Of this version of the model: models:/NAME@ALIAS.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Bring MLflow up to date with a run's journal. Safe to repeat.

    Example: `physgen track sync runs/ising-rbm/0123456789 --alias champion`
    """
    from physgen import pipeline

    print_mapping(pipeline.track(run, uri, alias=alias), as_json)
