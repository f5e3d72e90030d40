import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import physgen
from physgen.batch import Batch
from physgen.cli.app import app
from physgen.errors import DomainError, InputError
from physgen.inference import infer, observation_of, uncalibrated
from physgen.posterior_draws import posterior_draws
from physgen.surrogates.flows.autoregressive import AutoregressiveOptions
from physgen.surrogates.flows.flow import Flow
from physgen.systems.ising import Ising
from physgen.systems.posterior import Posterior
from physgen.transforms.affine import Standardise
from physgen.validation.calibration import Calibration
from physgen.validation.comparison import Comparison
from physgen.validation.scorecard import Row, Scorecard


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    small = {"data.n": 4000, "engine.steps": 20, "sampling.n": 500}
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


def test_the_temperature_of_spins_in_a_file_is_that_of_the_exact_posterior(tmp_path):
    small = {"data.n": 4000, "engine.steps": 300, "sampling.n": 500}
    options = {"runs": tmp_path, "score": False, "track": False}
    trained = physgen.train("infer-ising-temperature", small, **options)
    for temperature in (1.8, 3.0):
        ising = Ising(shape=(16, 16), temperature=temperature)
        path, output = (tmp_path / f"{name}-{temperature}.h5" for name in ("spins", "posterior"))
        spins = ising.simulate(20, seed=3)
        with ising.writer(path, 20) as append:
            append(Batch(spins.x))
        found = infer(trained.path, path, 500, output)
        energies = ising.observables(spins)["E/N"][:, None]
        exact = [trained.system.exact_posterior(x, 4000, 1) for x in energies]
        widths = np.array([draws.std() for draws in exact])
        off = np.array([one["T"]["mean"] for one in found]) - [draws.mean() for draws in exact]
        assert np.abs(off / widths).mean() < 0.5, temperature
        ratios = [one["T"]["std"] for one in found] / widths
        assert ratios.mean() == pytest.approx(1, abs=0.25), temperature


def test_a_flow_that_is_the_exact_posterior_is_calibrated():
    """A layer that starts at the linear regression is N(x / 2, 0.05), before any training."""
    system = Posterior(simulator="gaussian-linear")
    options = AutoregressiveOptions(n_layers=1, hidden=8)
    flow = Flow(system.schema, Standardise(system.schema), bijection=options)
    flow.initialise(system.simulate(20_000, seed=1))
    truth, metric = system.simulate(500, seed=2), Calibration(maximum=0.1)
    found = posterior_draws(flow, truth, [metric], seed=3)
    with torch.no_grad():
        log_prob = flow.log_prob(truth).mean().item()
    # Of the exact posterior: ten normal numbers of variance 0.05.
    assert log_prob == pytest.approx(-5 * np.log(2 * np.pi * np.e * 0.05), abs=0.1)
    rows = metric.rows(Comparison(system, truth, truth, posterior=found))
    assert len(rows) == 12
    assert {row.verdict for row in rows} == {"pass"}
    assert min(row.p_value for row in rows) > 1e-4


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


@pytest.mark.parametrize("kind", ["likelihood", "ratio"])
def test_sampled_posteriors_are_asked_as_others_are(kind, tmp_path):
    small = {"data.n": 500, "engine.steps": 5, "sampling.n": 100}
    run = physgen.train(f"infer-two-moons-{kind}", small, runs=tmp_path, score=False, track=False)
    (found,) = infer(run.path, observation_of("0.1,-0.2"), 300, tmp_path / "posterior.h5")
    assert set(found) >= {"theta0", "theta1", "warning"}
    assert -1 <= found["theta0"]["95%"][0] < found["theta0"]["95%"][1] <= 1
    wild = observation_of("9,9")
    with pytest.raises(DomainError, match="outside the trained domain"):
        infer(run.path, wild, 10, tmp_path / "wild.h5")
    (found,) = infer(run.path, wild, 10, tmp_path / "wild.h5", extrapolate=True)
    assert found["warning"].startswith("outside the simulated range")
    with pytest.raises(InputError, match="3 numbers"):
        infer(run.path, observation_of("1,2,3"), 10, tmp_path / "other.h5")
