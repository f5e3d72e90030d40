"""Recipes: what is refused, and by which message."""

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from physgen import recipe
from physgen.errors import RecipeError
from physgen.io.shipped import shipped_recipes
from physgen.overrides import parse_overrides, put

PIPELINES = Path(__file__).parents[1] / "pipelines"
SHIPPED = list(shipped_recipes())


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_reads_with_each_of_its_presets(name):
    path = shipped_recipes()[name]
    presets = yaml.safe_load(path.read_text()).get("presets", {})
    for preset in [None, *presets]:
        found = recipe.read(name, preset=preset)
        assert found.name == name
        assert found.summary


@pytest.mark.parametrize("name", SHIPPED)
def test_a_resolved_recipe_reads_as_itself(name, tmp_path):
    found = recipe.read(name)
    copy = tmp_path / "recipe.yaml"
    copy.write_text(found.to_yaml())
    assert recipe.read(copy) == found
    assert recipe.read(copy).digest() == found.digest()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("engin.steps", 3, "did you mean 'engine'"),
        ("engine.step", 3, r"did you mean 'steps'\?"),
        ("engine.steps", "many", "engine.steps = 'many'"),
        ("surrogate.kind", "rbn", "did you mean 'rbm'"),
        ("surrogate.hiden", 3, "did you mean 'hidden'"),
        ("method.kind", "maximum-likelyhood", "did you mean 'maximum-likelihood'"),
        ("validation.metrics.0.kind", "mean", "did you mean 'means'"),
        ("data.pth", "x", "did you mean 'path'"),
        ("name.x", 1, "not a section"),
    ],
)
def test_a_slip_is_named_and_the_right_word_suggested(key, value, message):
    with pytest.raises(RecipeError, match=message):
        recipe.read("ising-rbm", {key: value})


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("surrogate.bijection.hiden", 3, r"key 'surrogate.bijection.hiden'; did you mean 'hidden'"),
        ("surrogate.bijection.hidden", 0, r"surrogate.bijection.hidden = 0: "),
        ("surrogate.bijection.kind", "copling", r"surrogate.bijection.kind: .*mean 'coupling'"),
        ("surrogate.bijection", {"hidden": 8}, r"key 'surrogate.bijection.kind' is missing; there"),
        ("surrogate.bijection", 3, r"surrogate.bijection = 3: "),
    ],
)
def test_a_slip_within_an_option_is_named(key, value, said):
    with pytest.raises(RecipeError, match=said):
        recipe.read("digits-maf", {key: value})


@pytest.mark.parametrize("name", ["ising-rbm", "phi4-flow", "calo-flow", "events-flow"])
def test_a_smoke_preset_trains_no_classifier(name):
    small = recipe.read(name, preset="smoke")
    assert small.engine.steps <= 200
    assert "classifier" not in {metric.kind for metric in small.validation.metrics}


def test_an_unknown_recipe_names_the_near_ones():
    with pytest.raises(RecipeError, match="ising-rbm"):
        recipe.read("ising-rmb")
    with pytest.raises(RecipeError) as error:
        recipe.read("nosuch")
    for name in recipe.MAIN:
        assert repr(name) in str(error.value)


def test_a_number_that_yaml_takes_for_a_string_is_a_number():
    found = recipe.read("ising-rbm", parse_overrides(["engine.clip=1e-1"]))
    assert found.engine.clip == 0.1


def test_another_kind_does_not_inherit_the_options_of_the_old_one():
    tree = {"method": {"kind": "a", "k": 10}}
    put(tree, "method.kind", "b")
    assert tree == {"method": {"kind": "b"}}


@given(st.text(st.characters(blacklist_characters="=\n"), min_size=1), st.integers())
def test_overrides_split_at_the_first_equals_sign(key, value):
    assert parse_overrides([f"{key}={value}"]) == {key: value}


@pytest.mark.parametrize("word", ["engine.steps", "=3", "a={"])
def test_a_malformed_override_is_refused(word):
    with pytest.raises(RecipeError, match=r"key=value|YAML"):
        parse_overrides([word])


@pytest.mark.parametrize("text", ["a: [", "- 1", "3"])
def test_a_file_that_is_no_recipe_is_refused(tmp_path, text):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"r\.yaml"):
        recipe.read(path)


BASE = """\
name: base
summary: A base.
system: {kind: ising, shape: [4, 4]}
data: {n: 100, seed: 1}
surrogate: {kind: rbm, hidden: 7}
method: {kind: persistent-contrastive-divergence, k: 2}
engine: {steps: 3, batch_size: 5}
validation: {metrics: [{kind: means}, {kind: histograms}]}
presets: {small: {engine.steps: 1}}
"""


def test_a_recipe_that_extends_another_lays_its_sections_over_it(tmp_path):
    (tmp_path / "base.yaml").write_text(BASE)
    path = tmp_path / "other.yaml"
    path.write_text(
        f"name: other\nextends: {tmp_path / 'base.yaml'}\nengine: {{steps: 9}}\ndata: null\n"
        "surrogate: {kind: vae, latent: 2}\nmethod: {kind: evidence-lower-bound}\n"
        "validation: {metrics: [{kind: means}]}\n"
    )
    found = recipe.read(path)
    assert (found.name, found.summary, found.data) == ("other", "A base.", None)
    assert (found.engine.steps, found.engine.batch_size) == (9, 5)
    assert found.surrogate.options == {"latent": 2}, "another kind takes no options over"
    assert found.method.options == {}
    assert [metric.kind for metric in found.validation.metrics] == ["means"]
    with pytest.raises(RecipeError, match="no preset 'small'"):
        recipe.read(path, preset="small")
    path.write_text(f"name: other\nextends: {tmp_path / 'base.yaml'}\nsurrogate: {{hidden: 8}}\n")
    assert recipe.read(path).surrogate.options == {"hidden": 8}


def test_recipes_that_extend_each_other_are_refused(tmp_path):
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / f"{name}.yaml").write_text(f"extends: {tmp_path / other}.yaml\n")
    with pytest.raises(RecipeError, match="extends itself"):
        recipe.read(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text("extends: ising-rmb\n")
    with pytest.raises(RecipeError, match="ising-rbm"):
        recipe.read(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("digits-gan", "method.r1", -1),
        ("digits-gan", "surrogate.latent", 0),
        ("digits-dcgan", "surrogate.network.channels", []),
        ("digits-dcgan", "method.critic.dropout", 1.5),
        ("digits-rbm", "method.k", 0),
        ("digits-maf", "surrogate.bijection.n_layers", 0),
        ("digits-ddpm", "method.learning_rate", 0),
        ("digits-energy", "surrogate.gradient_limit", -1),
        ("digits-energy", "method.restart", 2),
        ("digits-rbm", "surrogate.burn_in", -5),
        ("digits-gaussian-rbm", "surrogate.sigma", 0),
        ("digits-spline-flow", "surrogate.bijection.bound", -1),
        ("digits-vae", "surrogate.prior_couplings", -1),
    ],
)
def test_values_out_of_range_are_refused_by_their_key(name, key, value):
    with pytest.raises(RecipeError, match=re.escape(f"{key} = {value}: ")):
        recipe.read(name, {key: value})


@pytest.mark.parametrize(
    ("presets", "message"),
    [
        ("3", "presets = 3 is not a mapping"),
        ("[small]", "presets = .* is not a mapping"),
        ("{small: 3}", "preset 'small': 3 is not a mapping of dotted keys"),
        ("{small: [a]}", "preset 'small': .* is not a mapping of dotted keys"),
        ("{small: {1: 2}}", "preset 'small': .* is not a mapping of dotted keys"),
    ],
)
def test_presets_that_are_no_mappings_are_refused(tmp_path, presets, message):
    path = tmp_path / "own.yaml"
    path.write_text(f"extends: phi4-flow\npresets: {presets}\n")
    with pytest.raises(RecipeError, match=rf"own\.yaml: {message}"):
        recipe.read(path)


def test_shipped_recipes_lie_one_step_above_a_base_without_a_model():
    """Names are those of files in the folders of the tasks; no family extends another."""
    # What is optimised is no training.
    files = sorted(f for f in PIPELINES.glob("*/*.yaml") if f.parent.name != "optimisation")
    recipes = [f for f in files if f.parent.name != "comparisons" and "base" not in f.stem]
    assert [f.stem for f in sorted(recipes, key=lambda f: f.stem)] == SHIPPED
    for file in files:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
        if "base" in file.stem:
            assert not {"name", "surrogate", "method", "extends"} & set(tree), file
        elif "extends" in tree:
            assert (file.parent / tree["extends"]).is_file(), file
            assert tree["extends"].startswith("base"), file


def test_the_old_word_for_extends_is_refused_with_the_new_one(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("like: phi4-flow\n")
    with pytest.raises(RecipeError, match=r"is now `extends: .phi4-flow.`"):
        recipe.read(path)
