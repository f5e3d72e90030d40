"""Verbs that describe the machine and files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from physgen.arguments import user_path
from physgen.cli.app import Json, app
from physgen.console import print_mapping


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what this machine is: versions, cores, devices, and what is missing.

    Example: `physgen doctor`
    """
    from physgen.engine.device import describe_machine

    print_mapping(describe_machine(), as_json)


@app.command()
def inspect(files: list[Path], as_json: Json = False) -> None:
    """Say what is in files: format, shapes, units, ranges, and the first problem of each.

    The exit code is 2 if there is a file that cannot be read.

    Example: `physgen inspect events.root`
    """
    from physgen.io.inspect import inspect as describe
    from physgen.io.joined import expand

    paths = [path for file in files for path in expand(user_path(file))]
    reports = {str(path): describe(path) for path in paths}
    print_mapping(reports if len(reports) > 1 else next(iter(reports.values())), as_json)
    if any(report["reader"] in ("no", "refused") for report in reports.values()):
        raise typer.Exit(2)


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
