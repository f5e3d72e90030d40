"""Packages beside physgen: the template is installed and used, and what is broken is named."""

import json
import runpy
from pathlib import Path

import pytest
from typer.testing import CliRunner

import physgen
from physgen import catalogue, installation, plugins
from physgen.cli import app
from physgen.errors import PhysgenError, RecipeError
from physgen.recipe import read
from physgen.testing import check_bijection

TEMPLATE = Path(__file__).parents[1] / "docs/plugin-template"
TINY = {
    "data.n": 400,
    "engine.steps": 3,
    "engine.batch_size": 50,
    "sampling.n": 512,
    "validation.metrics": [{"kind": "means"}],
}


@pytest.fixture
def broken(tmp_path, beside):
    """A package with one component that loads, two that do not, and one that is none."""
    (tmp_path / "odd.py").write_text(
        "class Fine:\n    def rows(self, comparison):\n        return []\n\n"
        "def function():\n    pass\n\nclass Empty:\n    pass\n"
    )
    (tmp_path / "worse.py").write_text("import no_such_package\n")
    (tmp_path / "worst.py").write_text("1 / 0\n")
    info = tmp_path / "odd-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[physgen.metrics]\nfine = odd:Fine\nempty = odd:Empty\nfunction = odd:function\n"
        "[physgen.systems]\nworse = worse:System\nworst = worst:System\nabsent = odd:System\n"
        "[physgen.recipes]\nno-file = odd_recipes\nno-yaml = odd_recipes\nno-system = odd_recipes\n"
        "calo-flow = odd_recipes\n"
    )
    recipes = tmp_path / "odd_recipes"
    recipes.mkdir()
    (recipes / "no-yaml.yaml").write_text("name: [no-yaml")
    (recipes / "no-system.yaml").write_text("name: no-system\n")
    (recipes / "calo-flow.yaml").write_text("name: calo-flow\n")
    beside(tmp_path)


def run(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_template_is_short():
    assert len((TEMPLATE / "physgen_strips/detector.py").read_text().splitlines()) < 80
    source = (TEMPLATE / "physgen_strips/bijection.py").read_text()
    assert source.count("\nclass ") == 1


def test_the_template_is_trained_by_the_name_of_its_recipe(template, beside, tmp_path):
    beside(template)
    assert installation.plugin_states() == {
        "physgen-strips": {
            "system strips": "ok",
            "bijection sinh-arcsinh": "ok",
            "recipe strips-flow": "ok",
        }
    }
    listed = run("list", "plugins")
    assert {"strips", "sinh-arcsinh", "strips-flow"} <= {w.split()[0] for w in listed.splitlines()}
    assert "strips-flow" in run("list", "recipes")
    trained = physgen.train("strips-flow", TINY, runs=tmp_path, track=False)
    assert type(trained.recipe).__name__ == "Recipe"
    assert trained.recipe.plugins == ("physgen-strips",)
    surrogate = physgen.load(trained).surrogate
    check_bijection(surrogate.bijection)
    assert physgen.generate(trained, 5, condition=10.0).x.shape == (5, 8)
    file = tmp_path / "samples.h5"
    run("generate", trained.path, "-n", 20, "-o", file)
    run("validate", file, "--against", trained.path / "data.h5", "--system", "strips-flow", *LESS)


LESS = ("--set", 'validation.metrics=[{"kind": "means"}]')


def test_options_of_a_bijection_are_checked(template, beside):
    beside(template)
    key = "surrogate.bijection"
    assert (
        read("strips-flow", {f"{key}.tails": False}).surrogate.options["bijection"]["tails"]
        is False
    )
    with pytest.raises(RecipeError, match=r"unknown key 'tail'; did you mean 'tails'"):
        read("strips-flow", {f"{key}.tail": False})
    with pytest.raises(RecipeError, match=r"bijection.kind: no .* did you mean 'sinh-arcsinh'\?"):
        read("strips-flow", {f"{key}.kind": "sinh-arcsin"})


def test_tests_of_the_template_pass(template, beside):
    beside(template)
    found = runpy.run_path(str(TEMPLATE / "tests/test_components.py"))
    tests = [test for name, test in found.items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()


def test_a_recipe_of_a_plugin_that_is_absent_says_how_to_get_it():
    recipe = TEMPLATE / "physgen_strips/strips-flow.yaml"
    with pytest.raises(RecipeError, match=r"plugins: .*pip install physgen-strips"):
        read(recipe)
    with pytest.raises(
        RecipeError, match=r"system.kind: no system is called 'strips'.*pip install"
    ):
        read(recipe, {"plugins": None})


def test_the_doctor_names_what_is_broken_and_other_commands_go_on(broken):
    states = json.loads(run("doctor", "--json"))["plugins"]["odd"]
    assert states["metric fine"] == "ok"
    for name, reason in {
        "metric empty": "no class of metrics: it has no 'rows'",
        "metric function": "it is no class",
        "system worse": "ModuleNotFoundError: No module named 'no_such_package'",
        "system worst": "ZeroDivisionError",
        "system absent": "has no attribute 'System'",
        "recipe no-file": "there is no no-file.yaml in odd_recipes",
        "recipe no-yaml": "is not YAML",
        "recipe no-system": "key 'system' is missing",
    }.items():
        assert states[name].startswith("broken: "), name
        assert reason in states[name]
        assert states[name].endswith("update or uninstall its package")
    assert states["recipe calo-flow"] == "broken: physgen ships a recipe of this name; rename it"
    for kind in ("plugins", "recipes"):
        listed = {entry.name: entry for entry in catalogue.entries(kind) if entry.origin == "odd"}
        for name in ("no-file", "no-yaml", "no-system", "calo-flow"):
            assert listed[name].about == states[f"recipe {name}"]
    assert "showers" in next(e for e in catalogue.entries("recipes") if e.name == "calo-flow").about
    with pytest.raises(RecipeError, match=r"the recipe 'no-file' of a plugin is broken; .*doctor"):
        read("no-file")
    assert "does not load" in run("list", "systems")
    assert run("show", "ising-rbm")
    assert {entry.name for entry in catalogue.entries("recipes")} >= {"ising-rbm"}
    with (
        pytest.warns(UserWarning, match="worst:System does not load"),
        pytest.raises(PhysgenError, match=r"'worst' is a plugin that does not load .*odd.*doctor"),
    ):
        plugins.lookup("systems", "worst")


def test_a_name_that_two_packages_claim_is_an_error_of_what_asks_for_it(tmp_path, beside):
    for number in ("one", "two"):
        info = tmp_path / f"{number}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {number}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(
            f"[physgen.metrics]\nodd = {number}:Odd\n[physgen.recipes]\nodd = {number}\n"
        )
    beside(tmp_path)
    clash = "two packages register the {} 'odd': one{} and two{}; uninstall one of them"
    reasons = {
        "metric odd": clash.format("metric", ":Odd", ":Odd"),
        "recipe odd": clash.format("recipe", "", ""),
    }
    for package in ("one", "two"):
        states = installation.plugin_states()[package]
        assert states == {name: f"broken: {reason}" for name, reason in reasons.items()}
    listed = [(entry.origin, entry.about) for entry in catalogue.entries("plugins")]
    metric, recipe = reasons["metric odd"], f"broken: {reasons['recipe odd']}"
    assert listed == [("one", metric), ("two", metric), ("one", recipe), ("two", recipe)]
    assert read("ising-rbm")
    with pytest.raises(RecipeError, match="two packages register the metric 'odd'"):
        read("ising-rbm", {"validation.metrics": [{"kind": "odd"}]})


def test_extras_that_are_missing_are_named(monkeypatch):
    assert installation.extras()["export"] == "installed"
    asked = ['no-such-package>=2; extra == "hep"', 'physgen[hep]; extra == "dev"', "numpy>=1"]
    monkeypatch.setattr(installation, "requires", lambda name: asked)
    missing = "missing no-such-package>=2: pip install 'physgen[{}]'"
    found = installation.extras()
    assert found["hep"] == missing.format("hep")
    assert found["dev"] == missing.format("dev")
    assert found["export"] == "installed"
