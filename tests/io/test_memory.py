import json
import subprocess
import sys
import tracemalloc

import torch

from physgen.batch import Batch
from physgen.io.source import ArraySource
from physgen.io.split import split
from physgen.io.stream import Stream
from physgen.io.writer import hdf5_writer

STREAM = """
import json, sys
from pathlib import Path
from physgen.io.hdf5_source import HDF5Source
from physgen.io.stream import Stream

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

stream = Stream(HDF5Source(sys.argv[1], block=1024), batch_size=512, buffer_blocks=8)
before = resident()
while stream.epoch < 0.3:
    next(stream)
warm = highest = resident()
while stream.epoch < 1.3:
    next(stream)
    highest = max(highest, resident())
print(json.dumps([warm - before, highest - warm]))
"""


def test_memory_is_that_of_the_buffer_whatever_the_size_of_the_file(tmp_path):
    # 80 MiB of file, 8 MiB of buffer.
    with hdf5_writer(tmp_path / "large.h5") as append:
        for _ in range(10):
            append(Batch(torch.rand(8192, 256)))
    code = [sys.executable, "-c", STREAM, str(tmp_path / "large.h5")]
    result = subprocess.run(code, capture_output=True, text=True, check=True)
    first, later = json.loads(result.stdout)
    # Buffer, a block, the chunk cache of HDF5, and code that is loaded when it is first used.
    assert 6 < first < 45
    assert later < 8


def test_a_split_takes_little_more_memory_than_the_numbers_of_the_rows():
    n = 2**23
    tracemalloc.start()
    parts = split(n)
    size = tracemalloc.get_traced_memory()[1]
    # A stream of some of them takes no more than the number of its blocks.
    tracemalloc.reset_peak()
    held = tracemalloc.get_traced_memory()[0]
    Stream(ArraySource(Batch(torch.empty(1).expand(n, 1)), None), parts.train, batch_size=1)
    stream = tracemalloc.get_traced_memory()[1] - held
    tracemalloc.stop()
    assert len(parts.train) + len(parts.validation) + len(parts.test) == n
    assert size < 1.5 * 8 * n
    assert stream < 0.1 * 8 * n


CHAIN = """
import resource, sys
from physgen import pipeline

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

pipeline.validate_files(sys.argv[1])
before = peak()
pipeline.validate_files(sys.argv[2])
print(peak() - before)
"""


def test_a_chain_is_validated_in_parts(tmp_path):
    # 80 MiB and 240 MiB; what is kept of either to be looked at is 64 MiB.
    for name, n in (("short", 10), ("long", 30)):
        with hdf5_writer(tmp_path / f"{name}.h5") as append:
            for part in range(n):
                generator = torch.Generator().manual_seed(part)
                append(Batch(torch.randn(512, 64, 64, generator=generator)))
    files = [str(tmp_path / "short.h5"), str(tmp_path / "long.h5")]
    code = [sys.executable, "-c", CHAIN, *files]
    result = subprocess.run(code, capture_output=True, text=True, check=True)
    # The longer one would take 160 MiB more if it were held.
    assert float(result.stdout.split()[-1]) < 80
