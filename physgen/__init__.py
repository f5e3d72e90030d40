"""physgen: generative surrogates for physics, with error bars."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from physgen.pipeline import generate, load, train, validate

__all__ = ["generate", "load", "train", "validate"]


def __getattr__(name: str) -> Any:
    # Torch is imported by the first use of a verb, so that `import physgen` is cheap.
    if name in __all__:
        return getattr(import_module("physgen.pipeline"), name)
    raise AttributeError(f"module 'physgen' has no attribute {name!r}")
