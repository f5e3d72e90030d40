import json
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

import physgen
from physgen.cli.app import app
from physgen.errors import DomainError, InputError
from physgen.inference import infer, observation_of, uncalibrated
from physgen.validation.scorecard import Row, Scorecard


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    small = {"data.n": 4000, "engine.steps": 350, "sampling.n": 500}
    folder = tmp_path_factory.mktemp("runs")
    return physgen.train("infer-gaussian-linear", small, runs=folder, score=False, track=False)


def test_the_posterior_of_a_linear_gaussian_model_is_found(run, tmp_path):
    x = np.linspace(-0.6, 0.6, 10)
    np.savetxt(tmp_path / "data.csv", np.stack([x, -x]), delimiter=",")
    found = infer(run.path, tmp_path / "data.csv", 2000, tmp_path / "posterior.h5")
    for sign, posterior in zip((1, -1), found, strict=True):
        means = np.array([posterior[f"theta{i}"]["mean"] for i in range(10)])
        widths = np.array([posterior[f"theta{i}"]["std"] for i in range(10)])
        # Closed form: N(x / 2, 0.05).
        assert np.abs(means - sign * x / 2).max() < 0.15
        assert np.abs(widths / np.sqrt(0.05) - 1).max() < 0.35
        assert "was never judged" in posterior["warning"]


def test_data_outside_the_simulated_range_are_refused_unless_allowed(run, tmp_path):
    wild = ",".join(["9"] * 10)
    command = ["infer", str(run.path), "--observation", wild, "-n", "100"]
    command += ["-o", str(tmp_path / "wild.h5"), "--json"]
    refused = CliRunner().invoke(app, command)
    assert isinstance(refused.exception, DomainError)
    assert "outside the trained domain" in str(refused.exception)
    done = CliRunner().invoke(app, [*command, "--extrapolate"])
    assert done.exit_code == 0
    found = json.loads(done.stdout)["observations"][0]
    assert found["warning"].startswith("outside the simulated range")


@pytest.mark.parametrize(
    ("verdict", "said"), [("fail", "not calibrated (TARP coverage"), ("pass", "")]
)
def test_a_run_that_failed_its_calibration_says_so(verdict, said):
    row = Row(name="TARP coverage", metric="calibration", value=0.3, verdict=verdict)
    run = SimpleNamespace(scorecard=Scorecard(rows=(row,)))
    assert uncalibrated(run).startswith(f"the posteriors of this run are {said}" if said else "")
    assert bool(uncalibrated(run)) == bool(said)


def test_an_observation_of_other_length_is_named(run, tmp_path):
    with pytest.raises(InputError, match="2 numbers"):
        infer(run.path, observation_of("1,2"), 10, tmp_path / "posterior.h5")
