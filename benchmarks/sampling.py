"""Samples per second of every family on 8x8 digits, eager and compiled.

The recipes are those of `physgen compare digits`. Speed does not depend on what a
surrogate has learnt, so that they are fitted where they must be, and not trained. What is a map of
noise is timed as that map, compiled as a whole; of diffusion models, which call their network again
and again, the network is compiled. Markov chains are timed from their burn-in on, and stay eager.
"""

import copy
import tempfile
import time
import warnings
from pathlib import Path

import torch

from physgen.comparing import read_plan
from physgen.recipe import read
from physgen.run import Run
from physgen.surrogates.base import FromNoise
from physgen.surrogates.diffusion.model import Diffusion

SAMPLES, REPEATS = 512, 5

EAGER = {"digits-conditional-maf"}
"""Not compiled: its loop over pixels, which digits-maf has too, would take many minutes."""


def surrogate_of(name, folder):
    """Return the surrogate of a recipe as it begins its training."""
    run, _ = Run.create(read(name), folder)
    surrogate = run.build_surrogate()
    surrogate.initialise(run.training_sample())
    return surrogate.eval()


def draws(surrogate):
    """Return how it draws, eager and, where it is a map of noise, compiled."""
    noise = torch.Generator().manual_seed(0)
    if not isinstance(surrogate, FromNoise):
        return [lambda: surrogate.sample(SAMPLES, generator=noise)]
    z = torch.randn(SAMPLES, *surrogate.noise_shape, generator=noise)
    condition = surrogate.conditions.draw(SAMPLES, noise)
    if isinstance(surrogate, Diffusion):
        twin = copy.deepcopy(surrogate)
        twin.denoiser.compile()
        compiled = twin.from_noise
    else:
        compiled = torch.compile(surrogate.from_noise)
    return [lambda: surrogate.from_noise(z, condition), lambda: compiled(z, condition)]


def seconds(draw):
    start = time.perf_counter()
    draw()
    return time.perf_counter() - start


def measure(name, folder):
    """Return one row: samples/s eager, and how many times faster compiled."""
    ways = draws(surrogate_of(name, folder))[: 1 if name in EAGER else None]
    with torch.no_grad():
        for way in ways:
            way()
        times = [[seconds(way) for way in ways] for _ in range(REPEATS)]
    row = {
        "name": f"{name}, eager",
        "value": SAMPLES / sorted(t[0] for t in times)[REPEATS // 2],
        "unit": "samples/s",
    }
    if len(ways) > 1:
        ratios = sorted(t[0] / t[1] for t in times)
        row["peer"] = "compiled"
        row["peer_value"] = SAMPLES / sorted(t[1] for t in times)[REPEATS // 2]
        row["ratio"] = {"median": ratios[REPEATS // 2], "min": ratios[0], "max": ratios[-1]}
    return row


def run() -> dict:
    """Return the figures."""
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in read_plan("digits").recipes:
            try:
                rows.append(measure(name, Path(folder)))
            except Exception as error:
                rows.append({"name": f"{name}, eager", "error": f"{type(error).__name__}: {error}"})
            torch._dynamo.reset()
            print(rows[-1], flush=True)
    return {"threads": 1, "rows": rows}
