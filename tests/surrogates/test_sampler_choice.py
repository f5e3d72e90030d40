"""A trained diffusion model is sampled in another way without being trained again."""

import json

import h5py
import pytest
import torch

from physgen import pipeline, recipe
from physgen.errors import InputError, RecipeError
from physgen.io.shipped import shipped_recipes

TINY = {
    "system.shape": [4, 4],
    "surrogate": {"kind": "diffusion", "network": {"kind": "residual", "hidden": 8, "depth": 1}},
    "data.n": 200,
    "engine.steps": 5,
    "engine.batch_size": 32,
    "sampling.n": 64,
    "validation.metrics": [{"kind": "means"}],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return pipeline.train("ising-ddpm", TINY, runs=tmp_path_factory.mktemp("r"), track=False)


def test_the_recipe_says_which_sampler_and_an_override_another(run):
    assert pipeline.load(run).surrogate.sampler.steps == 12
    other = {"sampler.kind": "ancestral", "sampler.steps": 3}
    changed = pipeline.load(run, sampling=other)
    assert changed.surrogate.sampler.model_dump(exclude={"spacing", "guidance"}) == {
        "kind": "ancestral",
        "steps": 3,
    }
    ours = pipeline.load(run, sampling=other).sample(500).x
    assert torch.equal(ours, changed.sample(500).x)
    assert not torch.equal(ours, pipeline.generate(run, 500).x)
    weights = (pipeline.load(run, sampling=s).surrogate.state_dict() for s in (None, other))
    first, second = weights
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_scores_of_other_samples_leave_those_of_the_run_alone(run, tmp_path):
    before = {file.name: file.read_bytes() for file in run.path.glob("*.json")}
    card = pipeline.validate(run, sampling={"sampler.steps": 2, "n": 32}, output=tmp_path / "o")
    assert card.provenance["sampling"] == {"sampler.steps": 2, "n": 32}
    assert json.loads((tmp_path / "o" / "scorecard.json").read_text())["provenance"]["sampling"]
    assert {file.name: file.read_bytes() for file in run.path.glob("*.json")} == before
    assert run.scorecard.provenance.get("sampling") is None
    with pytest.raises(InputError, match="leave `output` out"):
        pipeline.validate(run, output=tmp_path / "p")


def test_a_file_says_how_it_was_drawn(run, tmp_path):
    path = tmp_path / "samples.h5"
    pipeline.load(run, sampling={"sampler.steps": 2}).write(path, 20)
    with h5py.File(path) as file:
        facts = json.loads(file.attrs["physgen_provenance"])
    assert json.loads(facts["sampling"]) == {"sampler.steps": 2}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sampler.kind": "hein"}, r"sampling\.sampler\.kind = 'hein'"),
        ({"sampler.steps": 1}, "heun needs at least 2 steps"),
        ({"sampler.stepps": 3}, "unknown key 'sampling.sampler.stepps'"),
        ({"sampler.guidance": 2.0}, r"condition_dropout=0\.1"),
    ],
)
def test_samplers_that_cannot_be_are_refused_by_their_key(run, changes, said):
    with pytest.raises(RecipeError, match=said):
        pipeline.load(run, sampling=changes)


def test_what_has_no_sampler_says_so(tmp_path):
    changes = {"system.shape": [4, 4], "data.n": 100, "sampling.sampler": {"steps": 3}}
    with pytest.raises(RecipeError, match="RBM has no sampler to choose"):
        pipeline.train("ising-rbm", changes, runs=tmp_path, track=False)
    assert not list(tmp_path.iterdir())


def test_samplers_of_shipped_recipes_are_not_of_their_surrogates():
    for name in shipped_recipes():
        assert "sampler" not in recipe.read(name).surrogate.options, name
