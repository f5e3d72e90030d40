"""Names of classes: clashes and broken plugins."""

import inspect
from importlib.metadata import EntryPoint

import pytest

from physgen import plugins, registry
from physgen.components import system_of
from physgen.data_sections import Files
from physgen.errors import RecipeError
from physgen.recipe import check


def test_two_packages_with_one_name_clash(monkeypatch):
    points = [EntryPoint("ising", f"{p}:Ising", "physgen.systems") for p in ("one", "two")]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points)
    plugins.claimed.cache_clear()
    try:
        with pytest.raises(RecipeError, match=r"one:Ising.*two:Ising"):
            registry.lookup("systems", "ising")
    finally:
        plugins.claimed.cache_clear()


def test_a_broken_plugin_warns_and_is_named(monkeypatch):
    points = [EntryPoint("odd", "no_such_package:Odd", "physgen.systems")]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points)
    plugins.claimed.cache_clear()
    try:
        with (
            pytest.warns(UserWarning, match="no_such_package"),
            pytest.raises(RecipeError, match="odd"),
        ):
            registry.lookup("systems", "odd")
    finally:
        plugins.claimed.cache_clear()


@pytest.mark.parametrize("kind", sorted(registry.registered("systems")))
def test_what_a_system_is_told_of_files_is_no_option_of_it(kind):
    cls = registry.lookup("systems", kind)
    keys = cls.file_keys
    assert keys <= set(Files.model_fields)
    assert keys <= set(inspect.signature(cls).parameters)
    assert not keys & set(registry.options_model(cls).model_fields)


def test_options_may_be_called_like_keys_of_files():
    """The group of a gauge theory is no column of event numbers."""
    tree = {
        "name": "u1",
        "system": {"kind": "gauge", "group": "SU(2)"},
        "data": {"n": 10},
        "surrogate": {"kind": "pca"},
        "method": {"kind": "maximum-likelihood"},
    }
    assert system_of(check(tree)).group == "SU(2)"
    assert system_of(check(tree | {"data": {"path": "x", "axes": ["time", "chain"]}})).axes
    with pytest.raises(RecipeError, match=r"data.group: files of system 'gauge' are read without"):
        system_of(check(tree | {"data": {"path": "x", "group": ["event"]}}))


def test_a_default_that_is_made_anew_is_shown_as_it_is():
    model = registry.options_model(registry.lookup("metrics", "equivalent-events"))
    assert model().model_dump() == {"bins": 20, "regions": {}}
