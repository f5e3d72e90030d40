"""Families side by side: the table says what the scorecards say, and nothing is trained twice."""

import re

import pytest
import yaml

from physgen import pipeline, reports
from physgen.comparing import read_plan
from physgen.errors import RecipeError
from physgen.io.shipped import shipped_folder
from physgen.recipe import presets_of, read
from physgen.run import Run
from physgen.validation.table import with_error

SMALL = {
    "extends": "ising-rbm",
    "system": {"kind": "ising", "shape": [4, 4]},
    "data": {"n": 300},
    "engine": {"steps": 2, "batch_size": 32},
    "sampling": {"n": 64},
    "validation": {"metrics": [{"kind": "means"}, {"kind": "likelihood"}]},
}
VAE = {
    "surrogate": {
        "kind": "vae",
        "likelihood": "bernoulli",
        "network": {"kind": "mlp", "hidden": [8]},
    },
    "method": {"kind": "evidence-lower-bound"},
}


def plan(folder, **changes):
    recipes = {
        "one": SMALL | {"surrogate": {"kind": "rbm", "hidden": 3, "burn_in": 5, "n_chains": 64}},
        "two": SMALL
        | VAE
        | {"presets": {"tiny": {"engine.steps": 1}}, "baseline": {"kind": "pca", "components": 2}},
    }
    for name, tree in recipes.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"name": name, "summary": name} | tree))
    content = {
        "title": "Two <families>",
        "preset": "tiny",
        "overrides": {"sampling.seed": 3},
        "recipes": [str(folder / f"{name}.yaml") for name in recipes],
        "columns": {"|energy|": "E/N", "nowhere": "no such row"},
    }
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(content | changes, sort_keys=False))
    return str(path)


def test_families_stand_side_by_side_and_are_trained_once(tmp_path):
    name = plan(tmp_path)
    page, table = reports.compare(name, tmp_path / "page.html", runs=tmp_path / "runs")
    runs = [Run(next((tmp_path / "runs" / family).iterdir())) for family in ("one", "two")]
    assert [run.recipe.engine.steps for run in runs] == [2, 1]
    assert all(run.recipe.sampling.seed == 3 for run in runs)
    lines = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in table.read_text().splitlines()
    ]
    assert lines[0][0] == "family"
    assert lines[0][-2:] == [r"\|energy\|", "nowhere"]
    assert lines[2][0] == "truth against truth"
    assert lines[3][0] == "truth, exact if known"
    exact = runs[0].scorecard["E/N"]
    assert lines[3][-2:] == [with_error(exact.exact, exact.exact_error), ""]
    baseline = runs[1].scorecard["E/N"].baseline
    assert runs[0].scorecard["E/N"].baseline is None
    assert lines[4] == ["baseline: pca", "", "", "", "", with_error(baseline, None), ""]
    for line, run in zip(lines[5:], runs, strict=True):
        row = run.scorecard["E/N"]
        parameters = sum(p.numel() for p in run.load().parameters())
        assert line[0] == run.recipe.name
        assert line[1] == str(parameters)
        assert line[-2:] == [with_error(row.value, row.error), ""]
    assert [line[4] for line in lines[5:]] == ["estimated", "bound of 64 draws"]
    text = page.read_text()
    assert "Two &lt;families&gt;" in text
    assert text.count("data:image/png") == 3, "the truth and two families"
    assert "http" not in text
    before = [run.path.joinpath("scorecard.json").stat().st_mtime_ns for run in runs]
    reports.compare(name, tmp_path / "page.html", runs=tmp_path / "runs")
    assert [run.path.joinpath("scorecard.json").stat().st_mtime_ns for run in runs] == before


@pytest.mark.slow
def test_a_family_whose_training_breaks_down_is_left_out_and_said(tmp_path):
    name = plan(tmp_path)
    broken = SMALL | VAE | {"name": "two", "summary": "two"}
    broken["method"] = {"kind": "evidence-lower-bound", "learning_rate": 1e30}
    broken["engine"] = {"steps": 20, "batch_size": 32, "clip": None}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(broken))
    with pytest.warns(UserWarning, match="two.yaml is left out of the page"):
        page, table = reports.compare(name, tmp_path / "page.html", runs=tmp_path / "runs")
    assert len(table.read_text().splitlines()) == 5, "headings, a rule, floors, truth, one family"
    assert "Left out: " in page.read_text()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"recipes": []}, "names no recipes"),
        ({"recipes": ["ising-rmb"]}, "did you mean 'ising-rbm'"),
        ({"recipes": ["ising-rbm", "digits-pca"]}, r"digits-pca is of images of shape \(8, 8\)"),
        ({"columns": 3}, "cannot be understood"),
        ({"recipe": []}, "cannot be understood"),
    ],
)
def test_a_plan_that_is_none_is_refused_before_anything_is_trained(tmp_path, changes, said):
    with pytest.raises(RecipeError, match=said):
        reports.compare(plan(tmp_path, **changes), tmp_path / "p.html", runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_an_unknown_comparison_names_the_near_ones():
    with pytest.raises(RecipeError, match="did you mean 'digits'"):
        read_plan("digit")
    with pytest.raises(RecipeError, match="did you mean 'ising'"):
        read_plan("spins")


@pytest.mark.parametrize(
    "name", sorted(p.stem for p in shipped_folder("pipelines/comparisons").glob("*.yaml"))
)
def test_every_shipped_comparison_reads_with_all_its_recipes(name):
    found = read_plan(name)
    systems = set()
    for recipe in found.recipes:
        preset = found.preset if found.preset in presets_of(recipe) else None
        systems.add(read(recipe, found.overrides, preset).system.kind)
    assert len(systems) == 1 or found.page == "costs"


@pytest.mark.slow
def test_every_score_of_the_page_of_digits_is_found(tmp_path):
    """Its images follow one another by writer and class, and are no Markov chain."""
    digits = read_plan("digits")
    run = pipeline.train("digits-pca", digits.overrides, runs=tmp_path, track=False)
    missing = {name for name in digits.columns.values() if run.scorecard[name].value is None}
    assert not missing
    assert not [said for said in run.scorecard.warnings if "independent" in said]
