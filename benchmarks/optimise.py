"""Calls of the simulator until an optimisation is there, counted by one counter for all algorithms.

An algorithm is there when the mean of the true objective over five steps in a row is within a share
of the way from the start to the optimum. The truth is closed (three-hump by quadrature), or many
simulations of the absorber, which no algorithm sees. Each algorithm has the settings that were the
best of a few on seeds 1 to 3. The peer is numerical differences. Calls have noise of their own: no
algorithm is given common random numbers.
"""

import functools
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from scipy.interpolate import UnivariateSpline

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
SEEDS = {"l-gso": range(11, 14)}
OTHER_SEEDS = range(11, 20)


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


@functools.cache
def thicknesses():
    """Return a spline of the log of the relative variance, of 16,000 photons a thickness."""
    problem, at = (
        PROBLEMS["absorber"],
        np.concatenate([np.arange(0.8, 3, 0.2), np.arange(3, 6.1, 0.6)]),
    )
    values = [
        float(problem.objective(torch.from_numpy(data)).mean())
        for data in (problem.simulator.simulate(np.full((8000, 1), a), 999) for a in at)
    ]
    return UnivariateSpline(at, np.log(values), k=4, s=len(at) * 2 / 8000)


def absorber(psi):
    return float(np.exp(thicknesses()(max(psi[0], 0.8))))


TRUTH = {
    "three-hump": hump,
    "rosenbrock": lambda psi: float(rosenbrock(psi[None])[0]),
    "submanifold": lambda psi: float(rosenbrock_submanifold(psi[None])[0]),
    "absorber": absorber,
}


def best(name):
    """Return the least of the true objective."""
    if name == "three-hump":
        return min(hump(np.array([0.0, -b])) for b in np.linspace(1, 1.4, 41))
    if name == "absorber":
        return min(absorber(np.array([a])) for a in np.linspace(1, 4, 301))
    return 0.0


def reached(name, overrides):
    """Return calls until it is there, by share (None: never), of all steps, and CPU seconds."""
    plan = read_optimisation(name, overrides)
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        problem = problem_of(plan, Path(folder, "calls"))
        steps = search(problem, Calls(problem), Path(folder), silent)
    seconds = time.process_time() - begun
    truth = [TRUTH[name](found_of(problem, steps[: i + 1]).psi) for i in range(len(steps))]
    start, least = TRUTH[name](problem.start), best(name)
    found = dict.fromkeys(SHARES)
    for share in SHARES:
        limit = least + share * (start - least)
        for i in range(IN_A_ROW - 1, len(truth)):
            if statistics.mean(truth[i + 1 - IN_A_ROW : i + 1]) <= limit:
                found[share] = steps[i].calls
                break
    return found, steps[-1].calls, seconds


def settings(draws, region, rate, steps, points=1):
    return {
        "draws": draws,
        "points": points,
        "region": region,
        "learning_rate": rate,
        "steps": steps,
        "schedule": "constant",
    }


# By problem, and by algorithm those for each share that were the best for it; of l-gso the shipped.
CHOSEN = {
    "three-hump": {
        "l-gso": [{}],
        "differences": [
            settings(3, 0.5, 0.4, 120) | {"schedule": "cosine"},
            settings(10, 0.25, 0.4, 120) | {"schedule": "cosine"},
        ],
        "score-function": [settings(1, 0.3, 0.3, 150, 30), settings(1, 0.3, 0.3, 150, 100)],
        "bayesian": [settings(100, 0.5, 0.2, 80)],
    },
    "rosenbrock": {
        "l-gso": [{}],
        "differences": [settings(1, 0.5, 0.2, 120), settings(10, 0.2, 0.5, 240)],
        "score-function": [settings(1, 0.3, 0.3, 200, 100)],
        "bayesian": [settings(30, 0.5, 0.2, 80)],
    },
    "submanifold": {
        "l-gso": [{}],
        "differences": [settings(1, 0.5, 0.2, 100)],
        "score-function": [settings(1, 0.1, 1.0, 100, 300)],
    },
    "absorber": {
        "l-gso": [{}],
        "differences": [settings(30, 0.5, 0.5, 40), settings(100, 0.5, 0.5, 40)],
        "score-function": [settings(1, 0.3, 0.5, 40, 300)],
        "bayesian": [settings(100, 0.5, 0.2, 25)],
    },
}


def measure(name, algorithm):
    """Return calls by share, those of all seeds, for the settings of an algorithm."""
    found = {share: [] for share in SHARES}
    choices = CHOSEN[name][algorithm]
    limit, seconds = {}, []
    for number, chosen in enumerate(choices):
        shares = SHARES if len(choices) == 1 else SHARES[number : number + 1]
        for seed in SEEDS.get(algorithm, OTHER_SEEDS):
            calls, total, took = reached(name, chosen | {"algorithm": algorithm, "seed": seed})
            seconds.append(took)
            for share in shares:
                found[share].append(calls[share])
                limit[share] = total
    print(name, algorithm, found, f"{statistics.median(seconds):.1f} s", flush=True)
    return found, limit, statistics.median(seconds)


def median(calls):
    """Return the median, `None` if it is of those that were not there in all their calls."""
    middle = sorted(float("inf") if one is None else one for one in calls)[len(calls) // 2]
    return None if middle == float("inf") else middle


def run():
    torch.set_num_threads(1)
    rows = []
    for name, algorithms in CHOSEN.items():
        results = {algorithm: measure(name, algorithm) for algorithm in algorithms}
        for share in SHARES:
            peer = median(results["differences"][0][share])
            for algorithm, (found, limit, seconds) in results.items():
                value = median(found[share])
                rows.append(
                    {
                        "name": f"{name}, {algorithm}, within {share:.0%}",
                        "value": value,
                        "unit": "calls of the simulator (less is better)",
                        "calls": found[share],
                        "of": limit[share],
                        "seconds": round(seconds, 1),
                        "settings": CHOSEN[name][algorithm][-1 if share == SHARES[-1] else 0],
                        "peer": "numerical differences",
                        "peer_value": peer,
                        "ratio": None if None in (value, peer) else {"median": peer / value},
                    }
                )
    return {"benchmark": "optimise", "results": rows}
