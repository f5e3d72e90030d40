"""Calls of the simulator until an optimisation is there, counted by one counter for all algorithms.

An algorithm is there when the mean of the true objective over five steps in a row is within 5% of
the way from the start to the optimum. The truth is closed (three-hump by quadrature), or many
simulations of the absorber, which no algorithm sees. Each algorithm has the settings that were the
best of a few on other seeds. The peer is numerical differences.
"""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from physgen.optimisation.plan import problem_of, read_optimisation
from physgen.optimisation.verb import Calls, found_of, search
from physgen.systems.design_problems import (
    PROBLEMS,
    rosenbrock,
    rosenbrock_submanifold,
    three_hump,
)
from physgen.training import silent

SHARES, IN_A_ROW = (0.05, 0.02), 5
SEEDS = (11, 12, 13, 14, 15)


def hump(psi):
    """E[sigma(y - 10) - sigma(y)] by quadrature over x, and over the noise of y, N(0, 2)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    size = np.abs(psi)
    share = size[0] / max(size.sum(), 1e-12)
    total = 0.0
    for odds, (low, high) in ((share, (-2, 0)), (1 - share, (2, 5))):
        points, area = np.polynomial.legendre.leggauss(40)
        x = (low + high) / 2 + (high - low) / 2 * points
        y = (x * three_hump(psi[None])[0])[:, None] + np.sqrt(2) * nodes
        value = 1 / (1 + np.exp(-np.clip(y - 10, -500, 500))) - 1 / (
            1 + np.exp(-np.clip(y, -500, 500))
        )
        total += odds * float(area / 2 @ value @ (weights / weights.sum()))
    return total


def absorber(psi):
    problem = PROBLEMS["absorber"]
    data = problem.simulator.simulate(np.repeat(psi[None], 8000, 0), 999)
    return float(problem.objective(torch.from_numpy(data)).mean())


TRUTH = {
    "three-hump": hump,
    "rosenbrock": lambda psi: float(rosenbrock(psi[None])[0]),
    "submanifold": lambda psi: float(rosenbrock_submanifold(psi[None])[0]),
    "absorber": absorber,
}
BEST = {
    "three-hump": hump(np.array([0.0, -1.2])),
    "rosenbrock": 0.0,
    "submanifold": 0.0,
    "absorber": absorber(np.array([2.1])),
}


def reached(name, overrides):
    """Return calls until it is there, by share (None: never), of all steps, and CPU seconds."""
    plan = read_optimisation(name, overrides)
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        problem = problem_of(plan, Path(folder, "calls"))
        steps = search(problem, Calls(problem), Path(folder), silent)
    seconds = time.process_time() - begun
    truth = [TRUTH[name](found_of(problem, steps[: i + 1]).psi) for i in range(len(steps))]
    start = TRUTH[name](problem.start)
    found = dict.fromkeys(SHARES)
    for share in SHARES:
        limit = BEST[name] + share * (start - BEST[name])
        for i in range(IN_A_ROW - 1, len(truth)):
            if statistics.mean(truth[i + 1 - IN_A_ROW : i + 1]) <= limit:
                found[share] = steps[i].calls
                break
    return found, steps[-1].calls, seconds
