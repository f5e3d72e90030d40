"""Shuffled streaming against a sequential read of the same file, and the memory it takes.

A file of 256 columns of float32, ten times the buffer, is read once in each way, alternating, in
one process. The peer is what a loop over `h5py` does without any shuffling or checking:
`dataset[start:stop]` as a tensor. "single rows" is what a shuffling loader over rows does instead,
on a sample of them. "From disk" drops the file from the page cache before each read, as is the case
of files larger than memory, and counts wall time; otherwise the file is in the page cache and CPU
time counts: there an unfiltered read is a copy within the processor's cache, while mixing rows in a
buffer moves them through memory twice. Memory is the peak of a fresh process.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import torch

from physgen.batch import Batch
from physgen.io.hdf5_source import HDF5Source
from physgen.io.stream import Stream
from physgen.io.writer import hdf5_writer

COLUMNS, BATCH, BUFFER_BLOCKS, REPEATS = 256, 1024, 16, 5
ROW = 4 * COLUMNS


def write(path, n_rows, layout):
    # One piece over and over: what the numbers are does not matter, how many there are does.
    piece = np.random.default_rng(0).standard_normal((16384, COLUMNS), dtype=np.float32)
    pieces = (piece[: n_rows - start] for start in range(0, n_rows, 16384))
    if layout == "physgen":
        with hdf5_writer(path) as append:
            for piece in pieces:
                append(Batch(torch.from_numpy(piece)))
        return
    options = {} if layout == "contiguous" else {"chunks": (2048, COLUMNS)}
    if layout == "gzip-4":
        options |= {"compression": "gzip", "compression_opts": 4}
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("x", (n_rows, COLUMNS), "f4", **options)
        start = 0
        for piece in pieces:
            dataset[start : start + len(piece)] = piece
            start += len(piece)


def sequential(path, n_rows, block):
    total = 0
    with h5py.File(path) as file:
        for start in range(0, n_rows, block):
            total += len(torch.from_numpy(file["x"][start : start + block]))
    assert total == n_rows


def shuffled(path, n_rows, block):
    stream = Stream(
        HDF5Source(path, block=block), batch_size=BATCH, buffer_blocks=BUFFER_BLOCKS, seed=1
    )
    for _ in range(n_rows // BATCH):
        next(stream)


def single_rows(path, n_rows, block):
    rows = np.random.default_rng(0).integers(0, n_rows, 100)
    with h5py.File(path) as file:
        for row in rows:
            file["x"][row]
    return 100 / n_rows


def drop_from_page_cache(path):
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def rate(read, path, n_rows, block, from_disk):
    if from_disk:
        drop_from_page_cache(path)
    clock = time.perf_counter if from_disk else time.process_time
    started = clock()
    share = read(path, n_rows, block) or 1.0
    return share * n_rows * ROW / 1e6 / (clock() - started)


def measure(layout, n_rows, folder, from_disk=False):
    path = folder / f"{layout}.h5"
    write(path, n_rows, layout)
    block = HDF5Source(path).block
    ways = (shuffled, sequential, single_rows)
    rates = {way: [] for way in ways}
    for _ in range(REPEATS):
        for way in ways:
            rates[way].append(rate(way, path, n_rows, block, from_disk))
    path.unlink()
    ratios = [a / b for a, b in zip(rates[shuffled], rates[sequential], strict=True)]
    return {
        "name": f"block-shuffled, {layout}" + (", from disk" if from_disk else ""),
        "value": statistics.median(rates[shuffled]),
        "unit": "MB/s of " + ("wall time" if from_disk else "CPU time"),
        "peer": "h5py, sequential blocks",
        "peer_value": statistics.median(rates[sequential]),
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        "single_rows": statistics.median(rates[single_rows]),
        "rows": n_rows,
        "block_rows": block,
    }


MEMORY = """
import json, sys
from pathlib import Path
from physgen.io.hdf5_source import HDF5Source
from physgen.io.stream import Stream

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

path, batch, blocks = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
stream = Stream(HDF5Source(path), batch_size=batch, buffer_blocks=blocks)
before = highest = resident()
while stream.epoch < 1.5:
    next(stream)
    highest = max(highest, resident())
row = stream.source.read(0, 1).x.nbytes
block = stream.source.block * row / 2**20
print(json.dumps({"grown": highest - before, "buffer": stream.buffer_blocks * block,
                  "file": len(stream) * row / 2**20}))
"""


def memory(n_rows, folder):
    path = folder / "memory.h5"
    write(path, n_rows, "physgen")
    result = subprocess.run(
        [sys.executable, "-c", MEMORY, str(path), str(BATCH), str(BUFFER_BLOCKS)],
        capture_output=True,
        text=True,
        check=True,
    )
    path.unlink()
    found = json.loads(result.stdout)
    return {
        "name": "memory of a stream, one epoch and a half of a file ten times the buffer",
        "value": found["grown"],
        "unit": "MiB of resident memory above that of an opened file",
        "peer": "the buffer of 16 blocks",
        "peer_value": found["buffer"],
        "ratio": {"median": found["grown"] / found["buffer"]},
        "file_mib": found["file"],
    }


def run():
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results = [
            measure(layout, n_rows, folder, from_disk)
            for layout, n_rows in (
                ("physgen", 655_360),
                ("contiguous", 655_360),
                ("chunks of 2048", 655_360),
                ("gzip-4", 65_536),
            )
            for from_disk in (False, True)
        ]
        results.append(memory(655_360, folder))
    return {"benchmark": "stream", "results": results}


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
