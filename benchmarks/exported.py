"""Milliseconds a sample at batch 1, one thread: exported models by onnxruntime, and eager torch.

Speed does not depend on what a surrogate has learnt: these are fitted where they must be, and not
trained. Both are given the noise. Times are CPU time, repeats alternating, the median of each.
"""

import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from physgen.export.onnx import exported, tried
from physgen.recipe import read
from physgen.run import Run

FEW = {"data.n": 1000}
FOUR_STEPS = {"sampling.sampler": {"kind": "ddim", "steps": 4, "spacing": "even"}}
RECIPES = {
    "digits-vae": {},
    "digits-dcgan": {},
    "digits-realnvp": {},
    "digits-spline-flow": {},
    "digits-ddim": FOUR_STEPS,
    "phi4-flow": {},
    "calo-vae": FEW,
    "calo-flow-distilled": FEW,
    "calo-flow-matching": FEW | FOUR_STEPS,
}
CALLS, REPEATS = 30, 7


def surrogate_of(name, folder):
    """Return the surrogate of a recipe as it begins its training."""
    run, _ = Run.create(read(name, RECIPES[name]), folder)
    surrogate = run.build_surrogate()
    surrogate.initialise(run.training_sample())
    return surrogate.eval()


def milliseconds(draw):
    start = time.process_time()
    for _ in range(CALLS):
        draw()
    return 1e3 * (time.process_time() - start) / CALLS


def measure(name, folder):
    """Return one row: ms a sample by onnxruntime, and how many times longer torch takes."""
    surrogate = surrogate_of(name, folder)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    content = exported(surrogate).SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    noise, conditions = tried(surrogate, 1)
    given = torch.cat(conditions, 1) if conditions else None
    names = [one.name for one in session.get_inputs()]
    feed = {key: row.numpy() for key, row in zip(names, [noise, *conditions], strict=True)}

    def by_onnxruntime():
        return session.run(None, feed)[0]

    def by_torch():
        return surrogate.from_noise(noise, given).numpy()

    with torch.no_grad():
        found, expected = by_onnxruntime(), by_torch()
        difference = np.abs(found - expected).max() / np.abs(expected).max()
        times = [[milliseconds(way) for way in (by_onnxruntime, by_torch)] for _ in range(REPEATS)]
    ratios = sorted(slow / fast for fast, slow in times)
    return {
        "name": f"{name}, onnxruntime, batch 1",
        "value": sorted(t[0] for t in times)[REPEATS // 2],
        "unit": "ms of CPU time a sample (less is better)",
        "peer": "eager torch",
        "peer_value": sorted(t[1] for t in times)[REPEATS // 2],
        "ratio": {"median": ratios[REPEATS // 2], "min": ratios[0], "max": ratios[-1]},
        "difference": float(difference),
        "megabytes": round(len(content) / 1e6, 2),
    }


def run() -> dict:
    """Return the figures."""
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in RECIPES:
            try:
                rows.append(measure(name, Path(folder)))
            except Exception as error:
                rows.append({"name": name, "error": f"{type(error).__name__}: {error}"})
            print(rows[-1], flush=True)
    return {"threads": 1, "rows": rows}
