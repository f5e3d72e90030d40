"""Words of the command line: numbers, changes to one section, what is said of configurations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from physgen.errors import InputError

if TYPE_CHECKING:
    from physgen.io.lattice.configuration import Reading

Extents = Annotated[
    str | None,
    typer.Option("--shape", help="Extents of a lattice that its file does not say: t,z,y,x."),
]
Dataset = Annotated[str | None, typer.Option(help="Array that holds the links, in HDF5 or npz.")]
Order = Annotated[
    str | None, typer.Option(help='Its axes, as in "t z y x mu(x y z t) a b"; c: complex parts.')
]
Force = Annotated[
    bool, typer.Option("--force", help="Read gauge configurations whose checks fail, and say so.")
]


def sampling_changes(changes: dict[str, Any], files: Reading | None = None) -> dict[str, Any]:
    """Return changes to the section `sampling` of a run, without its name.

    Raises:
        InputError: there are others, or something is said of the reading of `files`.
    """
    from physgen.io.lattice.configuration import AS_STATED

    if files not in (None, AS_STATED):
        raise InputError(
            "--shape, --dataset, --order and --force are of gauge configurations in files, and "
            "this is a run"
        )
    for key in changes:
        if not key.startswith("sampling."):
            raise InputError(
                f"--set {key}: of a trained run only its section sampling may be changed, such as "
                "sampling.sampler.steps=50; train another run for anything else"
            )
    return {key.removeprefix("sampling."): value for key, value in changes.items()}


def by_name(words: list[str]) -> dict[str, float | str]:
    """Turn `name=value` words into numbers by name, or into names of classes."""
    found: dict[str, float | str] = {}
    for word in words:
        name, _, value = word.partition("=")
        if not value:
            raise InputError(f"--condition {word}: not of the form name=value")
        try:
            found[name] = float(value)
        except ValueError:
            found[name] = value
    return found


def reading(shape: str | None, dataset: str | None, order: str | None, force: bool) -> Reading:
    """Return how gauge configurations are read."""
    from physgen.io.lattice.configuration import Given, Reading

    asked = "4,24,24,24 (t, z, y, x)"
    extents = None if shape is None else whole_numbers(shape, "--shape", asked)
    return Reading(Given(extents, dataset=dataset, order=order), force)


def whole_numbers(text: str, option: str, asked: str) -> tuple[int, ...]:
    """Return positive whole numbers out of a text."""
    words = [word.strip() for word in text.split(",")]
    if all(word.isdigit() and int(word[:9]) > 0 for word in words):
        return tuple(int(word[:9]) for word in words)
    raise InputError(f"{option} {text}: positive numbers are wanted, {asked}")
