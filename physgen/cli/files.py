"""Verbs that describe the machine and files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from physgen.arguments import user_path
from physgen.cli.app import Json, app
from physgen.cli.words import Dataset, Extents, Force, Order, reading, whole_numbers
from physgen.console import print_mapping
from physgen.errors import InputError


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what this machine is: versions, cores, devices, extras and plugins, and what to mend.

    Example: `physgen doctor`
    """
    from physgen.installation import describe

    facts = describe()
    if not as_json:
        # What is empty would not be shown: that there is none is an answer here.
        facts |= {name: facts[name] or "none" for name in ("devices", "plugins")}
    print_mapping(facts, as_json)


@app.command()
def inspect(
    files: list[Path],
    shape: Extents = None,
    dataset: Dataset = None,
    order: Order = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Say what is in files: format, shapes, units, ranges, and the first problem of each.

    A folder, or several files, of gauge configurations are described as one ensemble. The exit code
    is 2 if there is a file that cannot be read.

    Examples: `physgen inspect events.root`, `physgen inspect "cfg/*.ildg"`
    """
    from physgen.io.inspect import inspect_all
    from physgen.io.joined import expand

    paths = [path for file in files for path in expand(user_path(file))]
    how = reading(shape, dataset, order, force)
    asked = str(files[0]) if len(files) == 1 else None
    reports = inspect_all(paths, how.given, force=how.force, asked=asked)
    print_mapping(reports if len(reports) > 1 else next(iter(reports.values())), as_json)
    if any(report["reader"] in ("no", "refused") for report in reports.values()):
        raise typer.Exit(2)


@app.command()
def convert(
    source: Annotated[
        Path, typer.Argument(help="File of showers or of gauge configurations, or a pattern.")
    ],
    output: Annotated[Path, typer.Argument(help="File to write.")],
    to: Annotated[
        str | None, typer.Option(help="Its layout, where the ending does not tell.")
    ] = None,
    binning: Annotated[
        str | None,
        typer.Option(help="Binning XML, path or name, by which voxels and points are converted."),
    ] = None,
    particle: Annotated[
        str | None, typer.Option(help="Which particle's binning, where there are several.")
    ] = None,
    cells: Annotated[
        str | None, typer.Option(help="Grid of cells to write: layers, in y, in x; 30,30,49.")
    ] = None,
    cell_mm: Annotated[float, typer.Option(help="How large these cells are.")] = 5.088333,
    precision: Annotated[
        int | None, typer.Option(help="Bits of the numbers of gauge configurations, 32 or 64.")
    ] = None,
    shape: Extents = None,
    dataset: Dataset = None,
    order: Order = None,
    force: Force = False,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
    as_json: Json = False,
) -> None:
    """Write showers or gauge configurations in another layout; say what is lost.

    Examples: `physgen convert showers.hdf5 points.h5 --to showerdata --binning geometry.xml`,
    `physgen convert a.nersc b.ildg`, `physgen convert "cfg/*.lime" ensemble.h5`
    """
    from physgen.conversion import ShowerOptions
    from physgen.conversion import convert as run
    from physgen.io.lattice.conversion import ConfigurationOptions
    from physgen.systems.voxelisation import Cells

    grid = None if cells is None else Cells(*_three(cells), cell_mm)
    how = reading(shape, dataset, order, force)
    report = run(
        source,
        output,
        to=to,
        showers=ShowerOptions(binning, particle, grid),
        configurations=ConfigurationOptions(_bits(precision), how.given, how.force),
        overwrite=overwrite,
    )
    print_mapping(report, as_json)


def _bits(precision: int | None) -> Literal[32, 64] | None:
    if precision not in (None, 32, 64):
        raise InputError(f"--precision {precision}: 32 or 64 bits are written")
    return {32: 32, 64: 64}.get(precision or 0)  # type: ignore[return-value]


def _three(text: str) -> tuple[int, int, int]:
    """Return three positive numbers out of a text."""
    asked = "30,30,49 (layers, in y, in x)"
    numbers = whole_numbers(text, "--cells", asked)
    if len(numbers) != 3:
        raise InputError(f"--cells {text}: three numbers are wanted, {asked}")
    return numbers[0], numbers[1], numbers[2]


@app.command()
def fetch(
    name: Annotated[Literal["mnist"], typer.Argument(help="Which data set.")],
    as_json: Json = False,
) -> None:
    """Get a data set that physgen does not ship, check its hash, and keep it.

    Example: `physgen fetch mnist`
    """
    from physgen.io.fetch import MNIST_NOTICE, fetch_mnist

    print_mapping({"data set": name, "file": str(fetch_mnist()), "note": MNIST_NOTICE}, as_json)
