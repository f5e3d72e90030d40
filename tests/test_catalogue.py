"""What there is, and where the values of a recipe come from."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from physgen import catalogue, pipeline, recipe
from physgen.cli import app
from physgen.comparing import comparisons
from physgen.errors import InputError
from physgen.io.shipped import shipped_recipes
from physgen.registry import registered
from physgen.version import __version__

MAIN = "from physgen.cli import main; main()"
TINY = {
    "system.shape": [4, 4],
    "data.n": 200,
    "engine.steps": 3,
    "engine.batch_size": 50,
    "sampling.n": 512,
    "validation.metrics": [{"kind": "means"}],
}


def run(*words):
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    return result.output


def origins(name, **given):
    return {one.key: (one.value, one.origin) for one in catalogue.settings(name, **given)}


def test_values_come_from_base_recipe_preset_override_or_default():
    found = origins("digits-gan", preset="quickstart", overrides={"method.r1": 2.0})
    assert found["data.path"] == ("digits.yaml", "base.yaml")
    assert found["engine.ema"] == (0.998, "digits-gan.yaml")
    assert found["engine.steps"] == (700, "preset quickstart")
    assert found["method.r1"] == (2.0, "override")
    assert found["method.n_critic"] == (2, "default")
    assert found["engine.seed"] == (0, "default")
    assert found["transform.1.kind"] == ("rescale", "base.yaml")
    assert "engine.clip" not in found, "the recipe removes that of its base"


@pytest.mark.parametrize("name", shipped_recipes())
def test_what_is_shown_is_what_is_read(name):
    """All that the resolved recipe holds is shown, with the values it has."""
    shown = origins(name)
    resolved = json.loads(recipe.read(name).model_dump_json(exclude_none=True))
    for key, value in catalogue._leaves(resolved):
        if key != "summary" and value != []:
            assert shown[key][0] == value, key


@pytest.mark.parametrize("kind", ["systems", "transforms", "surrogates", "methods", "metrics"])
def test_all_that_is_registered_is_listed_and_said_in_a_line(kind):
    found = {entry.name: entry for entry in catalogue.entries(kind)}
    assert set(found) == set(registered(kind))
    assert all(entry.about.endswith(".") for entry in found.values())
    assert f'"name": "{min(found)}"' in run("list", kind, "--json")


def test_comparisons_are_listed_and_named_by_the_help():
    listed = catalogue.entries("comparisons")
    assert [entry.name for entry in listed] == comparisons()
    assert {"ising": "Families on the Ising model"}.items() <= {
        e.name: e.about for e in listed
    }.items()
    shown = run("compare", "--help")
    assert all(name in shown for name in comparisons())


def test_recipes_and_plugins_are_listed():
    assert [entry.name for entry in catalogue.entries("recipes")] == list(shipped_recipes())
    assert catalogue.entries("plugins") == []
    assert run("list", "plugins") == "none\n"
    with pytest.raises(InputError, match="did you mean 'surrogates'"):
        catalogue.entries("surogates")


def test_runs_are_listed_with_their_verdicts_and_damaged_ones_say_so(tmp_path):
    scored = pipeline.train("ising-rbm", TINY, runs=tmp_path, track=False)
    trained = pipeline.train(
        "ising-rbm", TINY | {"engine.seed": 2}, runs=tmp_path, track=False, score=False
    )
    damaged = pipeline.train("ising-rbm", TINY | {"engine.seed": 3}, runs=tmp_path, track=False)
    (damaged.path / "scorecard.json").write_text("{}")
    found = {entry.run: entry for entry in catalogue.runs_of(tmp_path)}
    assert found[str(scored.path)].verdict == scored.scorecard.verdict
    assert found[str(scored.path)].state == "scored"
    assert found[str(trained.path)].state == "trained"
    assert found[str(damaged.path)].state.startswith("damaged: ")
    shown = run("runs", "--runs", str(tmp_path))
    assert str(scored.path) in shown
    assert shown.splitlines()[0].split() == ["recipe", "since", "state", "verdict", "run"]
    with pytest.raises(InputError, match="is not a folder"):
        catalogue.runs_of(tmp_path / "absent")


def test_the_command_line_says_its_version_and_completes_recipes():
    assert run("--version") == f"physgen {__version__}\n"
    assert "digits-gan" in run("show", "digits-gan")
    environment = {"_PHYSGEN_COMPLETE": "complete_bash", "COMP_CWORD": "2"}
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv = ['physgen']; " + MAIN],
        env={"COMP_WORDS": "physgen train phi4-", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert {"phi4-flow", "phi4-coupling"} <= set(done.stdout.split()), done.stderr
