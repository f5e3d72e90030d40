"""The verb that makes of a run what other programs call."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from physgen.cli.app import app
from physgen.console import bars


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write, a new one.")],
    to: Annotated[str, typer.Option(help="What to: see `physgen list exporters`.")] = "onnx",
    noise: Annotated[
        str | None,
        typer.Option(
            help="Of onnx and triton: an input, or drawn inside of a seed a sample (seed)."
        ),
    ] = None,
    single_input: Annotated[
        bool,
        typer.Option(
            "--single-input", help="Of onnx and triton: one vector, noise and conditions."
        ),
    ] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="An option of the target, or of the run's `sampling`: key=value."
        ),
    ] = None,
) -> None:
    """Export a surrogate with its card, which says units, domain and verdict.

    Examples: `physgen export runs/digits-vae/0123456789 --to onnx -o digits-onnx`,
    `physgen export runs/calo-flow/0123456789 --to ddml -o library --set energies=[10000]`
    """
    from physgen.exporting import export as write
    from physgen.overrides import parse_overrides

    options: dict[str, Any] = parse_overrides(overrides or [])
    options |= {} if noise is None else {"noise": noise}
    options |= {"single_input": True} if single_input else {}
    with bars(quiet=False) as progress:
        folder = write(run, to, output, options, progress=progress)
    typer.echo(folder)
