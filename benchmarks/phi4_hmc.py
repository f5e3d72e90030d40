"""Site-forces a second of compiled phi^4 HMC, beside the same HMC in numpy over many chains.

A site-force is one evaluation of dS/dphi at one site; a trajectory of 10 steps has 11 of them a
site. Momenta, energies and the accept step are in the time, too. CPU time of one core.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable

import numpy as np

from physgen.systems.kernels import scalar as kernel

M2, LAM, STEP, N_STEPS, REPEATS = -4.0, 8.0, 0.1, 10, 5
POINTS = {(8, 8): 400, (32, 32): 25, (4, 4, 4, 4): 60}
"""Trajectories a repeat, by shape."""


def ours(shape: tuple[int, ...]) -> Callable[[int], float]:
    n_sites = math.prod(shape)
    phi = np.random.default_rng(1).normal(size=(n_sites, kernel.LANES)) * 0.3
    states = kernel.streams(1, kernel.LANES)
    theory, steps = kernel.Theory(kernel.neighbours(shape), M2, LAM), kernel.Steps(STEP, N_STEPS)

    def run(n: int) -> float:
        out = np.empty((1, kernel.LANES, n_sites))
        kernel.trajectories(phi, states, theory, steps, n, out)
        return n * kernel.LANES * n_sites * (N_STEPS + 1)

    return run


def numpy_peer(shape: tuple[int, ...], n_chains: int = 256) -> Callable[[int], float]:
    generator = np.random.default_rng(1)
    phi = generator.normal(size=(n_chains, *shape)) * 0.3
    axes = tuple(range(1, 1 + len(shape)))
    mass = M2 + 2 * len(shape)

    def force(x: np.ndarray) -> np.ndarray:
        near = sum(np.roll(x, 1, axis) + np.roll(x, -1, axis) for axis in axes)
        return 2 * near - x * (2 * mass + 4 * LAM * x * x)

    def energy(x: np.ndarray, p: np.ndarray) -> np.ndarray:
        near = sum(np.roll(x, 1, axis) for axis in axes)
        return (0.5 * p * p + x * x * (mass + LAM * x * x) - 2 * x * near).sum(axes)

    def run(n: int) -> float:
        nonlocal phi
        for _ in range(n):
            p = generator.standard_normal(phi.shape)
            before, x = energy(phi, p), phi
            p = p + 0.5 * STEP * force(x)
            for i in range(N_STEPS):
                x = x + STEP * p
                p = p + (STEP if i < N_STEPS - 1 else 0.5 * STEP) * force(x)
            accept = generator.random(n_chains) < np.exp(np.minimum(0, before - energy(x, p)))
            phi = np.where(accept.reshape(-1, *[1] * len(shape)), x, phi)
        return n * phi.size * (N_STEPS + 1)

    return run


def rate(run: Callable[[int], float], n: int) -> float:
    start = time.process_time()
    return run(n) / (time.process_time() - start)


def run() -> dict[str, object]:
    results = []
    for shape, n in POINTS.items():
        mine, peer = ours(shape), numpy_peer(shape)
        mine(1), peer(1)
        pairs = [(rate(mine, n), rate(peer, max(1, n // 40))) for _ in range(REPEATS)]
        ratios = [a / b for a, b in pairs]
        results.append(
            {
                "name": f"phi^4 HMC on {'x'.join(map(str, shape))}",
                "value": statistics.median(a for a, _ in pairs) / 1e6,
                "unit": "million site-forces / s / core",
                "peer": "the same in numpy, 256 chains at once",
                "peer_value": statistics.median(b for _, b in pairs) / 1e6,
                "ratio": {
                    "median": statistics.median(ratios),
                    "min": min(ratios),
                    "max": max(ratios),
                },
            }
        )
    return {"results": results}
