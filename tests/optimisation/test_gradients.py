"""Gradients through surrogates of simulators whose derivatives are known."""

import numpy as np
import pytest
import torch
import yaml

from physgen.optimisation.algorithms import Differences, ScoreFunction
from physgen.optimisation.local import LocalSurrogate, within
from physgen.optimisation.plan import problem_of, read_optimisation
from physgen.systems.design_problems import (
    PROBLEMS,
    rosenbrock,
    rosenbrock_submanifold,
    submanifold,
    three_hump,
)

SLOPE = np.array([1.0, -0.5])
PARTS = {
    "flow": {},
    "generator": {
        "surrogate": {"kind": "generator", "latent": 8, "network": {"kind": "mlp", "hidden": [64]}},
        "method": {"kind": "adversarial", "r1": 0.1, "critic": {"kind": "mlp", "hidden": [64]}},
        "engine": {"steps": 600, "batch_size": 256},
    },
    "diffusion-flow": {
        "surrogate": {
            "kind": "diffusion-flow",
            "integration_steps": 4,
            "network": {"kind": "residual", "hidden": 64, "depth": 1},
        },
        "method": {"kind": "flow-matching", "learning_rate": 0.003},
        "engine": {"steps": 500, "batch_size": 256},
    },
}


def linear(tmp_path, **settings):
    """y ~ N(psi.SLOPE, 1/2): the gradient of E[y^2] is 2 (psi.SLOPE) SLOPE."""
    (tmp_path / "linear.py").write_text(
        "import numpy as np\n"
        "def simulate(theta, seed):\n"
        "    noise = np.random.default_rng(seed).standard_normal(len(theta))\n"
        f"    return (theta @ {SLOPE.tolist()} + 0.5 * noise)[:, None]\n"
        "def square(data):\n"
        "    return data[:, 0] ** 2\n"
    )
    plan = {
        "name": "linear",
        "simulator": "linear.py:simulate",
        "objective": "linear.py:square",
        "parameters": [{"name": n, "first": -4, "second": 4} for n in "ab"],
        "start": {"a": 1.5, "b": 1.0},
        "region": 0.5,
    }
    plan |= {"engine": {"steps": 200, "batch_size": 256}} | settings
    plan.setdefault(
        "surrogate",
        {"kind": "flow", "bijection": {"kind": "coupling", "n_layers": 1, "hidden": [32]}},
    )
    plan.setdefault("method", {"kind": "maximum-likelihood", "learning_rate": 0.005})
    file = tmp_path / "linear.yaml"
    file.write_text(yaml.safe_dump(plan))
    return problem_of(read_optimisation(file), tmp_path / "calls")


def data_around(problem, n):
    theta = problem.start + np.random.default_rng(3).uniform(-0.5, 0.5, (n, 2))
    return theta, problem.design.simulator.simulate(theta, 5)


@pytest.mark.parametrize(
    "kind", ["flow", *[pytest.param(k, marks=pytest.mark.slow) for k in list(PARTS)[1:]]]
)
def test_gradients_through_a_surrogate_are_those_of_the_simulator(tmp_path, kind):
    problem = linear(tmp_path, **PARTS[kind])
    surrogate = LocalSurrogate(problem, *data_around(problem, 4000), seed=1)
    estimate = surrogate.estimate(problem.start, seed=2)
    at = problem.start @ SLOPE
    assert estimate.objective == pytest.approx(at**2 + 0.25, abs=0.2)
    assert estimate.gradient == pytest.approx(2 * at * SLOPE, abs=0.6)
    again = surrogate.estimate(problem.start, seed=2)
    assert (again.gradient == estimate.gradient).all()


@pytest.mark.parametrize("algorithm", [Differences, ScoreFunction])
def test_gradients_without_surrogates_are_those_of_the_simulator(tmp_path, algorithm):
    problem = linear(tmp_path, points=4000, draws=1 if algorithm is ScoreFunction else 1000)
    one = algorithm(problem)
    theta = one.design(7)
    data = problem.design.simulator.simulate(theta, 8)
    estimate = one.estimate(theta, data, 7)
    at = problem.start @ SLOPE
    assert estimate.gradient == pytest.approx(2 * at * SLOPE, abs=0.25)
    assert len(theta) == 4000


def test_inputs_are_given_to_the_surrogate_and_come_as_they_were():
    problem = problem_of(read_optimisation("rosenbrock", {"engine.steps": 3}))
    theta = problem.start + np.zeros((50, 1))
    data = problem.design.simulator.simulate(theta, 1)
    surrogate = LocalSurrogate(problem, theta, data, seed=1)
    assert surrogate.rows.x.shape == (50, 1)
    assert surrogate.rows.condition.shape == (50, 11)
    inputs = torch.from_numpy(data[:, :1])
    seen = []
    problem.design.__dict__["objective"] = lambda rows: seen.append(rows) or rows[:, 1]
    surrogate.values(torch.from_numpy(theta), inputs, torch.Generator().manual_seed(1))
    assert torch.equal(seen[-1][:, :1], inputs)


def test_only_rows_of_the_region_are_learned_from():
    theta = np.array([[0.5, 0.0], [0.5, 0.51], [-0.5, 0.5]])
    assert within(theta, np.zeros(2), np.array([0.5, 0.5])).tolist() == [True, False, True]


def test_built_in_problems_have_the_means_of_their_definitions():
    n = 40_000
    psi = np.random.default_rng(1).normal(1, 0.5, 10)
    y = PROBLEMS["rosenbrock"].simulator.simulate(np.tile(psi, (n, 1)), 1)
    assert (y[:, 1] - y[:, 0]).mean() == pytest.approx(rosenbrock(psi[None])[0], abs=0.04)
    assert (y[:, 1] - y[:, 0]).var() == pytest.approx(2, rel=0.05)
    assert rosenbrock(np.ones((1, 10))) == 0
    wide = submanifold(100) @ np.ones(10)
    assert rosenbrock_submanifold(wide[None]) == pytest.approx(0, abs=1e-12)
    hump = PROBLEMS["three-hump"].simulator.simulate(np.tile([0.0, -1.2], (n, 1)), 1)
    assert hump[:, 2].mean() == pytest.approx(
        3.5 * three_hump(np.array([[0.0, -1.2]]))[0], abs=0.05
    )


def test_the_absorber_that_resolves_best_is_neither_thin_nor_thick():
    problem = PROBLEMS["absorber"]
    theta = np.repeat([[1.0], [2.1], [5.0]], 300, 0)
    values = problem.objective(torch.from_numpy(problem.simulator.simulate(theta, 1)))
    thin, best, thick = values.reshape(3, -1).mean(1).tolist()
    assert best < 0.75 * thick < thin
