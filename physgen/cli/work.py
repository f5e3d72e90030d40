"""Verbs that do the work: simulate, train, validate, generate, refine."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from physgen.arguments import user_path, whole
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
from physgen.cli.words import Dataset, Extents, Force, Order, by_name, reading, sampling_changes
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
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Train a surrogate, then score it. The same command again resumes where it stopped.

    So does the directory of a run in the place of a recipe.

    Example: `physgen train ising-rbm engine.steps=2000 method.k=10`
    """
    from physgen import pipeline
    from physgen.engine.distributed import launched
    from physgen.overrides import parse_overrides
    from physgen.tracking import sent
    from physgen.tracking.place import shown

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
        if folder.is_dir() and against is None and not configurations_in(folder):
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


@app.command()
def generate(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="HDF5 or ROOT file to write.")],
    n: Annotated[
        str | None, typer.Option("-n", help="How many samples; 1e6 is understood.")
    ] = None,
    seed: int = 1,
    condition: Annotated[
        list[str] | None,
        typer.Option(
            help="One condition for all samples: name=value in the card's units, or a class."
        ),
    ] = None,
    condition_from: Annotated[
        Path | None,
        typer.Option(help="File of whose rows (the first n) the samples have the conditions."),
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.")
    ] = "auto",
    overrides: Set = None,
    uncorrected: Annotated[
        bool,
        typer.Option(
            "--uncorrected", help="The surrogate's own samples with log_weight, not corrected ones."
        ),
    ] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Generate samples into a file. The output depends on the seed only, not on chunks.

    Example: `physgen generate runs/calo-flow/0123456789 -n 1e5 -o showers.hdf5 --seed 7`
    """
    from physgen import pipeline
    from physgen.generation import conditions_of_file
    from physgen.overrides import parse_overrides

    if n is None and condition_from is None:
        raise InputError("-n is missing: how many samples?")
    if condition and condition_from is not None:
        raise InputError("--condition and --condition-from both state conditions; leave one out")
    count = 0 if n is None else whole("n", n)
    changes = sampling_changes(parse_overrides(overrides or []))
    with bars(as_json) as progress:
        sampler = pipeline.load(run, device, sampling=changes, uncorrected=uncorrected, trust=trust)
        given: Any = by_name(condition or []) or None
        if condition_from is not None:
            given = sampler.conditions_in(condition_from)
            count = count or len(given)
            if count > len(given):
                raise InputError(f"-n {count}: {condition_from} has only {len(given)} rows")
            given = given[:count]

        def report_progress(done: int) -> None:
            if progress is not None:
                progress(f"{sampler.facts['recipe']}: generate", done, count, {})

        named = nullcontext() if condition_from is None else conditions_of_file(condition_from)
        with named:
            sampler.write(output, count, seed, given, overwrite=overwrite, progress=report_progress)
    facts = {"file": str(output), "n": count, "seed": seed}
    if outside := sampler.outside_domain(count, given):
        facts["outside_domain"] = outside
    print_mapping(facts, as_json)


@app.command()
def refine(
    run: Annotated[Path, typer.Argument(help="A run directory, of a recipe such as refine-dctr.")],
    file: Annotated[Path, typer.Argument(help="Fast events: ROOT, Parquet, HDF5 or npz.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="File of this format to write.")],
    seed: int = 1,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
    as_json: Json = False,
) -> None:
    """Refine a file of fast events to full ones; old columns stay beside, as NAME_unrefined.

    Example: `physgen refine runs/refine-bridge/0123456789 fast.root -o full.root`
    """
    from physgen import refinement

    with bars(as_json) as progress:
        report = refinement.refine(
            run, file, output, seed=seed, overwrite=overwrite, progress=progress
        )
    print_mapping(report, as_json)


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
