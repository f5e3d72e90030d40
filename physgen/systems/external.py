"""A user's code by its name: a function in a file, one of an installed module, or a command."""

from __future__ import annotations

import hashlib
import importlib
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from physgen.errors import InputError, suggest
from physgen.io.writer import sha256
from physgen.systems.lattice_action import load_function

PLACES = ("{parameters}", "{data}")
"""What a command holds in the place of the file it reads and of that it writes."""


def is_command(name: str) -> bool:
    """Return whether a name is a command that reads and writes files."""
    return any(place in name for place in PLACES)


def external(name: str, key: str) -> tuple[Callable[..., Any], str]:
    """Return a user's function, and the SHA-256 of its code.

    Args:
        name: FILE.py:FUNCTION; MODULE:FUNCTION of what is installed; or a command such as
            "./simulate {parameters} {data} {seed}", which reads rows of parameters and writes a row
            of data for each, numbers with commas.
        key: of the settings that hold the name, for messages.

    Raises:
        InputError: there is no such file, module, function or command.

    >>> function, digest = external("math:hypot", "objective")
    >>> function(3, 4), len(digest)
    (5.0, 64)
    """
    if is_command(name):
        return _command(name, key)
    place, _, function = name.rpartition(":")
    if place.endswith(".py") or not function.isidentifier() or not place:
        return load_function(name, key), sha256(Path(place).expanduser().resolve())
    try:
        module = importlib.import_module(place)
    except Exception as error:
        raise InputError(
            f"{key} {name!r}: {place} cannot be imported ({type(error).__name__}: {error}); name "
            "a file as FILE.py:FUNCTION"
        ) from error
    found = getattr(module, function, None)
    if not callable(found):
        raise InputError(
            f"{key}: {place} has no function {function!r}{suggest(function, dir(module))}"
        )
    file = getattr(module, "__file__", None)
    return found, hashlib.sha256(name.encode()).hexdigest() if file is None else sha256(Path(file))


def _command(name: str, key: str) -> tuple[Callable[..., Any], str]:
    words = shlex.split(name)
    missing = [place for place in PLACES if not any(place in word for word in words)]
    if missing:
        raise InputError(
            f"{key} {name!r}: a command names {' and '.join(PLACES)}; it lacks {missing[0]}"
        )
    code = hashlib.sha256(name.encode())
    for word in words:
        if Path(word).is_file():
            code.update(sha256(Path(word)).encode())

    def run(theta: NDArray[float64], seed: int) -> NDArray[float64]:
        with TemporaryDirectory(prefix="physgen-") as folder:
            given, data = Path(folder, "parameters.csv"), Path(folder, "data.csv")
            np.savetxt(given, theta, delimiter=",", fmt="%.17g")
            values = {"{parameters}": str(given), "{data}": str(data), "{seed}": str(seed)}
            command = [_filled(word, values) for word in words]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(
                    f"exit code {done.returncode}: {' '.join(done.stderr.split()[-40:])}"
                )
            return np.loadtxt(data, delimiter=",", ndmin=2)

    return run, code.hexdigest()


def _filled(word: str, values: dict[str, str]) -> str:
    for place, value in values.items():
        word = word.replace(place, value)
    return word
