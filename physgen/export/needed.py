"""Packages of an optional extra."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from physgen.errors import InputError


def needed(name: str, extra: str = "export") -> ModuleType:
    """Return a package; `InputError` that says how to install it.

    >>> needed("json").__name__
    'json'
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise InputError(
            f"{name} is not installed: `pip install 'physgen[{extra}]'` installs what exporting "
            "and running exported surrogates need"
        ) from error
