"""Training and sampling of the main recipes on the device there is, against what it can do at most.

The peer of a training is the device itself: the rate of a large matrix product, in the precision
of the training, and of a large copy. FLOP are those of matrix products and convolutions; bytes are
all that the operations of a step read and write, as if each went to memory and back, so that caches
and compiled kernels, which fuse operations, may do better than the ceiling.

Whatever the device, all is done within nine minutes: of a recipe as few steps are timed as fit into
`TRAINING` seconds, batches that would take longer than `SAMPLING` are left out, and no recipe is
begun after `LAST`. What is left out is said.
"""

import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import physgen
from physgen.batch import Batch
from physgen.conversion import ShowerOptions, convert
from physgen.recipe import presets_of, read
from physgen.run import Run
from physgen.simulation import simulate
from physgen.systems.jets import Jets
from physgen.timing import milliseconds

ROWS = 20_000
"""Rows of what is simulated: the speed does not depend on how many there are."""
FEW = {"data.n": ROWS, "data.fit_rows": ROWS // 2}


def of_points(folder):
    """Return the changes that give showers of points."""
    voxels, points = folder / "voxels.h5", folder / "points.h5"
    simulate(read("calo-flow", {}), voxels, ROWS // 5, 1)
    convert(voxels, points, to="showerdata", showers=ShowerOptions("calo-368.xml"))
    return {"data.path": str(points)}


def of_jets(folder):
    """Return the changes that give jets, of random particles: they take no Pythia."""
    generator = np.random.default_rng(1)
    shape = ROWS, Jets().schema.shape[0]
    number = generator.integers(10, shape[1] + 1, (ROWS, 1))
    mask = np.arange(shape[1]) < number
    pt = mask * generator.exponential(1.0, shape)
    position = generator.normal(0, 0.1, (*shape, 2))
    x = np.concatenate([position, (pt / pt.sum(1, keepdims=True))[..., None]], 2)
    x = (mask[..., None] * x).astype("f4")
    with Jets().writer(folder / "jets.h5", ROWS) as append:
        append(Batch(torch.from_numpy(x), mask=torch.from_numpy(mask)))
    return {"data.path": str(folder / "jets.h5")}


RECIPES = {
    "calo-flow": FEW,
    "calo-flow-matching": FEW,
    "calo-vae": FEW,
    "calo-6480": {"data.n": ROWS // 5, "data.fit_rows": ROWS // 10},
    "calo-points-flow": of_points,
    "jets-gluon-flow": of_jets,
    "refine-bridge": {
        "data.fast.path": f"simulated:showers-fast/1/{ROWS}",
        "data.full.path": f"simulated:showers-full/1/{ROWS}",
    },
    "events-flow": {},
    "ising-rbm": {},
    "phi4-flow": {},
}
"""Changes of what is measured, or a function that makes them and files in a folder."""
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BATCHES = (1, 100, 1000, 10_000)
COUNTED, WINDOW, WINDOWS, REPEATS = 6, 20, 6, 5
TRAINING, SAMPLING, LAST = 15.0, 15.0, 360.0
"""Seconds; a recipe is compiled, and draws every batch once, besides."""
FEWER = {"engine.checkpoint_every": 10**6, "engine.evaluate_every": 10**6}


class Bytes(TorchDispatchMode):
    """Counts the bytes of all tensors that operations take and give; views are free."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        if not function.is_view:
            leaves = tree_leaves((arguments, options, result))
            self.total += sum(x.nbytes for x in leaves if isinstance(x, torch.Tensor))
        return result


def rate(work, each):
    """Return the median of `each` over the seconds that a call of `work` takes."""
    taken = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        work()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return each / statistics.median(taken[1:])


def ceilings():
    """Return FLOP/s by precision, and bytes/s, of the device."""
    n, size = (8192, 2**28) if DEVICE.type == "cuda" else (1024, 2**24)
    found = {}
    for name, kind in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = (torch.randn(n, n, device=DEVICE, dtype=kind) for _ in range(2))
        found[name] = rate(lambda a=a, b=b: a @ b, 2 * n**3)
    found["float64"] = found["float32"]
    x = torch.zeros(size, device=DEVICE)
    y = torch.empty_like(x)
    return found, rate(lambda: y.copy_(x), 2 * x.nbytes)


def trained(name, folder, changes, progress):
    """Train a recipe at its size for the device, without scores."""
    preset = "gpu" if DEVICE.type == "cuda" and "gpu" in presets_of(name) else None
    return physgen.train(
        name,
        {**changes, **FEWER},
        preset=preset,
        runs=folder,
        score=False,
        track=False,
        progress=progress,
    )


def work_of_a_step(name, folder, changes):
    """Return FLOP, bytes and seconds of a training step, the uncompiled one while it is counted."""
    seen = {}
    with FlopCounterMode(display=False) as operations, Bytes() as memory:

        def progress(stage, done, total, figures):
            if "train" in stage:
                seen[done] = (operations.get_total_flops(), memory.total, time.perf_counter())

        steps = {"engine.steps": COUNTED, "engine.log_every": 1, "engine.compile": False}
        trained(name, folder, changes | steps, progress)
    first, last = 1, COUNTED - 1
    return [(b - a) / (last - first) for a, b in zip(seen[first], seen[last], strict=True)]


def steps_a_second(name, folder, changes, seconds):
    """Return the run, and steps a second by windows, the first two left out.

    A step takes no longer than the given seconds.
    """
    window = max(1, min(WINDOW, int(TRAINING / seconds / (WINDOWS + 2))))
    marks = []

    def progress(stage, done, total, figures):
        if "train" in stage and done:
            marks.append(time.perf_counter())

    steps = {"engine.steps": window * (WINDOWS + 2), "engine.log_every": window}
    run = trained(name, folder, changes | steps, progress)
    return run, [window / (b - a) for a, b in pairwise(marks)][1:-1]


def measure(name, folder, most, copies):
    """Return the rows of a recipe."""
    changes = RECIPES[name]
    changes = changes(folder) if callable(changes) else changes
    flop, moved, seconds = work_of_a_step(name, folder, changes)
    run, speeds = steps_a_second(name, folder, changes, seconds)
    engine, median = run.recipe.engine, statistics.median(speeds)
    rows = []
    for what, each, unit, ceiling in (
        ("FLOP", flop, "FLOP/s", most[engine.precision]),
        ("bytes", moved, "bytes/s", copies),
    ):
        rows.append(
            {
                "name": f"{name}: training, {what}, {engine.precision}",
                "value": each * median,
                "unit": unit,
                "peer": "a matrix product" if what == "FLOP" else "a copy",
                "peer_value": ceiling,
                "ratio": {
                    "median": each * median / ceiling,
                    "min": each * min(speeds) / ceiling,
                    "max": each * max(speeds) / ceiling,
                },
            }
        )
    rows.append(
        {
            "name": f"{name}: training, batches of {engine.batch_size}",
            "value": engine.batch_size * median,
            "unit": "samples/s",
            "spread": [engine.batch_size * v for v in (min(speeds), max(speeds))],
        }
    )
    return rows + sampling(run)


def sampling(run: Run):
    """Return milliseconds a sample by batch, on one thread where the device is a CPU."""
    surrogate = run.load().to(DEVICE)
    rows = None if run.data is None else run.data.source.read(0, 2000).condition
    found, last = [], 0.0
    for size in BATCHES:
        row = {"name": f"{run.recipe.name}: sampling, batches of {size}", "unit": "ms a sample"}
        # The last size says how long this one takes at most.
        expected = last * size / 1000
        if expected > SAMPLING:
            found.append({**row, "value": None, "note": f"may take {expected:.0f} s a batch"})
            continue
        repeats = max(1, min(REPEATS, int(SAMPLING / expected))) if expected else REPEATS
        values = milliseconds(surrogate, rows, batches=[size], repeats=repeats, seed=1)[size]
        last = float(statistics.median(values))
        spread = [float(min(values)), float(max(values))]
        found.append({**row, "value": last, "spread": spread})
    return found


def run():
    start = time.perf_counter()
    most, copies = ceilings()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in RECIPES:
            if time.perf_counter() - start > LAST:
                rows.append({"name": name, "value": None, "unit": "", "note": "no time was left"})
                continue
            rows += measure(name, Path(folder), most, copies)
    return rows
