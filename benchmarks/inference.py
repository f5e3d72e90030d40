"""Posteriors from few simulations, beside those of `sbi`: classifier tests against exact draws.

Both learn from the same simulations of a task, ours by the quickstart of its recipe, theirs by
neural posterior estimation with its default training and a neural spline flow, as in the figures
that the benchmark of inference published. Then the same exact draws are
told from those of either, of the same observations. A C2ST of 0.5 is perfect.
"""

import contextlib
import io
import logging
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch

import physgen
from physgen.inference import infer
from physgen.systems.inference_tasks import TASKS
from physgen.systems.posterior import Posterior
from physgen.validation.posterior_test import accuracy

SEEDS = 1, 2, 3
SIMULATIONS, OBSERVATIONS, DRAWS = 1000, 5, 1000
NAMES = "two-moons", "slcp"


def ours(name, observations, seed):
    """Return (observations, draws, P) draws, and the CPU seconds of the training."""
    changes = {"data.n": SIMULATIONS, "data.seed": seed, "engine.seed": seed}
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        run = physgen.train(
            f"infer-{name}", changes, preset="quickstart", runs=folder, score=False, track=False
        )
        seconds = time.process_time() - start
        output = Path(folder) / "draws.h5"
        logging.getLogger("physgen").setLevel(logging.ERROR)  # No calibration was asked for.
        infer(run.path, observations, DRAWS, output, seed=seed, extrapolate=True)
        draws = Posterior(simulator=name).open(output).read(0, len(observations) * DRAWS).x
    return draws.double().numpy().reshape(len(observations), DRAWS, -1), seconds


def prior_of(task):
    """Return the prior of a task as sbi takes it."""
    from sbi.utils import BoxUniform

    first = torch.tensor([one.first for one in task.parameters])
    second = torch.tensor([one.second for one in task.parameters])
    if task.parameters[0].prior == "uniform":
        return BoxUniform(first, second)
    return torch.distributions.MultivariateNormal(first, torch.diag(second**2))


def theirs(name, observations, seed):
    """The same of sbi."""
    from sbi.inference import NPE

    batch = Posterior(simulator=name).simulate(SIMULATIONS, seed)
    torch.manual_seed(seed)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        start = time.process_time()
        trainer = NPE(prior_of(TASKS[name]), density_estimator="nsf", show_progress_bars=False)
        trainer.append_simulations(batch.x, batch.condition).train()
        posterior = trainer.build_posterior()
        seconds = time.process_time() - start
        draws = [
            posterior.sample((DRAWS,), x=x.float(), show_progress_bars=False) for x in observations
        ]
    return torch.stack(draws).double().numpy(), seconds


def measure(name, seed):
    """Return the mean C2ST and the CPU seconds of both, by name."""
    system = Posterior(simulator=name)
    observations = system.simulate(OBSERVATIONS, 1000 + seed).condition.double()
    exact = [system.exact_posterior(x, DRAWS, seed) for x in observations]
    found = {}
    for who, method in (("physgen", ours), ("sbi", theirs)):
        draws, seconds = method(name, observations, seed)
        scores = [accuracy(*pair) for pair in zip(exact, draws, strict=True)]
        found[who] = float(np.mean(scores)), seconds
        print(f"{name}, seed {seed}, {who}: C2ST {found[who][0]:.3f}, {seconds:.0f} s", flush=True)
    return found


def run() -> dict:
    """Return the figures."""
    torch.set_num_threads(1)
    rows = []
    for name in NAMES:
        found = [measure(name, seed) for seed in SEEDS]
        for column, unit in ((0, "C2ST (0.5 is perfect)"), (1, "CPU seconds of the training")):
            pairs = [(one["physgen"][column], one["sbi"][column]) for one in found]
            ratios = [theirs / ours for ours, theirs in pairs]
            rows.append(
                {
                    "name": f"posterior of {name}, {SIMULATIONS} simulations",
                    "value": float(np.median([ours for ours, _ in pairs])),
                    "unit": unit,
                    "peer": "sbi, neural posterior estimation, spline flow",
                    "peer_value": float(np.median([theirs for _, theirs in pairs])),
                    "ratio": {
                        "median": float(np.median(ratios)),
                        "min": min(ratios),
                        "max": max(ratios),
                    },
                }
            )
    return {"threads": 1, "seeds": len(SEEDS), "observations": OBSERVATIONS, "rows": rows}
