"""Verbs that make samples of trained runs: generate, infer, refine."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from physgen.arguments import whole
from physgen.cli.app import Json, Set, Trust, app
from physgen.cli.groups import Place, grouped, shard_number
from physgen.cli.words import by_name, sampling_changes
from physgen.console import bars, print_mapping
from physgen.errors import InputError


@app.command()
@grouped
def generate(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="HDF5 or ROOT file to write; a folder, of shards."),
    ],
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
    shards: Annotated[
        int | None, typer.Option(help="Cut the samples in so many files of a folder.")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(help="Write this one alone, a job of its own: 17/1000; they begin at 0."),
    ] = None,
    suffix: Annotated[str, typer.Option(help="Of the files of shards: .h5, .root.")] = "",
    place: Place = Place(),
    overwrite: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Generate samples into a file, or a folder of shards, by any number of processes.

    The output depends on the seed only, not on shards, workers, or what died on the way: the same
    command goes on.

    Examples: `physgen generate runs/calo-flow/0123456789 -n 1e5 -o showers.hdf5 --seed 7`,
    `physgen generate runs/calo-flow/0123456789 -n 1e9 --shards 1000 -o showers --on dask`,
    `physgen generate runs/calo-flow/0123456789 -n 1e9 --shard 17/1000 -o showers`
    """
    from physgen import pipeline
    from physgen.generation import conditions_of_file
    from physgen.overrides import parse_overrides

    if place.shows_job():
        return
    if n is None and condition_from is None:
        raise InputError("-n is missing: how many samples?")
    if condition and condition_from is not None:
        raise InputError("--condition and --condition-from both state conditions; leave one out")
    count = 0 if n is None else whole("n", n)
    changes = sampling_changes(parse_overrides(overrides or []))
    if shards is not None or shard is not None:
        if n is None:
            raise InputError("-n is missing: how many samples are all shards together?")
        number, n_shards = shard_number(shard, shards)
        from physgen.scale.shards import Shards

        parts = Shards(
            run,
            n=count,
            shards=n_shards,
            seed=seed,
            suffix=suffix,
            condition=by_name(condition or []) or None,
            condition_from=condition_from,
            device=device,
            sampling=changes,
            uncorrected=uncorrected,
            trust=trust,
        )
        facts: dict[str, Any] = {"n": count, "seed": seed, "shards": n_shards}
        if number is not None:
            if place.on != "here" or overwrite:
                raise InputError("--shard is a job of its own: leave --on and --overwrite out")
            print_mapping({"file": str(parts.write_one(output, number)), **facts}, as_json)
            return
        with bars(as_json) as progress, place.client() as client:
            stage = f"{run.name}: generate"

            def report_shards(done: int, total: int) -> None:
                if progress is not None:
                    progress(stage, done, total, {})

            parts.write(output, client=client, overwrite=overwrite, progress=report_shards)
        print_mapping({"folder": str(output), **facts}, as_json)
        return
    if place.on != "here" or suffix:
        raise InputError("one file is written by one process: add --shards, or leave --on out")
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
def infer(
    run: Annotated[Path, typer.Argument(help="A run of the system posterior.")],
    observation: Annotated[
        str, typer.Option(help="Numbers with commas; or a file of rows of them (.csv, .h5).")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="HDF5 file of the draws.")],
    n: Annotated[str, typer.Option("-n", help="Draws of the posterior of each.")] = "10000",
    extrapolate: Annotated[
        bool, typer.Option("--extrapolate", help="Accept data outside the simulated range.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Infer the parameters of a simulator from data: draws of the posterior, means, intervals.

    Example: `physgen infer runs/infer-two-moons/0123456789 --observation 0.1,-0.2 -o posterior.h5`
    """
    from physgen.inference import infer as draw
    from physgen.inference import observation_of

    given = observation_of(observation)
    found = draw(run, given, whole("n", n), output, extrapolate=extrapolate)
    print_mapping({"file": str(output), "observations": found}, as_json)
