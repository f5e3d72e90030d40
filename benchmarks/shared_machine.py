"""Training beside other programs: 100 steps alone, and beside a busy process a core.

The peer is the same command with all threads at all times, waiting actively (what OpenMP does when
nobody says otherwise). Figures are seconds of the training by the clock, from the command's own
lines; a ratio is the time beside busy processes over the median time alone.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from contextlib import contextmanager

RECIPES = ("ising-rbm", "digits-vae", "digits-realnvp")
STEPS, REPEATS = 100, 3
AS_BEFORE = {"OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": "300000"}


@contextmanager
def busy(n):
    """Keep `n` processes busy."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def seconds(recipe, options=(), environment=None):
    """Train, and return the seconds that the command says the training took."""
    with tempfile.TemporaryDirectory() as runs:
        command = [sys.executable, "-m", "physgen", "train", recipe, f"engine.steps={STEPS}"]
        command += [*options, "--no-score", "--no-track", "--runs", runs]
        variables = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
        done = subprocess.run(
            command,
            env={**variables, **(environment or {})},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            check=True,
        )
    return float(re.search(rf"train: {STEPS}/{STEPS}.*  ([\d.]+) s", done.stderr)[1])


def run():
    cores = len(os.sched_getaffinity(0))
    variants = {
        "chosen": ((), {}),
        "before": ((f"engine.threads={cores}",), AS_BEFORE),
    }
    rows = []
    for recipe in RECIPES:
        times = {(kind, where): [] for kind in variants for where in ("alone", "beside")}
        for _ in range(REPEATS):
            for kind, (options, environment) in variants.items():
                times[kind, "alone"].append(seconds(recipe, options, environment))
                with busy(cores):
                    times[kind, "beside"].append(seconds(recipe, options, environment))
        alone = {kind: statistics.median(times[kind, "alone"]) for kind in variants}
        for kind in variants:
            ratios = [t / alone[kind] for t in times[kind, "beside"]]
            rows.append(
                {
                    "name": f"{recipe}, threads {kind}",
                    "value": alone[kind],
                    "unit": f"s for {STEPS} steps alone",
                    "alone": times[kind, "alone"],
                    "beside": times[kind, "beside"],
                    "ratio": {
                        "median": statistics.median(ratios),
                        "min": min(ratios),
                        "max": max(ratios),
                    },
                }
            )
    return rows


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
