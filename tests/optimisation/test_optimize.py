"""The verb: what it finds, what it keeps, what it says."""

import json
import logging
import subprocess
import sys

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

import physgen
from physgen.cli.app import app
from physgen.errors import DomainError, InputError, RecipeError, TrainingError
from physgen.optimisation.plan import read_optimisation

SIMULATOR = """
import os
from pathlib import Path
import numpy as np
def simulate(theta, seed):
    calls = Path(__file__).with_name("calls")
    n = len(calls.read_text().split()) + 1 if calls.exists() else 1
    with calls.open("a") as file:
        file.write(f"{{len(theta)}} ")
    {before}
    noise = np.random.default_rng(seed).standard_normal((len(theta), 1))
    return {result}
"""
FAST = {
    "surrogate": {"kind": "flow", "bijection": {"kind": "coupling", "n_layers": 1, "hidden": [16]}},
    "method": {"kind": "maximum-likelihood", "learning_rate": 0.01},
    "engine": {"steps": 15, "batch_size": 128},
}


@pytest.fixture
def problem(tmp_path):
    """A function that writes a simulator and its settings."""

    def write(
        result="((theta - 1) ** 2).sum(1, keepdims=True) + 0.3 * noise", before="", **settings
    ):
        (tmp_path / "sim.py").write_text(SIMULATOR.format(result=result, before=before))
        plan = {
            "name": "bowl",
            "simulator": "sim.py:simulate",
            "objective": "x0",
            "parameters": [{"name": n, "first": -4, "second": 4} for n in "ab"],
            "start": {"a": -1, "b": 2.5},
            **{"points": 20, "draws": 10, "steps": 3, "final": 500, "at_once": 100},
        }
        file = tmp_path / "bowl.yaml"
        file.write_text(yaml.safe_dump(plan | FAST | settings))
        return file

    return write


def optimum_of(file, runs="runs", **overrides):
    return physgen.optimize(file, overrides, runs=file.parent / runs, track=False)


@pytest.mark.slow
def test_a_bowl_is_gone_down_and_the_end_is_simulated_anew(problem):
    found = optimum_of(problem(), start={"a": 0.3, "b": 1.6}, steps=20, **{"engine.steps": 40})
    assert found.parameters == pytest.approx({"a": 1.0, "b": 1.0}, abs=0.35)
    assert "deceives" not in "".join(found.warnings)
    assert found.objective == pytest.approx(
        sum((value - 1) ** 2 for value in found.parameters.values()), abs=0.06
    )
    assert found.error == pytest.approx(0.3 / 500**0.5, rel=0.2)
    assert found.calls == 20 * 200
    folder = problem().parent / "runs/bowl"
    assert "fresh calls" in (next(folder.iterdir()) / "report.html").read_text()


@pytest.mark.parametrize(
    "algorithm", ["differences", "score-function", pytest.param("bayesian", marks=pytest.mark.slow)]
)
def test_other_algorithms_go_down_too(problem, algorithm):
    best = {"score-function": {"steps": 40, "region": 0.3, "points": 40}, "bayesian": {"steps": 15}}
    found = optimum_of(
        problem(), algorithm=algorithm, learning_rate=0.4, **best.get(algorithm, {"steps": 25})
    )
    assert found.objective < 1.5  # from 6.25
    each = {"differences": 40, "score-function": 400, "bayesian": 10}[algorithm]
    assert found.calls % each == 0


@pytest.mark.slow
def test_a_killed_search_goes_on_with_the_same_result_and_pays_for_no_call_twice(problem, tmp_path):
    dies = "if n == 6 and calls.with_name('dies').exists(): os._exit(9)"
    file = problem(before=dies)
    whole = optimum_of(file, "whole")
    (tmp_path / "calls").unlink()
    (tmp_path / "dies").touch()
    command = [sys.executable, "-m", "physgen", "optimize", str(file), "--no-track"]
    command += ["--runs", str(tmp_path / "cut")]
    died = subprocess.run(command, capture_output=True, check=False)
    assert died.returncode == 9, died.stderr
    resumed = optimum_of(file, "cut")
    assert resumed.parameters == whole.parameters
    assert (resumed.objective, resumed.calls) == (whole.objective, whole.calls)
    # Two that look at it, two a step, five at the end; the one that died is made again.
    assert len((tmp_path / "calls").read_text().split()) == 2 + 3 * 2 + 5 + 1


@pytest.mark.parametrize("algorithm", ["l-gso", "bayesian"])
def test_a_torn_journal_is_gone_on_from_its_last_whole_line(problem, algorithm):
    first = optimum_of(problem(), algorithm=algorithm)
    path = next((problem().parent / "runs/bowl").iterdir()) / "journal.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]) + lines[-1][:20])
    assert optimum_of(problem(), algorithm=algorithm).parameters == first.parameters
    assert len(path.read_text().splitlines()) == 3


def test_a_simulator_that_raises_keeps_the_calls_before_it(problem, tmp_path):
    file = problem(before="if n == 5: raise RuntimeError('quench')")
    with pytest.raises(InputError, match="RuntimeError: quench; what it returned before is kept"):
        optimum_of(file)
    assert len(list((tmp_path / "runs/bowl").glob("*/calls/*.npy"))) == 4
    assert optimum_of(file).calls == 600
    assert (tmp_path / "calls").read_text().split().count("100") == 6 + 5 + 1


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"result": "noise * np.nan"}, DomainError, r"returns \[nan\] at a="),
        ({"result": "noise[:, 0]"}, DomainError, "a row of data for each row"),
        ({"start": {"a": 5, "b": 0}}, DomainError, r"a = 5 is outside its bounds \[-4, 4\]"),
        ({"start": {"a": 1}}, InputError, "says nothing of the parameter 'b'"),
        ({"region": {"a": 1, "c": 1}}, InputError, "no parameter is called 'c'"),
        ({"objective": "x1"}, RecipeError, "no column of the data is called 'x1'.*'x0'"),
        ({"objective": ""}, RecipeError, "say what is to be small"),
        ({"objective": "sim.py:missing"}, InputError, "has no function 'missing'"),
        ({"inputs": ["x0"]}, InputError, "all columns"),
        ({"inputs": ["y"]}, InputError, "no column of the data is called 'y'"),
        ({"simulator": "bowls"}, RecipeError, "none is called 'bowls'"),
        ({"simulator": "nowhere.at_all:f"}, InputError, "cannot be imported"),
        ({"simulator": "sim {parameters}"}, InputError, "lacks {data}"),
        ({"algorithm": "newton"}, RecipeError, "algorithm"),
        (
            {"method": {"kind": "maximum-likelihood", "learning_rate": 1e30}},
            TrainingError,
            "not finite|no finite derivatives",
        ),
        ({"stepps": 3}, RecipeError, "unknown key 'stepps'.*'steps'"),
        ({"surrogate": {"kind": "flo"}}, RecipeError, "surrogate.kind.*'flow'"),
        ({"surrogate": {"kind": "rbm"}}, InputError, "rbm"),
    ],
)
def test_what_cannot_be_meant_is_named(problem, settings, error, said):
    with pytest.raises(error, match=said):
        optimum_of(problem(**settings))


@pytest.mark.parametrize(
    ("function", "error", "said"),
    [
        ("data.sum()", DomainError, r"returns \(\) for data of shape"),
        ("data[:, 0].detach()", InputError, "no derivative"),
        ("data[:, 0] / 0", DomainError, "is -?inf at the data"),
        ("data.nothing", InputError, "fails on data of shape"),
    ],
)
def test_an_objective_of_ones_own_must_be_finite_and_differentiable(problem, function, error, said):
    file = problem(objective="score.py:score")
    file.with_name("score.py").write_text(f"def score(data):\n    return {function}\n")
    with pytest.raises(error, match=said):
        optimum_of(file)


@pytest.mark.parametrize("noise", ["noise", "np.random.normal(size=(len(theta), 1))"])
def test_a_simulator_that_ignores_its_parameters_is_noticed(problem, caplog, noise):
    with caplog.at_level(logging.WARNING, logger="physgen"):
        optimum_of(problem(result=noise), steps=1)
    assert "neither data nor objective vary with any parameter" in caplog.text


def test_one_that_does_not_is_not_warned_of(problem, caplog):
    with caplog.at_level(logging.WARNING, logger="physgen"):
        optimum_of(problem(), steps=1)
    assert "vary with any parameter" not in caplog.text


def test_a_surrogate_that_deceives_is_seen(problem):
    # One step of training: the flow is that of all data of the region, not of its middle.
    file = problem(result="4 * (theta - 1).prod(1, keepdims=True) ** 2 + 0.01 * noise")
    found = optimum_of(file, **{"engine.steps": 1, "steps": 1, "region": 1.5})
    assert "the surrogate deceives" in found.warnings[0]
    assert abs(found.objective - found.estimated) > 3 * np.hypot(found.error, found.estimated_error)


def test_a_command_reads_and_writes_rows(tmp_path):
    (tmp_path / "sim.py").write_text(
        "import sys, numpy as np\n"
        "theta = np.loadtxt(sys.argv[1], delimiter=',', ndmin=2)\n"
        "noise = np.random.default_rng(int(sys.argv[3])).standard_normal(len(theta))\n"
        "np.savetxt(sys.argv[2], theta[:, 0] ** 2 + 0.1 * noise, delimiter=',')\n"
    )
    command = f"{sys.executable} {tmp_path / 'sim.py'} {{parameters}} {{data}} {{seed}}"
    plan = {"name": "command", "simulator": command, "objective": "x0", "start": {"a": 1.0}}
    plan |= {"parameters": [{"name": "a", "first": -2, "second": 2}]}
    plan |= {"algorithm": "differences", "steps": 2, "draws": 50, "final": 50}
    file = tmp_path / "command.yaml"
    file.write_text(yaml.safe_dump(plan))
    assert optimum_of(file).parameters["a"] == pytest.approx(0.9, abs=0.01)
    (tmp_path / "sim.py").write_text("raise SystemExit('no licence')")
    with pytest.raises(InputError, match="exit code 1: no licence"):
        optimum_of(file)


def test_the_command_line_says_what_was_found(tmp_path):
    words = ["optimize", "three-hump", "steps=2", "draws=5", "final=200", "engine.steps=5"]
    done = CliRunner().invoke(app, [*words, "--runs", str(tmp_path), "--no-track", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["calls"] == 2 * 20 * 5
    assert sorted(found["parameters"]) == ["psi0", "psi1"]


@pytest.mark.parametrize("name", ["three-hump", "rosenbrock", "submanifold", "absorber"])
def test_shipped_problems_can_be_read(name):
    assert read_optimisation(name).simulator == name
