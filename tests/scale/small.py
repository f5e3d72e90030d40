"""A run without a training to speak of, and a cluster whose workers die."""

import hashlib
import os
import random
import signal
from pathlib import Path

import psutil

from physgen import pipeline

LATTICE = {"system.shape": [4, 4], "engine.steps": 2, "engine.batch_size": 8}
SPINS = {"system.shape": [4, 4], "data.n": 200, "surrogate.components": 8}
CHANGES = {
    "phi4-coupling": LATTICE,
    "phi4-conditional": {**LATTICE, "surrogate.integration_steps": 2},
    "ising-pca": SPINS,
}


def run_of(name, folder, **changes):
    changes = {**CHANGES[name], "engine.device": "cpu", **changes}
    return pipeline.train(name, changes, runs=folder, score=False, track=False).path


def sums(folder):
    """Return the hashes of all files in a folder, by their names."""
    files = sorted(Path(folder).iterdir())
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


class Reaper:
    """Kills a random worker of this process's cluster after each of some shards, or the next."""

    def __init__(self, at, seed=1):
        self.at, self.random = list(at), random.Random(seed)
        self.calls, self.killed = 0, []

    def __call__(self, done, n):
        self.calls += 1
        workers = sorted(child.pid for child in psutil.Process().children() if is_worker(child))
        if self.at and self.calls >= self.at[0] and workers:
            del self.at[0]
            self.killed.append(self.random.choice(workers))
            os.kill(self.killed[-1], signal.SIGKILL)


def is_worker(process):
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except psutil.Error:  # It has just died.
        return False
