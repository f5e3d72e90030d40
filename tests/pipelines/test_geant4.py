"""The recipe for showers of Geant4, where there are some: in the folder of fetched data sets."""

import pytest
import torch

import physgen
from physgen.against import Criteria
from physgen.io.fetch import data_folder
from physgen.pipeline import validate_files
from physgen.recipe import read
from physgen.run import Run

FILES = {part: data_folder() / f"g4-photons-{part}.hdf5" for part in ("train", "test")}
pytestmark = pytest.mark.skipif(
    not all(path.is_file() for path in FILES.values()),
    reason="needs g4-photons-train.hdf5 and g4-photons-test.hdf5 in $PHYSGEN_DATA",
)


def test_the_files_are_what_their_card_says(tmp_path):
    run, _ = Run.create(read("calo-geant4-flow", {"data.path": str(FILES["train"])}), tmp_path)
    source = run.system.open(FILES["test"])
    assert len(source) == 35_000
    batch = source.read(0, 10_000)
    energy = batch.condition[:, 0]
    assert (energy >= 500).all()
    assert (energy <= 8000).all()
    assert batch.x[batch.x > 0].min() >= 1.0
    response = batch.x.sum(1) / energy
    for low, expected in ((500, 0.983), (1000, 0.990), (2000, 0.994), (4000, 0.998)):
        rows = (energy >= low) & (energy < 2 * low)
        assert response[rows].mean().item() == pytest.approx(expected, abs=0.004)


def test_it_trains_and_is_judged_by_the_other_file(tmp_path):
    changes = {
        "data.path": str(FILES["train"]),
        "data.fit_rows": 3000,
        "engine.steps": 3,
        "sampling.n": 500,
        "validation.metrics": [{"kind": "means"}, {"kind": "timing", "batches": [1], "repeats": 2}],
        "baseline": None,
    }
    run = physgen.train("calo-geant4-flow", changes, runs=tmp_path, track=False)
    assert run.scorecard.rows
    few = Criteria(overrides={"sampling.n": 500})
    assert validate_files(run.path, FILES["test"], few).rows
    made = physgen.generate(run.path, 20, 1, torch.full((20, 1), 4000.0))
    assert ((made.x == 0) | (made.x >= 0.9999)).all()
