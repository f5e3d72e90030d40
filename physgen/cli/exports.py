"""The verb that makes of a run what other programs call."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from physgen.cli.app import Set, app
from physgen.cli.words import sampling_changes


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write, a new one.")],
    to: Annotated[str, typer.Option(help="What to: see `physgen list exporters`.")] = "onnx",
    noise: Annotated[
        str | None,
        typer.Option(help="Of onnx: an input, or drawn inside of one seed a sample (seed)."),
    ] = None,
    single_input: Annotated[
        bool, typer.Option("--single-input", help="Of onnx: one vector, noise then conditions.")
    ] = False,
    overrides: Set = None,
) -> None:
    """Export a surrogate with its card, which says units, domain and verdict.

    Example: `physgen export runs/digits-vae/0123456789 --to onnx -o digits-onnx`
    """
    from physgen.exporting import export as write
    from physgen.overrides import parse_overrides

    options: dict[str, Any] = {} if noise is None else {"noise": noise}
    options |= {"single_input": True} if single_input else {}
    changes = sampling_changes(parse_overrides(overrides or []))
    typer.echo(write(run, to, output, options, sampling=changes))
