"""Verbs that write one page of several runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from physgen.cli.app import Json, Runs, app
from physgen.console import bars, print_mapping, print_scorecards


@app.command()
def report(
    scored: Annotated[list[Path], typer.Argument(help="Run directories.")],
    output: Annotated[Path, typer.Option("-o", "--output")] = Path("report.html"),
    as_json: Json = False,
) -> None:
    """Write one offline HTML page for scored runs.

    Example: `physgen report runs/*/* -o report.html`
    """
    from physgen import reports

    print_mapping({"report": str(reports.report(scored, output))}, as_json)


@app.command()
def compare(
    name: Annotated[
        str,
        typer.Argument(
            help="digits, ising, potts, calo, jets, lattice, or a YAML file that lists recipes.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The page; NAME.html by default.")
    ] = None,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Train recipes, or load what is trained, and set them side by side on one page.

    Families on the same data by their scores; lattice theories by what an independent
    configuration costs, beside Monte Carlo. `physgen list comparisons` has their titles.

    Examples: `physgen compare digits`, `physgen compare lattice -o costs.html`
    """
    from physgen import reports

    page = output or Path(f"{Path(name).stem}.html")
    with bars(as_json) as progress:
        report, table = reports.compare(name, page, runs=runs, progress=progress)
    print_mapping({"report": str(report), "table": str(table)}, as_json)


@app.command()
def quickstart(
    runs: Runs = Path("runs"),
    full: Annotated[bool, typer.Option(help="The full budget instead of the small one.")] = False,
    as_json: Json = False,
) -> None:
    """Run the four pipelines: spins, a lattice, a calorimeter, collision events.

    Example: `physgen quickstart`
    """
    from physgen import reports

    with bars(as_json) as progress:
        finished, page = reports.quickstart(runs, full=full, progress=progress)
    if as_json:
        scores = {run.recipe.name: json.loads(run.scorecard.to_json()) for run in finished}
        typer.echo(json.dumps({"report": str(page), "scorecards": scores}))
        return
    print_scorecards({run.recipe.name: run.scorecard for run in finished}, as_json=False)
    typer.echo(f"report: {page}")
