"""Training and sampling of the main recipes on the device there is, against what it can do at most.

The peer of a training is the device itself: the rate of a large matrix product, in the precision
of the training, and of a large copy. FLOP are those of matrix products and convolutions; bytes are
all that the operations of a step read and write, as if each went to memory and back, so that caches
and compiled kernels, which fuse operations, may do better than the ceiling.
"""

import statistics
import tempfile
import time
from itertools import pairwise

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import physgen
from physgen.recipe import presets_of
from physgen.run import Run
from physgen.timing import milliseconds

RECIPES = ("calo-flow", "calo-flow-matching", "calo-vae", "events-flow", "ising-rbm", "phi4-flow")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BATCHES = (1, 100, 10_000)
COUNTED, WINDOW, WINDOWS, REPEATS = 6, 20, 6, 5
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
        {**FEWER, **changes},
        preset=preset,
        runs=folder,
        score=False,
        track=False,
        progress=progress,
    )


def work_of_a_step(name, folder):
    """Return the FLOP and the bytes of a training step, from the uncompiled one."""
    seen = {}
    with FlopCounterMode(display=False) as operations, Bytes() as memory:

        def progress(stage, done, total, figures):
            if "train" in stage:
                seen[done] = (operations.get_total_flops(), memory.total)

        steps = {"engine.steps": COUNTED, "engine.log_every": 1, "engine.compile": False}
        trained(name, folder, steps, progress)
    first, last = 1, COUNTED - 1
    return [(b - a) / (last - first) for a, b in zip(seen[first], seen[last], strict=True)]


def steps_a_second(name, folder):
    """Return the run, and steps a second by windows, the first two left out."""
    marks = []

    def progress(stage, done, total, figures):
        if "train" in stage and done:
            marks.append(time.perf_counter())

    steps = {"engine.steps": WINDOW * (WINDOWS + 2), "engine.log_every": WINDOW}
    run = trained(name, folder, steps, progress)
    return run, [WINDOW / (b - a) for a, b in pairwise(marks)][1:-1]


def measure(name, folder, most, copies):
    """Return the rows of a recipe."""
    flop, moved = work_of_a_step(name, folder)
    run, speeds = steps_a_second(name, folder)
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
    taken = milliseconds(surrogate, rows, batches=BATCHES, repeats=REPEATS, seed=1)
    return [
        {
            "name": f"{run.recipe.name}: sampling, batches of {size}",
            "value": float(statistics.median(values)),
            "unit": "ms a sample",
            "spread": [float(min(values)), float(max(values))],
        }
        for size, values in taken.items()
    ]


def run():
    most, copies = ceilings()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in RECIPES:
            rows += measure(name, folder, most, copies)
    return rows
