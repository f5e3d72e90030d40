"""Trains a toy on several ranks: under torchrun, or in forks of this one process.

Arguments: directory, case ("equal", "fails", "drifts"). Rank r writes what it found to rank-r.json.
"""

import json
import os
import socket
import sys
from pathlib import Path

import torch
from toys import Numbers, Plain, make

from physgen.engine.distributed import parameter_hash
from physgen.engine.loop import fit
from physgen.engine.options import Engine
from physgen.errors import PhysgenError

OPTIONS = {
    "steps": 9,
    "batch_size": 8,
    "device": "cpu",
    "accumulate": 2,
    "clip": 1.0,
    "ema": 0.9,
    "checkpoint_every": 4,
    "log_every": 3,
}


class WithOwnChains(Plain):
    """Plain, and chains that differ between ranks; it fails or drifts on demand."""

    def __init__(self, surrogate, case="equal"):
        super().__init__(surrogate)
        self.case = case
        self.tensors["chains"] = torch.zeros(2)

    def step(self, batches, ctx):
        noise = torch.randn(2, generator=ctx.generator)
        self.tensors["chains"] = self.tensors["chains"] + noise
        if self.case == "fails" and ctx.step == 5 and os.environ["RANK"] == "1":
            raise ValueError("this rank fails on purpose")
        if self.case == "drifts":
            with torch.no_grad():
                self.surrogate.net[0].bias += noise.mean()
        return super().step(batches, ctx)


def train(directory, case="equal", **changes):
    torch.set_num_threads(1)
    surrogate, method = make(WithOwnChains, case=case)
    streams = {"data": Numbers(8, weighted=True)}
    fit(surrogate, method, streams, directory, Engine(**OPTIONS | changes))
    return surrogate, method


def work(base, case):
    rank = os.environ["RANK"]
    try:
        # Half way, then the rest from the checkpoint: chains are per rank.
        train(base / "parts", case, steps=4)
        surrogate, method = train(base / "parts", case)
        _, whole = train(base / "whole", case)
        found = {
            "hash": parameter_hash(surrogate),
            "weights": torch.cat([p.flatten() for p in surrogate.parameters()]).tolist(),
            "chains": method.tensors["chains"].tolist(),
            "chains of one part": whole.tensors["chains"].tolist(),
        }
    except (PhysgenError, ValueError) as error:
        found = {"error": f"{type(error).__name__}: {error}"}
    (base / f"rank-{rank}.json").write_text(json.dumps(found))
    return 1 if "error" in found else 0


def fork_ranks(base, case, size=2):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    base.mkdir()
    children = []
    for rank in range(size):
        child = os.fork()
        if child == 0:
            os.environ |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
            code = 3
            try:
                code = work(base, case)
            finally:
                os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


if __name__ == "__main__":
    base = Path(sys.argv[1])
    if "RANK" in os.environ:
        sys.exit(work(base, sys.argv[2]))
    print(json.dumps({case: fork_ranks(base / case, case) for case in sys.argv[2:]}))
