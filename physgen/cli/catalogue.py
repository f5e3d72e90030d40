"""Verbs that say what there is: components, recipes, runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from physgen.cli.app import Json, Overrides, Preset, RecipeName, Runs, app
from physgen.console import print_table


@app.command("list")
def list_entries(
    kind: Annotated[
        str,
        typer.Argument(
            help="recipes, comparisons, systems, transforms, surrogates, bijections, methods, "
            "metrics, exporters or plugins."
        ),
    ],
    as_json: Json = False,
) -> None:
    """List recipes, comparisons, what recipes may name (systems, surrogates, ...), and exporters.

    Example: `physgen list recipes`
    """
    from physgen.catalogue import entries

    _print(entries(kind), as_json)


@app.command()
def show(
    recipe: RecipeName,
    overrides: Overrides = None,
    preset: Preset = None,
    as_json: Json = False,
) -> None:
    """Show all values of a recipe, and where each comes from: a file, a preset, a default.

    Example: `physgen show ising-rbm engine.steps=100`
    """
    from physgen.catalogue import settings
    from physgen.overrides import parse_overrides

    _print(settings(recipe, parse_overrides(overrides or []), preset), as_json)


@app.command("runs")
def list_runs(
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """List the runs of a folder, the latest first, with their verdicts.

    Example: `physgen runs`
    """
    from physgen.catalogue import runs_of

    _print(runs_of(runs), as_json)


def _print(rows: Sequence[Any], as_json: bool) -> None:
    records = [asdict(row) for row in rows]
    if as_json:
        typer.echo(json.dumps(records, default=str))
        return
    print_table(records)
