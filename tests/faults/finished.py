"""Kills the finishing of a run in forks, at every file operation; one process, one thread.

Arguments: directory. Prints a JSON list of what was left, and whether the same command repaired it.
"""

import json
import os
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path

import torch

import physgen
import physgen.pipeline
from physgen.errors import InputError
from physgen.io import manifest
from physgen.run import Run
from physgen.validation.report import report

SMALL = {
    "system.shape": [4, 4],
    "data.n": 100,
    "engine.steps": 2,
    "engine.batch_size": 50,
    "sampling.n": 64,
    "validation.metrics": [{"kind": "means"}],
    "baseline": None,
}
WATCHED = ("open", "os.mkdir", "os.rename", "os.remove")
PLACES = ("surrogate", "MANIFEST", "scorecard", "samples", "report")


def draw_nothing(comparison, scorecard, folder, **others):
    folder.mkdir(exist_ok=True)
    (folder / "index.json").write_text("[]")


def finish(runs):
    return physgen.train("ising-rbm", SMALL, runs=runs, track=False)


def killed_at(count, runs):
    """Finish the run in a fork that dies at a file operation; return whether it died of it."""
    child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    signal.alarm(120)
    done = 0

    def audit(event, arguments):
        nonlocal done
        place = str(arguments[:1])
        if event not in WATCHED or str(runs) not in place:
            return
        reads = event == "open" and not set(str(arguments[1])) & set("wax+")
        if not reads and any(name in place for name in PLACES):
            done += 1
            if done == count:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)
    with suppress(BaseException):
        finish(runs)
    os._exit(0)


def looks(path, page):
    """Return which verbs took the run for a whole one."""
    taken = []
    for name, look in {"load": physgen.load, "report": lambda path: report(path, page)}.items():
        with suppress(InputError):
            look(path)
            taken.append(name)
    return taken


if __name__ == "__main__":
    torch.set_num_threads(1)
    physgen.written_scores.draw = draw_nothing
    base = Path(sys.argv[1])
    path = finish(base / "whole").path
    rows = Run(path).scorecard.rows
    for name in ("scorecard.json", "samples.h5", "report.html", manifest.NAME):
        (path / name).unlink()
    shutil.rmtree(path / "surrogate")
    shutil.rmtree(path / "plots")
    trials = []
    while True:
        runs = shutil.copytree(base / "whole", base / f"runs{len(trials)}")
        if not killed_at(len(trials) + 1, runs):
            break
        (path,) = (runs / "ising-rbm").iterdir()
        torn = Run(path)
        trial = {"finished": torn.finished, "scored": torn.finished and torn.scored}
        trial["taken"] = looks(path, base / "page.html")
        if not trials or len(trials) % 4 == 0 or trial["taken"] != trials[-1]["taken"]:
            trial["equal"] = finish(runs).scorecard.rows == rows
            trial["repaired"] = looks(path, base / "page.html")
            trial["parts"] = [part.name for part in path.rglob("*.part")]
        trials.append(trial)
        shutil.rmtree(runs)
    print(json.dumps(trials))
