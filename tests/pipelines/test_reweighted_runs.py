"""From a trained run to the weights of its samples, at the command line."""

import json
import shutil

import h5py
import numpy as np
import pytest
import torch
import uproot

import physgen
from physgen import pipeline
from physgen.cli import main
from physgen.errors import RecipeError
from physgen.scoring import compare

GENERATOR = {"kind": "shower-flow", "hidden": 8, "n_running": 8}
TINY = {
    "data.n": 1500,
    "data.fit_rows": 800,
    "engine.steps": 3,
    "engine.batch_size": 64,
    "sampling.n": 400,
    "baseline": None,
    "validation.metrics": [{"kind": "means"}],
}


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    changes = {**TINY, "surrogate": GENERATOR}
    return physgen.train("calo-flow", changes, runs=runs, track=False, score=False)


def reweighted(generator, runs, score=False, **changes):
    options = {
        **TINY,
        "surrogate": {
            "kind": "reweighted",
            "generator": GENERATOR,
            "classifier": {"levels": ["high"]},
        },
        "method": {"kind": "generator-ratio", "generator": str(generator), "learning_rate": 0.01},
        "engine.steps": 40,
        "engine.warmup": 0,
        "validation.metrics": [{"kind": "event-weights", "minimum_ess": 0.3}, {"kind": "means"}],
        **changes,
    }
    return physgen.train("calo-flow", options, runs=runs, track=False, score=score)


def test_a_run_is_scored_and_written_with_its_weights(generator, tmp_path, monkeypatch):
    copied = shutil.copytree(generator.path, tmp_path / "generator")
    run = reweighted(copied, tmp_path, score=True)
    shutil.rmtree(copied)  # It is not needed any more.
    row = next(row for row in run.scorecard.rows if row.name == "ESS of event weights")
    assert 0.05 < row.value < 0.99
    card = json.loads((run.path / "surrogate" / "card.json").read_text())
    assert card["weighs"]["run"] == "generator"
    words = ["physgen", "generate", str(run.path), "-n", "50", "-o", str(tmp_path / "made.hdf5")]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    with h5py.File(tmp_path / "made.hdf5") as file:
        weight = torch.from_numpy(file["weight"][:])
    assert weight.shape == (50,)
    assert weight.std() > 0


def test_the_weights_are_those_of_the_scores(generator, tmp_path):
    run = reweighted(generator.path, tmp_path)
    comparison = compare(run, run.load())
    assert comparison.generated.weight.std() > 0
    assert "generated" in comparison.paired


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"surrogate.generator.hidden": 16}, r"surrogate\.generator\.hidden is 16, and 8"),
        ({"method.generator": None}, r"method\.generator is missing"),
        ({"surrogate.generator": None}, r"surrogate\.generator is missing"),
        ({"system.angle_deg": 3.0}, r"system\.angle_deg is 3\.0"),
        ({"data.n": 1400}, r"data\.n is 1400, and 1500 in .*would be among those that judge"),
        ({"data.split": [0.6, 0.2, 0.2]}, r"data\.split is \(0\.6, 0\.2, 0\.2\)"),
    ],
)
def test_another_generator_than_that_of_the_run_is_refused(generator, tmp_path, changes, message):
    with pytest.raises(RecipeError, match=message):
        reweighted(generator.path, tmp_path, **changes)


def test_the_weights_are_those_of_one_sampler(generator, tmp_path):
    run = reweighted(generator.path, tmp_path)
    with pytest.raises(RecipeError, match="for the sampler of its recipe"):
        pipeline.load(run, sampling={"sampler.steps": 4})


def test_a_generator_of_a_root_file_is_scored_with_the_weights_of_its_events(tmp_path):
    """Copies of the surrogate share the open file; the effective share is that of its weights."""
    noise = np.random.default_rng(1)
    columns = {name: noise.normal(size=1200) for name in "xy"}
    weight = np.where(np.arange(1200) % 4 == 0, 4.0, 0.1)
    with uproot.recreate(tmp_path / "events.root") as file:
        file["events"] = {**columns, "w": weight}
    events = {
        "system": {"kind": "events"},
        "data": {"path": str(tmp_path / "events.root"), "fields": ["x", "y"], "weight": "w"},
        "transform": [{"kind": "standardise"}],
        "baseline": None,
        "engine.steps": 4,
        "sampling.n": 300,
        "validation.metrics": [{"kind": "event-weights", "minimum_ess": 0.8}],
    }
    flow = {"kind": "flow", "bijection": {"kind": "coupling", "n_layers": 2, "hidden": [8]}}
    options = {"runs": tmp_path, "track": False}
    made = physgen.train("events-flow", {**events, "surrogate": flow}, score=False, **options)
    weights = {
        "surrogate": {"kind": "reweighted", "generator": flow},
        "method": {"kind": "generator-ratio", "generator": str(made.path)},
    }
    run = physgen.train("events-flow", {**events, **weights}, score=True, **options)
    row = next(row for row in run.scorecard.rows if row.name == "ESS of event weights")
    assert row.value > 0.9
