"""What training by recipe leaves besides a surrogate: pictures, an animation, and warnings."""

import json
from dataclasses import asdict

import pytest

import physgen
from physgen.surrogates.flows.reverse_kl import ReverseKL
from physgen.validation.plots import INDEX, from_training
from physgen.validation.report import Section, report
from physgen.validation.scorecard import Scorecard

SMALL = {
    "system.shape": [4, 4],
    "engine.steps": 6,
    "engine.batch_size": 16,
    "engine.log_every": 2,
    "engine.evaluate_every": 2,
}


def test_images_are_animated_and_shown(tmp_path):
    run = physgen.train("phi4-coupling", SMALL, runs=tmp_path, track=False, score=False)
    names = [path.name for path in sorted((run.path / "pictures").iterdir())]
    assert names == [f"step-{step:09d}.png" for step in (2, 4, 6)]
    plots = run.path / "plots"
    found = from_training(plots)
    assert [picture.file for picture in found] == ["training.gif", "between.png"]
    (plots / INDEX).write_text(json.dumps([asdict(picture) for picture in found]))
    section = Section("run", Scorecard(rows=()), pictures=plots)
    page = report([section], tmp_path / "page.html").read_text()
    assert "data:image/gif;base64," in page
    assert "data:image/png;base64," in page


def test_warnings_of_a_method_are_said(tmp_path, monkeypatch, caplog):
    seen = []

    def warnings(self, step, metrics):
        seen.append((step, sorted(metrics)))
        return [f"lost at {step}"] if step == 4 else []

    monkeypatch.setattr(ReverseKL, "warnings", warnings)
    with caplog.at_level("WARNING", logger="physgen"):
        physgen.train("phi4-coupling", SMALL, runs=tmp_path, track=False, score=False)
    assert [record.message for record in caplog.records] == ["phi4-coupling: lost at 4"]
    assert [step for step, _ in seen] == [2, 4, 6]
    assert all("loss" in names for _, names in seen)


def test_what_is_no_image_is_not_animated(tmp_path):
    pytest.importorskip("skhep_testdata")
    changes = {"engine.steps": 2, "engine.batch_size": 50}
    run = physgen.train(
        "events-flow", changes, preset="quickstart", runs=tmp_path, track=False, score=False
    )
    assert not (run.path / "pictures").exists()


def test_what_is_fitted_once_sees_as_many_rows_as_are_asked_for(tmp_path):
    changes = {"data.n": 500, "data.fit_rows": 100, "engine.steps": 1, "system.shape": [4, 4]}
    run = physgen.train("ising-rbm", changes, runs=tmp_path, score=False, track=False)
    assert len(run.training_sample()) == 100
