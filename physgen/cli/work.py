"""Verbs that do the work: simulate, train, validate."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from physgen.arguments import user_path
from physgen.cli.app import (
    Json,
    Overrides,
    Preset,
    RecipeName,
    Runs,
    Set,
    Trust,
    app,
)
from physgen.cli.words import Dataset, Extents, Force, Order, reading, sampling_changes
from physgen.console import bars, print_mapping, print_ranking, print_scorecards
from physgen.errors import InputError


@app.command()
def simulate(
    recipe: RecipeName,
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write.")],
    overrides: Overrides = None,
    n: Annotated[int, typer.Option("-n", help="How many samples.")] = 10_000,
    seed: int = 1,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
    as_json: Json = False,
) -> None:
    """Simulate samples of a recipe's system with its built-in Monte Carlo, into a file.

    Example: `physgen simulate ising-rbm -n 1000 -o spins.h5 system.temperature=2.5`
    """
    from physgen import simulation
    from physgen.overrides import parse_overrides
    from physgen.recipe import read

    resolved = read(recipe, parse_overrides(overrides or []))
    simulation.simulate(resolved, output, n, seed, overwrite=overwrite)
    print_mapping({"file": str(output), "n": n, "seed": seed}, as_json)


@app.command()
def train(
    recipe: RecipeName,
    overrides: Overrides = None,
    preset: Preset = None,
    runs: Runs = Path("runs"),
    force: Annotated[
        bool, typer.Option(help="Resume although recipe, data or number of processes changed.")
    ] = False,
    score: Annotated[bool, typer.Option(help="Validate after training.")] = True,
    track: Annotated[bool, typer.Option(help="Mirror the run in MLflow.")] = True,
    nproc: Annotated[
        int, typer.Option(help="How many processes share the batches, on this machine.")
    ] = 1,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Train a surrogate, then score it. The same command again resumes where it stopped.

    So does the directory of a run in the place of a recipe.

    Examples: `physgen train ising-rbm engine.steps=2000 method.k=10`,
    `physgen train calo-flow --nproc 2`
    """
    from physgen import pipeline
    from physgen.engine.distributed import launched
    from physgen.overrides import parse_overrides
    from physgen.tracking import sent
    from physgen.tracking.place import shown

    if nproc != 1:
        start_ranks(nproc, recipe, overrides or [], preset)
        return
    try:
        with bars(as_json) as progress:
            run = pipeline.train(
                recipe,
                parse_overrides(overrides or []),
                preset=preset,
                runs=runs,
                force=force,
                score=score,
                track=track,
                trust=trust,
                progress=progress,
            )
    except KeyboardInterrupt as interrupt:
        # Typer ends with exit code 130, without a word.
        typer.secho(str(interrupt), err=True, fg=typer.colors.YELLOW)
        raise
    if not launched().first:
        return  # Of the processes that torchrun started, the first one speaks for all.
    if score:
        print_scorecards({run.recipe.name: run.scorecard}, as_json)
    elif as_json:
        typer.echo(json.dumps({"run": str(run.path)}))
    if not as_json:
        typer.echo(f"run directory: {run.path}")
        for uri, run_id in sent(run.path).items() if track else ():
            typer.echo(f"MLflow: {shown(uri)}, run {run_id}")
        if score:
            typer.echo(f"report: {run.path / 'report.html'}")


def start_ranks(n: int, recipe: str, overrides: list[str], preset: str | None) -> None:
    """Run this very command in `n` processes, without --nproc; a wrong recipe is said once."""
    from physgen.engine.distributed import World
    from physgen.engine.launch import launch
    from physgen.overrides import parse_overrides
    from physgen.recipe import read

    if n > 1 and not user_path(recipe).is_dir():
        World(size=n).slice(read(recipe, parse_overrides(overrides), preset).engine.batch_size)
    words = sys.argv[1:]
    at = next(i for i, word in enumerate(words) if word.partition("=")[0] == "--nproc")
    launch(n, [*words[:at], *words[at + (1 if "=" in words[at] else 2) :]])


@app.command()
def validate(
    targets: Annotated[
        list[Path],
        typer.Argument(
            help="A run directory, a file of generated samples, or an ensemble; several with "
            "--against."
        ),
    ],
    against: Annotated[
        Path | None, typer.Option(help="File of true samples to judge the others by.")
    ] = None,
    binning: Annotated[
        str | None, typer.Option(help="Binning XML of CaloChallenge files, path or name.")
    ] = None,
    system: Annotated[
        str | None, typer.Option(help="Recipe whose system the file belongs to.")
    ] = None,
    training: Annotated[
        Path | None,
        typer.Option(help="File of the rows that generators of files were trained on."),
    ] = None,
    overrides: Set = None,
    preset: Annotated[
        str | None,
        typer.Option(help="Preset of that recipe: reference is the evaluation of CaloChallenge."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Folder for scorecard and report; of several samples, a page (.html) as well; of "
            "a Markov chain, its observables for pyerrors (NAME.json.gz) instead.",
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 unless the verdict is pass.")
    ] = False,
    shape: Extents = None,
    dataset: Dataset = None,
    order: Order = None,
    force: Force = False,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Score a run, files of samples against a file of true ones, or a Markov chain.

    Examples: `physgen validate runs/ising-rbm/0123456789`,
    `physgen validate --against truth.hdf5 generated.hdf5 --binning geometry.xml`,
    `physgen validate a.hdf5 b.hdf5 runs/calo-flow/0123456789 --against truth.hdf5 -o page.html`,
    `physgen validate ensemble.h5`, `physgen validate "cfg/*.ildg"`
    """
    from physgen import pipeline, reports
    from physgen.against import Criteria
    from physgen.io.lattice.folders import configurations_in
    from physgen.io.pyerrors import SUFFIX as PYERRORS
    from physgen.io.shards import may_be_run
    from physgen.overrides import parse_overrides

    changes = parse_overrides(overrides or [])
    changes |= {} if binning is None else {"data.binning": binning}
    how = reading(shape, dataset, order, force)
    criteria = Criteria(
        recipe=system, overrides=changes, preset=preset, training=training, reading=how
    )
    export = output is not None and output.name.endswith(PYERRORS)
    if export and len(targets) > 1:
        raise InputError(f"{output}: pyerrors takes one Markov chain that is analysed alone")
    if len(targets) > 1:
        if against is None:
            raise InputError(
                f"{len(targets)} samples, and no truth to judge them by: add --against FILE, or "
                "validate one after the other"
            )
        with bars(as_json) as progress:
            ranking = reports.side_by_side(
                targets, against, criteria, output=output, trust=trust, progress=progress
            )
        print_ranking(ranking, as_json)
        if output is not None and not as_json:
            page = output if output.suffix == ".html" else output / "report.html"
            typer.echo(f"report: {page}")
        if strict and ranking.verdict != "pass":
            raise typer.Exit(1)
        return
    target = targets[0]
    if training is not None and against is None:
        raise InputError("--training needs --against FILE: true rows that were not trained on")
    with bars(as_json) as progress:
        if preset is not None and against is None:
            raise InputError("--preset chooses metrics of samples --against a file of true ones")
        folder = user_path(target)
        if may_be_run(folder) and against is None and not configurations_in(folder):
            if export:
                raise InputError(
                    f"{output}: pyerrors takes a Markov chain that is analysed alone: name "
                    f"{target / 'samples.h5'}"
                )
            sampling = sampling_changes(changes, how)
            card = pipeline.validate(
                target, sampling=sampling, output=output, trust=trust, progress=progress
            )
            output = output if sampling else user_path(target)
        else:
            card = pipeline.validate_files(
                target, against, criteria, output=output, trust=trust, progress=progress
            )
    print_scorecards({target.name: card}, as_json)
    if output is not None and not as_json:
        typer.echo(f"observables: {output}" if export else f"report: {output / 'report.html'}")
    if strict and card.verdict != "pass":
        raise typer.Exit(1)
