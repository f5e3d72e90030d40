"""Words of the command line that name numbers, or changes to one section of a recipe."""

from __future__ import annotations

from typing import Any

from physgen.errors import InputError


def sampling_changes(changes: dict[str, Any]) -> dict[str, Any]:
    """Return changes to the section `sampling` of a run, without its name."""
    for key in changes:
        if not key.startswith("sampling."):
            raise InputError(
                f"--set {key}: of a trained run only its section sampling may be changed, such as "
                "sampling.sampler.steps=50; train another run for anything else"
            )
    return {key.removeprefix("sampling."): value for key, value in changes.items()}


def numbers(words: list[str]) -> dict[str, float]:
    """Turn `name=value` words into numbers by name."""
    found = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            found[name] = float(value)
        except ValueError as error:
            raise InputError(f"--condition {word}: not of the form name=number") from error
    return found
