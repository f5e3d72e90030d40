"""`validate --training FILE` looks for copies of training rows; a run knows its own."""

import json

import h5py
import numpy as np
import pytest
from test_cli import call

from physgen import pipeline
from physgen.against import Criteria
from physgen.scoring import score_run
from physgen.systems.calorimeter import Calorimeter

OPTIONS = ["--binning", "calo-368.xml", "--set", "validation.metrics=[{kind: memorisation}]"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Of 400 generated showers 12 are training rows, and 12 nearly so."""
    folder = tmp_path_factory.mktemp("showers")
    system = Calorimeter(binning="calo-368.xml")
    made = {}
    for name, seed, n in (("truth", 1, 800), ("training", 2, 600), ("made", 3, 400)):
        batch = system.simulate(n, seed)
        made[name] = batch.x.numpy(), batch.condition.numpy()
    x, energy = made["made"]
    x[:24], energy[:24] = made["training"][0][100:124], made["training"][1][100:124]
    x[12:24] *= 1 + 0.01 * np.random.default_rng(0).standard_normal((12, 368)).astype("f4")
    for name, (showers, energies) in made.items():
        with h5py.File(folder / f"{name}.hdf5", "w") as file:
            file["showers"], file["incident_energies"] = showers, energies
    return folder


def test_copies_of_a_training_file_fail_and_are_named(monkeypatch, capsys, files):
    against = ["--against", files / "truth.hdf5", *OPTIONS, "--json"]
    training = ["--training", files / "training.hdf5"]
    code, out, err = call(monkeypatch, capsys, "validate", files / "made.hdf5", *against, *training)
    assert code == 0, err
    card = json.loads(out)
    rows = {row["name"]: row for row in card["rows"]}
    assert rows["rows that are training rows"]["value"] == 12
    assert rows["near copies of training rows"]["value"] == pytest.approx(24 / 400, abs=4 / 400)
    assert card["verdict"] == "fail"
    assert any("training rows" in warning for warning in card["warnings"])
    code, out, err = call(monkeypatch, capsys, "validate", files / "made.hdf5", *against)
    names = {row["name"] for row in json.loads(out)["rows"]}
    assert not {"rows that are training rows", "near copies of training rows"} & names
    assert "near copies in the sample" in names


def test_training_rows_need_a_truth(monkeypatch, capsys, files):
    arguments = ["validate", files / "made.hdf5", "--training", files / "training.hdf5"]
    code, _, err = call(monkeypatch, capsys, *arguments)
    assert code == 2
    assert "--training needs --against" in err
    against = ["--against", files / "truth.hdf5", *OPTIONS, "--training", files / "no.hdf5"]
    code, _, err = call(monkeypatch, capsys, "validate", files / "made.hdf5", *against)
    assert code == 2
    assert "no.hdf5" in err


def test_a_run_knows_its_training_rows(files, tmp_path):
    only = {"validation.metrics": [{"kind": "memorisation"}], "sampling.n": 300}
    few = {"engine.steps": 2, "engine.batch_size": 16, "data.n": 600}
    options = {"preset": "smoke", "runs": tmp_path, "track": False, "score": False}
    run = pipeline.train("calo-flow", {**only, **few}, **options)
    rows = {row.name: row for row in score_run(run, run.load())[1].rows}
    assert rows["rows that are training rows"].value == 0
    n = len(run.data.parts.train)
    assert f"{n} of {n} training rows" in rows["nearer to training rows"].note
    card = pipeline.validate_files(run.path, files / "truth.hdf5", Criteria(overrides=only))
    assert "near copies of training rows" in {row.name for row in card.rows}
