"""Data set cards and recipes say the same of what is wrong with them, in one line."""

import numpy as np
import pytest
import yaml

from physgen.components import system_of
from physgen.errors import FormatError, InputError, RecipeError
from physgen.recipe import read
from physgen.systems.events import EventTable

WRONG = {
    "path: 3": r"read\.path = 3: a path, a pattern .* or a list of them is wanted",
    "path: []": r"read\.path = \[\]: a path",
    "path: [a.root, 3]": r"read\.path = .*a\.root', 3\]: a path",
    "tree: [t]": r"read\.tree = \['t'\]: input should be a valid string",
    "weight: [w]": r"read\.weight = \['w'\]: input should be a valid string",
    "group: 3": r"read\.group = 3: a list of names is wanted",
    "group: event": r"read\.group = 'event': a list of names is wanted",
    "group: [[e]]": r"read\.group = .*: a list of names is wanted",
    "fields: 3": r"read\.fields = 3: a list of names, or of mappings such as {name: pt, unit: GeV}",
    "fields: [3]": r"read\.fields = \[3\]: a list of names",
    "fields: [{1: a}]": r"read\.fields = .*: a list of names",
    "fields: [{unit: a}]": r"read\.fields: {'unit': 'a'} has no name",
    "fields: [a, a]": r"read\.fields: 'a' has no name, or one that is taken",
    "fields: [{name: a, unit: 3}]": r"read\.fields: a has unit = 3, which is not text",
    "fields: [{name: a, dtype: O}]": r"read\.fields: a has dtype = 'O'; take one such as float32",
    "fields: [{name: a, dtype: 'f4,f4'}]": r"read\.fields: a has dtype = 'f4,f4'; take one",
    "fields: [{name: a, domain: [1]}]": r"read\.fields: a has domain = \[1\], which is not text",
    "fields: [{name: a, present: 3}]": r"read\.fields: a has present = 3, which is not text",
    "fields: [{name: a, present: b > 1.2.3}]": r"a has present = .*'column >= number'",
    f"fields: [{{name: a, low: 1{400 * '0'}}}]": r"a has low = 10+\.\.\., which is not a number",
    f"fields: [{{name: a, high: 0x{6000 * 'f'}}}]": r"high = a number of thousands of digits",
}


@pytest.mark.parametrize("said", WRONG)
def test_wrong_types_are_said_with_file_and_key(tmp_path, said):
    """In a card and in a recipe alike."""
    given = {"path": "a.h5", "fields": ["a"], **yaml.safe_load(said)}
    card = tmp_path / "card.yaml"
    card.write_text(f"read: {{path: a.h5, fields: [a], {said}}}")
    with pytest.raises(InputError, match=WRONG[said]) as told:
        _ = EventTable(path=str(card)).schema
    assert str(told.value).startswith(f"{card}: read.")
    with pytest.raises(RecipeError, match=WRONG[said].replace("read", "data")):
        _ = system_of(read("events-flow", {f"data.{key}": given[key] for key in given})).schema


def test_files_of_a_card_lie_beside_it_and_have_possible_names(tmp_path):
    for name in ("a.npz", "b.npz"):
        np.savez(tmp_path / name, e=np.ones(3))
    card = tmp_path / "card.yaml"
    card.write_text("read: {path: [a.npz, b.npz], fields: [e]}")
    assert len(EventTable(path=str(card)).open(card)) == 6
    for path in (400 * "a", "a.npz/" * 2000):
        card.write_text(f"read: {{path: [{path}], fields: [e]}}")
        with pytest.raises(FormatError, match=r"card\.yaml: 'a.*: cannot be looked at \(File name"):
            _ = EventTable(path=str(card)).schema
