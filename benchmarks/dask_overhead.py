"""CPU time of shards that a worker of Dask writes, beside that of this process.

Ten shards of 10^6 small samples, the least work a shard has; the cluster, with one worker, has been
started, and has imported physgen. Counted are this process, in which the scheduler runs, and the
worker; not the process that watches over the worker.
"""

import statistics
import tempfile
import time
from pathlib import Path

N, SHARDS, REPEATS = 10_000_000, 10, 3


def processor_seconds(work, client=None):
    """Return those that `work` takes here and in the workers of a client."""

    def elapsed():
        workers = client.run(time.process_time).values() if client else []
        return time.process_time() + sum(workers)

    start = elapsed()
    work()
    return elapsed() - start


def run():
    import torch

    import physgen
    from physgen.scale.workers import cluster

    torch.set_num_threads(1)
    ours, plain = [], []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        small = {"system.shape": [4, 4], "surrogate.components": 8, "data.n": 20_000}
        trained = physgen.train("ising-pca", small, runs=folder / "runs", track=False)
        work = physgen.Shards(trained, n=N, shards=SHARDS, seed=1)
        with cluster("dask", workers=1) as client:
            first = physgen.Shards(trained, n=4096, shards=1, seed=1)
            first.write(folder / "first", client=client)
            for i in range(REPEATS):
                plain.append(processor_seconds(lambda i=i: work.write(folder / f"here{i}")))
                ours.append(
                    processor_seconds(
                        lambda i=i: work.write(folder / f"dask{i}", client=client), client
                    )
                )
    ratios = sorted(a / b for a, b in zip(ours, plain, strict=True))
    return {
        "benchmark": "dask-overhead",
        "results": [
            {
                "name": f"{SHARDS} shards of {N // SHARDS:.0e} small samples by one worker of Dask",
                "value": statistics.median(ours),
                "unit": "s of CPU time (less is better)",
                "peer": "the same process",
                "peer_value": statistics.median(plain),
                "ratio": {
                    "median": statistics.median(ratios),
                    "min": ratios[0],
                    "max": ratios[-1],
                },
            }
        ],
    }
