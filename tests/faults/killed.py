"""Trains toys in forks and kills them; one process, so that torch is imported once.

Arguments: directory. Prints one JSON list a trial.
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import torch
from toys import Numbers, Plain, WithChains, digest, make

from physgen.engine.checkpoint import CheckpointStore
from physgen.engine.loop import fit
from physgen.engine.options import Engine

COMMON = {"steps": 10, "batch_size": 8, "log_every": 1, "checkpoint_every": 3, "device": "cpu"}
CASES = {
    "plain": (Plain, {}),
    "chains": (WithChains, {}),
    "accumulate-ema": (Plain, {"accumulate": 2, "ema": 0.9, "clip": 1.0, "schedule": "cosine"}),
}
WATCHED = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")


def train(directory, case, progress=None, **changes):
    method, options = CASES[case]
    surrogate, trainer = make(method)
    engine = Engine(**COMMON | options | changes)
    result = fit(surrogate, trainer, {"data": Numbers()}, directory, engine, progress=progress)
    return surrogate, result


def fork(work):
    """Do `work(pipe)` in a fork; return its process id and the reading end."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        work(writing)
        os._exit(0)
    os.close(writing)
    return child, reading


def kill_in_the_middle(base, case):
    expected, _ = train(base / case / "whole", case)
    directory = base / case / "killed"

    def work(pipe):
        def wait_for_death(step, metrics):
            # Step 8 lies beyond the checkpoint of step 6.
            if step == 8:
                os.write(pipe, b".")
                signal.pause()

        train(directory, case, wait_for_death)

    child, pipe = fork(work)
    os.read(pipe, 1)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    surrogate, result = train(directory, case)
    entries = map(json.loads, (directory / "journal.jsonl").read_text().splitlines())
    return {
        "case": case,
        "signal": os.WTERMSIG(status),
        "resumed_at": result.resumed_at,
        "equal": digest(surrogate) == digest(expected),
        "journal": [entry["step"] for entry in entries if "metrics" in entry],
    }


def kill_in_a_save(base, count):
    """Go on from step 6 of a copy of the run; die at the count-th file operation at step 9."""
    trial = base / f"trial-{count}"
    shutil.copytree(base / "six", trial)

    def work(pipe):
        done, armed = 0, False

        def audit(event, arguments):
            nonlocal done
            # Files within a tree that is being removed come with their bare names.
            ours = event in ("os.remove", "os.rmdir") or "checkpoints" in str(arguments[:1])
            if armed and event in WATCHED and ours:
                done += 1
                if done == count:
                    os.kill(os.getpid(), signal.SIGKILL)

        def arm(step, metrics):
            nonlocal armed
            armed = step == 9

        sys.addaudithook(audit)
        train(trial, "chains", arm, steps=9)

    child, _ = fork(work)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        return None
    loaded = CheckpointStore(trial / "checkpoints").newest()[0]
    surrogate, result = train(trial, "chains")
    return {
        "loaded": loaded,
        "resumed_at": result.resumed_at,
        "hash": digest(surrogate),
        "left": sorted(path.name for path in (trial / "checkpoints").iterdir()),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    base = Path(sys.argv[1])
    middle = [kill_in_the_middle(base, case) for case in CASES]
    whole = digest(train(base / "ten", "chains")[0])
    train(base / "six", "chains", steps=6)
    saves = []
    while (trial := kill_in_a_save(base, len(saves) + 1)) is not None:
        saves.append(trial)
    print(json.dumps({"middle": middle, "saves": saves, "whole": whole}))
