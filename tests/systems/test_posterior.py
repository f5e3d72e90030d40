import logging

import numpy as np
import pytest
import torch

from physgen.errors import DomainError, InputError, RecipeError
from physgen.systems.inference_tasks import TASKS, infected
from physgen.systems.posterior import Posterior
from physgen.systems.simulators import OwnSimulator, Parameter

PARAMETERS = ({"name": "a", "first": 0.0, "second": 1.0},)
COUNTED = """
from pathlib import Path
def simulate(theta, seed):
    calls = Path(__file__).with_name("calls")
    calls.write_text(calls.read_text() + "x" if calls.exists() else "x")
    if {fails}:
        raise RuntimeError("magnet quench")
    return {result}
"""


@pytest.fixture
def simulator(tmp_path, monkeypatch):
    monkeypatch.setenv("PHYSGEN_DATA", str(tmp_path / "data"))

    def write(result="theta + 1.0", fails="False"):
        file = tmp_path / "sim.py"
        file.write_text(COUNTED.format(result=result, fails=fails))
        return f"{file}:simulate"

    return write


def test_simulations_are_kept_and_more_of_them_begin_with_the_same(simulator, tmp_path):
    name = simulator()
    ten = Posterior(simulator=name, parameters=PARAMETERS, at_once=10).simulate(10, seed=1)
    calls = len((tmp_path / "calls").read_text())
    more = Posterior(simulator=name, parameters=PARAMETERS, at_once=10).simulate(25, seed=1)
    assert len((tmp_path / "calls").read_text()) == calls + 2
    assert torch.equal(more.x[:10], ten.x)
    assert torch.equal(more.condition[:10], ten.condition)
    assert torch.allclose(more.condition, more.x + 1)


def test_noise_of_the_given_seed_knows_nothing_of_the_parameters(simulator):
    name = simulator("__import__('numpy').random.default_rng(seed).normal(size=theta.shape)")
    normal = ({"name": "a", "first": 0.0, "second": 1.0, "prior": "normal"},)
    drawn = Posterior(simulator=name, parameters=normal).simulate(1000, seed=1)
    assert np.corrcoef(drawn.x[:, 0], drawn.condition[:, 0])[0, 1] == pytest.approx(0, abs=0.15)


@pytest.mark.parametrize(
    ("result", "error", "said"),
    [
        ("theta[:3]", DomainError, "a row of data for each row"),
        ("theta[:, 0]", DomainError, "returns shape"),
        ("theta + float('nan')", DomainError, r"returns \[nan\] at a="),
        ("theta['a']", InputError, "IndexError"),
    ],
)
def test_what_a_simulator_should_not_return_is_named(simulator, result, error, said):
    with pytest.raises(error, match=said):
        OwnSimulator(simulator(result), PARAMETERS)


def test_a_simulator_that_raises_later_keeps_what_was_paid_for(simulator, tmp_path):
    name = simulator(fails="len(theta) == 10 and len(calls.read_text()) > 3")
    with pytest.raises(InputError, match="magnet quench"):
        Posterior(simulator=name, parameters=PARAMETERS, at_once=10).simulate(30, seed=1)
    kept = list((tmp_path / "data" / "simulations").glob("*.npy"))
    assert len(kept) == 3  # Two calls that look at it, and the first of three blocks.


def test_a_simulator_that_ignores_its_parameters_is_noticed(simulator, caplog):
    with caplog.at_level(logging.WARNING, logger="physgen"):
        OwnSimulator(simulator("__import__('numpy').ones((len(theta), 2))"), PARAMETERS)
    assert "ignores them" in caplog.text


def test_what_cannot_be_meant_is_refused(simulator):
    with pytest.raises(RecipeError, match="two-moons"):
        Posterior(simulator="two-moon")
    with pytest.raises(RecipeError, match="built in"):
        Posterior(parameters=PARAMETERS)
    with pytest.raises(RecipeError, match="name the parameters"):
        OwnSimulator(simulator(), ())
    with pytest.raises(DomainError, match="low < high"):
        Parameter("a", 1.0, 1.0)


def test_moments_of_the_tasks():
    n, rng = 20_000, np.random.default_rng(0)
    moons = TASKS["two-moons"].simulate(np.tile([0.3, -0.5], (n, 1)), seed=1)
    # <r cos a> = 0.1 * 2 / pi for an angle uniform in the right half.
    expected = [0.2 / np.pi + 0.25 - 0.2 / np.sqrt(2), -0.8 / np.sqrt(2)]
    assert np.allclose(moons.mean(0), expected, atol=2e-3)
    theta = np.tile([0.7, -2.9, -1.0, -0.9, 0.6], (n, 1))
    slcp = TASKS["slcp"].simulate(theta, seed=1)
    assert np.allclose(slcp.mean(0), [0.7, -2.9] * 4, atol=0.03)
    covariance = np.cov(slcp[:, :2].T)
    off = np.tanh(0.6) * 1.0 * 0.81
    assert np.allclose(covariance, [[1.0, off], [off, 0.81**2]], atol=0.03)
    linear = TASKS["gaussian-linear"].simulate(rng.normal(size=(n, 10)) * np.sqrt(0.1), seed=1)
    assert np.allclose(linear.var(0), 0.2, atol=0.01)


def test_an_epidemic_ends_at_the_final_size():
    # 1 - r = exp(-R0 r) is the share r that was ever infected; here from its sum of recoveries.
    shares = infected(np.array([[0.5, 0.125], [0.1, 0.125]]))
    assert shares[0].max() > 0.2
    assert (np.diff(shares[1]) < 0).all()  # R0 < 1: it dies out.
    growth = np.log(shares[0, 1] / shares[0, 0]) / 17
    assert growth == pytest.approx(0.5 - 0.125, rel=2e-3)
