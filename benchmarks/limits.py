"""Commands that have a limit of time or memory: what they take, beside what they may take.

Each runs in a process of its own; the figures are medians of its wall time (three repeats, one of
the wide validation) and its peak of resident memory. The peer is the limit.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHOWERS = 20_000
LATENCY = """
import json, statistics, sys, time
import physgen
sampler = physgen.load(sys.argv[1], "cpu")
sampler.sample(1, seed=1)
times = []
for seed in range(2, 22):
    begin = time.perf_counter()
    sampler.sample(1, seed=seed)
    times.append(time.perf_counter() - begin)
print(json.dumps(statistics.median(times)))
"""


def measured(command):
    """Run a command; return its seconds by the clock and its peak of memory in MiB."""
    begin = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(map(str, command))}: exit status {status}")
    return time.perf_counter() - begin, used.ru_maxrss / 2**10


def row(name, value, unit, limit):
    return {"name": name, "value": value, "unit": unit, "peer": "limit", "peer_value": limit}


def run():
    physgen = [sys.executable, "-m", "physgen"]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        spins = folder / "spins.h5"
        measured([*physgen, "simulate", "ising-rbm", "-n", "500", "-o", spins])
        seconds = [measured([*physgen, "inspect", spins])[0] for _ in range(3)]
        rows.append(row("inspect, a small file", statistics.median(seconds), "s", 1.0))

        train = [*physgen, "train", "calo-flow", "--preset", "smoke", "--runs", folder]
        measured([*train, "--no-score", "--no-track"])
        trained = next((folder / "calo-flow").iterdir())
        done = subprocess.run(
            [sys.executable, "-c", LATENCY, trained], capture_output=True, text=True, check=True
        )
        rows.append(row("one shower, loaded", 1e3 * json.loads(done.stdout), "ms", 30.0))

        files = {seed: folder / f"showers-{seed}.hdf5" for seed in (1, 2)}
        wide = ["data.binning=calo-6480.xml", "system.depths=[]", "system.cut_mev=0.01515"]
        for seed, file in files.items():
            command = [*physgen, "simulate", "calo-flow", *wide, "-n", str(SHOWERS)]
            measured([*command, "--seed", str(seed), "-o", file])
        command = [*physgen, "validate", files[1], "--against", files[2]]
        seconds, peak = measured([*command, "--binning", "calo-6480.xml"])
        rows.append(row(f"validate, {SHOWERS} x 6480 voxels", seconds, "s", 240.0))
        rows.append(row(f"validate, {SHOWERS} x 6480 voxels", peak, "MiB", 2048.0))
    return rows


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
