"""Mutates small good files and hands them to what reads them, under limits of memory and time.

`python tests/faults/fuzz.py TARGET --tries 1000 --seed 1` prints what was tried and what failed.
The same seed tries the same inputs in the same order, `--tries` of them, and as many more as it
takes to spend `--seconds` of processor time. A failure is anything but a result or an `InputError`
of one line: a traceback, a crash, more than `SECONDS` of processor time, more than `MEMORY` bytes.
The input of each failure is kept in the folder given by `--keep`; those that once failed are in
`corpus/`.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import get_args

import awkward  # noqa: F401
import torch
import uproot  # noqa: F401
from fuzz_targets import TARGETS
from mutations import damaged

from physgen.errors import InputError
from physgen.io import trees
from physgen.registry import Group, registered

SECONDS = 10
MEMORY = 2**30
BUILT = ("overrides", "dataset card", "image card", "card")
"""Targets that build the components a recipe names."""


def go_wrong(path):
    """Go wrong in every way there is, as the first byte of the file says."""
    kind = path.read_bytes()[0]
    if kind == 1:
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind == 2:
        bytearray(2 * MEMORY)
    if kind == 3:
        error = InputError("")
        error.args = ("two\nlines",)
        raise error
    if kind == 4:
        signal.setitimer(signal.ITIMER_PROF, 1)
        while True:
            pass
    return 1 / (kind - 5)


CORPUS = Path(__file__).with_name("corpus")
ENOUGH = 1
"""Seconds after which a ROOT file of the corpus is endless; each takes as many to be refused."""


def attempt(actions, path):
    """Return how each action went wrong, if it did."""
    for action in actions:
        begun = time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                action(path)
        except InputError as error:
            if "\n" in str(error) or not str(error):
                return f"a message of several lines: {str(error)[:200]}"
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)
            ours = next((f for f in reversed(where) if "physgen" in f.filename), where[-1])
            line = f"{Path(ours.filename).name}:{ours.lineno}"
            return f"{type(error).__name__} at {line}: {str(error)[:200]}"
        if time.process_time() - begun > SECONDS:
            return f"took {time.process_time() - begun:.1f} s"
    return None


def confined(work, *arguments):
    """Do some work in a fork under the limits; return what it says, or how it died."""
    receiver, sender = multiprocessing.Pipe(False)
    child = os.fork()
    if child == 0:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        work(sender, *arguments)
        os._exit(0)
    sender.close()
    said = []
    try:
        while True:
            said.append(receiver.recv())
    except EOFError:
        pass
    _, status = os.waitpid(child, 0)
    return said, os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def session(pipe, target, content, first, last, folder):
    """Try the inputs `first` to `last - 1`, saying which begins and which failed."""
    suffix, actions = ("", (go_wrong,)) if target == "self-test" else TARGETS[target][1:]
    path = Path(folder) / f"input{suffix}"
    for number in range(first, last):
        path.write_bytes(content(number))
        pipe.send((number, None))
        # In C code that loops, only the default action of a signal can end it.
        signal.setitimer(signal.ITIMER_PROF, 2 * SECONDS)
        failure = attempt(actions, path)
        if failure is not None:
            pipe.send((number, failure))


def processor_time():
    """Return the seconds of processor time of the children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def hunt(target, content, tries, seconds=0.0):
    """Try inputs content(0), content(1), ...; return how many, and the failures by number.

    Tried are `tries` of them, and as many more as it takes to spend `seconds` of processor time.
    """
    failures, number, begun = {}, 0, processor_time()
    with tempfile.TemporaryDirectory() as folder:
        while number < tries or processor_time() - begun < seconds:
            last = min(number + 20, tries) if number < tries else number + 20
            said, died = confined(session, target, content, number, last, folder)
            failures |= {n: failure for n, failure in said if failure is not None}
            number = last
            if died:
                number = said[-1][0] + 1 if said else last
                name = signal.Signals(died).name
                said_of_it = f"took {2 * SECONDS} s" if died == signal.SIGPROF else name
                failures[number - 1] = said_of_it
    took = round(processor_time() - begun, 1)
    return {"target": target, "tries": number, "seconds": took, "failures": failures}


def fuzz(target, tries, seconds, seed, keep):
    """Hunt with mutations of the good file of a target."""
    make, suffix, _ = TARGETS[target]
    # Imported before the forks, as are awkward and uproot: else in each fork the first input that
    # needs a library pays for its import, which can take longer than any input may.
    for group in get_args(Group) if target in BUILT else ():
        for component in registered(group).values():
            component.load()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"good{suffix}"
        make(path)
        good = path.read_bytes()

    def content(number):
        return damaged(good, suffix, random.Random(f"{target} {seed} {number}"))

    result = hunt(target, content, tries, seconds)
    for failed in result["failures"] if keep is not None else ():
        mark = hashlib.sha256(content(failed)).hexdigest()[:8]
        (keep / f"{kept(target)}-{mark}{suffix}").write_bytes(content(failed))
    return result


def kept(target):
    """Return how the names of files kept of a target begin."""
    return target.replace(" ", "-")


def corpus(target):
    """Hunt with what is kept in `corpus/` of a target."""
    inputs = [path.read_bytes() for path in sorted(CORPUS.glob(f"{kept(target)}-*"))]
    return hunt(target, inputs.__getitem__, len(inputs))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=[*TARGETS, "all", "corpus", "self-test"])
    parser.add_argument("--tries", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    failed = False
    for target in [given.target] if given.target in (*TARGETS, "self-test") else TARGETS:
        if given.target == "self-test":
            result = hunt(target, lambda number: bytes([number]), 6)
        elif given.target == "corpus":
            trees.SECONDS = ENOUGH
            result = corpus(target)
        else:
            result = fuzz(target, given.tries, given.seconds, given.seed, given.keep)
        print(json.dumps(result), flush=True)
        failed |= bool(result["failures"])
    sys.exit(failed)
