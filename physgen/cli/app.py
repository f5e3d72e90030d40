"""The application of the command line: options of all verbs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from physgen.version import __version__

app = typer.Typer(
    name="physgen",
    help="From a file of physics samples, or an action, to a validated surrogate.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
tracking = typer.Typer(help="The mirror of runs in MLflow.", no_args_is_help=True)


def _recipes(incomplete: str) -> list[str]:
    """Return the names of shipped recipes that complete a word."""
    from physgen.io.shipped import shipped_recipes

    return [name for name in shipped_recipes() if name.startswith(incomplete)]


RecipeName = Annotated[
    str, typer.Argument(help="Name or file of a recipe.", autocompletion=_recipes)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Runs = Annotated[Path, typer.Option("--runs", help="Folder that holds the run directories.")]
Trust = Annotated[
    bool, typer.Option("--trust", help="Run code that the recipe of somebody's run names.")
]
Preset = Annotated[str | None, typer.Option(help="A preset of the recipe.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Changes to the recipe, such as engine.steps=2000.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Changes to the recipe, key=value; of a run to its `sampling`."),
]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"physgen {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Options of every verb."""
    # `main` reads --debug from the command line, since an error may come before this runs.
