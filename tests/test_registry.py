"""Names of classes: clashes and broken plugins."""

from importlib.metadata import EntryPoint

import pytest

from physgen import registry
from physgen.errors import RecipeError


def test_two_packages_with_one_name_clash(monkeypatch):
    points = [EntryPoint("ising", f"{p}:Ising", "physgen.systems") for p in ("one", "two")]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    registry.registered.cache_clear()
    try:
        with pytest.raises(RecipeError, match=r"one:Ising.*two:Ising"):
            registry.registered("systems")
    finally:
        registry.registered.cache_clear()


def test_a_broken_plugin_warns_and_is_named(monkeypatch):
    points = [EntryPoint("odd", "no_such_package:Odd", "physgen.systems")]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    registry.registered.cache_clear()
    try:
        with (
            pytest.warns(UserWarning, match="no_such_package"),
            pytest.raises(RecipeError, match="odd"),
        ):
            registry.lookup("systems", "odd")
    finally:
        registry.registered.cache_clear()
