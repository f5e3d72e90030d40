"""Samples of a recipe's system by its built-in Monte Carlo, into a file."""

from __future__ import annotations

import json
import secrets
from os import PathLike

from physgen.arguments import Whole, user_path, whole
from physgen.components import system_of
from physgen.errors import InputError
from physgen.io.writer import refuse_existing
from physgen.isolation import isolated
from physgen.recipe import Recipe
from physgen.systems.base import HasFiles, HasMoreConditions, Simulates
from physgen.version import __version__


@isolated()
def simulate(
    recipe: Recipe,
    output: str | PathLike[str],
    n: Whole,
    seed: Whole,
    *,
    overwrite: bool = False,
) -> None:
    """Write `n` samples of the recipe's system from its built-in Monte Carlo into a file.

    Formats with attributes keep the system, the seed and the version in `physgen_provenance`.

    Raises:
        InputError: an argument cannot be understood, or the system has no simulation.
    """
    output, n, seed = user_path(output), whole("n", n), whole("seed", seed)
    system = system_of(recipe)
    if isinstance(system, HasMoreConditions):
        system = system.with_all_conditions()
    if not isinstance(system, Simulates) or not isinstance(system, HasFiles):
        raise InputError(f"system {recipe.system.kind!r} has no built-in simulation")
    if n < 1:
        raise InputError(f"n = {n}: ask for one sample or more")
    if seed < 0:
        raise InputError(f"seed = {seed}: simulations take seeds from 0 on")
    if output.suffix not in system.suffixes:
        raise InputError(
            f"{output}: samples of {recipe.system.kind} are written as {', '.join(system.suffixes)}"
        )
    refuse_existing(output, overwrite)
    made = recipe.system.model_dump(mode="json")
    provenance = {"physgen": __version__, "system": made, "n": n, "seed": seed}
    # Beside the old file until the new one is complete.
    temporary = output.with_name(f"{output.stem}.{secrets.token_hex(4)}{output.suffix}")
    try:
        with system.writer(temporary, n, {"physgen_provenance": json.dumps(provenance)}) as append:
            append(system.simulate(n, seed))
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)
