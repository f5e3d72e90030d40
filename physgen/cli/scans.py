"""Verbs that try many settings: of a recipe, or of a simulator."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from physgen.cli.app import Json, Overrides, Preset, RecipeName, Runs, app
from physgen.cli.groups import Place, grouped
from physgen.console import bars, print_mapping, print_table
from physgen.errors import InputError


@dataclass(frozen=True)
class Search:
    """Which points are trained, and what they are compared by.

    >>> Search().sampler
    'grid'
    """

    sampler: Annotated[
        Literal["grid", "optuna"], typer.Option(help="All points, or those that optuna chooses.")
    ] = "grid"
    points: Annotated[
        int | None, typer.Option(help="How many points optuna chooses; 20 if absent.")
    ] = None
    score: Annotated[
        str | None,
        typer.Option(help="Row of the scorecard to compare; the first with a limit if absent."),
    ] = None
    maximise: Annotated[
        bool, typer.Option("--maximise", help="Of optuna: a larger score is better.")
    ] = False
    preset: Preset = None
    track: Annotated[bool, typer.Option(help="Nest the runs in MLflow.")] = True


@app.command()
@grouped
def scan(
    recipe: RecipeName,
    overrides: Annotated[
        list[str], typer.Argument(help="Keys with the values to try, such as method.k=1,5,20.")
    ],
    search: Search = Search(),
    place: Place = Place(),
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Train and score a recipe at many settings; points that are done are not trained again.

    Keys with one value are set for all points. A point that fails is listed with its error.

    Examples: `physgen scan ising-rbm method.k=1,5,20 surrogate.hidden=64,128 --on dask`,
    `physgen scan digits-vae surrogate.latent=4,8,16 --sampler optuna --points 10 --score FPD`
    """
    from physgen.scale.scan import Scan, described, parse_scan
    from physgen.tracking.nested import nest_apart
    from physgen.validation.table import with_error

    if place.shows_job():
        return
    if search.sampler == "grid" and (search.points is not None or search.maximise):
        raise InputError(
            "--points and --maximise are of --sampler optuna: a grid trains all points"
        )
    values, shared = parse_scan(overrides)
    work = Scan(recipe, values, shared, search.preset, runs, search.score)
    with bars(as_json) as progress, place.client() as client:

        def report(done: int, n: int) -> None:
            if progress is not None:
                progress(f"{recipe}: scan", done, n, {})

        if search.sampler == "grid":
            points = work.train(client=client, progress=report)
        else:
            n = 20 if search.points is None else search.points
            points = work.search(n, maximise=search.maximise, client=client, progress=report)
    done = [Path(point.run) for point in points if not point.failure]
    if search.track and done:
        name = hashlib.sha256(json.dumps([str(recipe), search.preset, *overrides]).encode())
        facts = {"scan": name.hexdigest()[:10], "recipe": recipe, "settings": " ".join(overrides)}
        nest_apart(done, facts)
    if as_json:
        typer.echo(json.dumps(list(described(points))))
    else:
        print_table(
            [
                {
                    **{key: str(value) for key, value in point.settings.items()},
                    "verdict": point.verdict,
                    "score": point.score,
                    "value": with_error(point.value, point.error) if point.score else "",
                    "run": point.failure or point.run,
                }
                for point in points
            ]
        )
    if not done:
        raise InputError("no point of the scan was trained and scored; each says why")


@app.command()
def optimize(
    problem: Annotated[
        str,
        typer.Argument(
            help="three-hump, rosenbrock, submanifold, absorber, or a YAML file of yours.",
            show_default=False,
        ),
    ],
    overrides: Overrides = None,
    preset: Preset = None,
    runs: Runs = Path("runs"),
    track: Annotated[bool, typer.Option(help="Mirror the run in MLflow.")] = True,
    as_json: Json = False,
) -> None:
    """Choose the parameters of a simulator that make an objective small, by local surrogates.

    The same command again goes on where it was stopped; no call of a simulator is paid for twice.

    Examples: `physgen optimize absorber`, `physgen optimize three-hump algorithm=differences`
    """
    from physgen.optimisation.verb import optimize as search
    from physgen.overrides import parse_overrides
    from physgen.validation.table import with_error

    with bars(as_json) as progress:
        optimum = search(
            problem,
            parse_overrides(overrides or []),
            preset=preset,
            runs=runs,
            track=track,
            progress=progress,
        )
    if as_json:
        typer.echo(json.dumps(asdict(optimum)))
        return
    print_mapping(
        {
            "parameters": optimum.parameters,
            "objective, fresh calls": with_error(optimum.objective, optimum.error),
            "objective, as the search believes": with_error(
                optimum.estimated, optimum.estimated_error
            ),
            "calls": optimum.calls + optimum.final_calls,
            "report": str(Path(optimum.run) / "report.html"),
        },
        as_json,
    )
