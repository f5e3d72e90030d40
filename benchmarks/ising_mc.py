"""Spin flips a second at the critical point: byte spins and 64 bit-packed replicas.

Peers in the same process: a checkerboard in numpy (`np.roll`), and a plain numba loop that visits
the sites one by one with numba's own random numbers. Figures are trial flips of CPU time.
"""

import json
import statistics
import time

import numpy as np
from numba import njit

from physgen.systems.ising import CRITICAL_TEMPERATURE
from physgen.systems.kernels import ising as kernel

REPEATS = 7


def numpy_roll(spins, n_sweeps, rng, masks):
    for _ in range(n_sweeps):
        for mask in masks:
            near = sum(np.roll(spins, shift, axis) for shift in (1, -1) for axis in (0, 1))
            accept = rng.random(spins.shape) < np.exp(-2 * spins * near / CRITICAL_TEMPERATURE)
            spins[mask & accept] *= -1


@njit(cache=True)
def plain_numba(spins, n_sweeps, table):
    rows, columns = spins.shape
    for _ in range(n_sweeps):
        for i in range(rows):
            for j in range(columns):
                near = (
                    spins[i - 1, j]
                    + spins[(i + 1) % rows, j]
                    + spins[i, j - 1]
                    + spins[i, (j + 1) % columns]
                )
                cost = spins[i, j] * near
                if cost <= 0 or np.random.random() < table[cost]:  # noqa: NPY002 (what numba has)
                    spins[i, j] = -spins[i, j]


def measure(size):
    state = kernel.random_state(1)
    spins = {name: np.ones((size, size), np.int8) for name in ("int8", "roll", "plain")}
    words = np.zeros((size, size), np.uint64)
    rng, table = np.random.default_rng(1), np.exp(-2 * np.arange(5) / CRITICAL_TEMPERATURE)
    even = np.add.outer(np.arange(size), np.arange(size)) % 2 == 0
    flips = size * size
    runs = {
        "int8": (
            1,
            lambda n: kernel.metropolis(spins["int8"], CRITICAL_TEMPERATURE, 0.0, n, state),
        ),
        "packed": (64, lambda n: kernel.metropolis_64(words, CRITICAL_TEMPERATURE, n, state)),
        "roll": (1, lambda n: numpy_roll(spins["roll"], n, rng, (even, ~even))),
        "plain": (1, lambda n: plain_numba(spins["plain"], n, table)),
    }
    work = {"int8": 4e7, "packed": 4e6, "roll": 1e6, "plain": 2e7}
    rates = {name: [] for name in runs}
    for repeat in range(REPEATS + 1):
        for name, (replicas, function) in runs.items():
            n = max(1, int(work[name] / flips))
            start = time.process_time()
            function(n)
            seconds = time.process_time() - start
            if repeat:  # the first compiles, and warms the lattice up
                rates[name].append(replicas * n * flips / seconds / 1e6)
    titles = {"int8": "Metropolis, one byte a spin", "packed": "Metropolis, 64 replicas in a word"}
    peers = {"plain": "plain numba loop", "roll": "numpy roll checkerboard"}
    results = []
    for name, title in titles.items():
        for peer, peer_title in peers.items():
            ratios = [a / b for a, b in zip(rates[name], rates[peer], strict=True)]
            results.append(
                {
                    "name": f"{title}, {size}x{size}",
                    "value": statistics.median(rates[name]),
                    "unit": "Mflips/s of CPU time, one core",
                    "peer": peer_title,
                    "peer_value": statistics.median(rates[peer]),
                    "ratio": {
                        "median": statistics.median(ratios),
                        "min": min(ratios),
                        "max": max(ratios),
                    },
                }
            )
    return results


def run():
    return {
        "benchmark": "ising-mc",
        "results": [row for size in (32, 128) for row in measure(size)],
    }


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
