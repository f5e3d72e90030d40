"""Mutates small good files and hands them to what reads them, under limits of memory and time.

`python tests/faults/fuzz.py TARGET --tries 1000 --seed 1` prints what was tried and what failed.
A failure is anything but a result or an `InputError` of one line: a traceback, a crash, more than
`SECONDS` of processor time, more than `MEMORY` bytes. The input of each failure is kept in the
folder given by `--keep`; those that once failed are in `corpus/`.
"""

import argparse
import gzip
import hashlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import string
import struct
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import h5py
import numpy as np
import torch
import uproot

from physgen import recipe
from physgen.batch import Schema, Variable
from physgen.comparing import read_plan
from physgen.engine import journal
from physgen.engine.checkpoint import read_tensors, write_tensors
from physgen.errors import InputError
from physgen.export import card as cards
from physgen.io import manifest
from physgen.io.arrays import names_in, stated
from physgen.io.calochallenge import CaloChallengeSource
from physgen.io.hdf5_source import HDF5Source
from physgen.io.idx import read_idx
from physgen.io.inspect import inspect
from physgen.io.npz import NpzSource
from physgen.io.root import RootSource
from physgen.io.spins import SpinSource
from physgen.run import Run
from physgen.systems.ensemble import Ensemble
from physgen.systems.event_files import columns_to_choose, open_columns
from physgen.systems.geometry import Geometry, Layer, read_geometry, write_geometry
from physgen.systems.image_files import image_card, read_images
from physgen.validation.scorecard import Row, Scorecard

SECONDS = 10
MEMORY = 2**30

# Good files.


def hdf5(path):
    with h5py.File(path, "w") as file:
        schema = Schema((3,), (Variable("a", "GeV"), Variable("b"), Variable("c")))
        file.attrs["physgen_schema"] = json.dumps(schema.to_dict())
        x = np.arange(60.0).reshape(20, 3)
        file.create_dataset("x", data=x, chunks=(8, 3), compression="gzip", fletcher32=True)
        file["weight"] = np.ones(20)
        file["group/chain"] = np.repeat(np.arange(4), 5)
        file["x"].attrs["unit"] = "GeV"


def spins(path):
    with h5py.File(path, "w") as file:
        file["samples"] = np.random.default_rng(1).integers(0, 2, (12, 16)).astype("u1")
        file["variable_type"] = "bernoulli"
        file["chain"] = np.repeat(np.arange(3), 4)
        file.attrs["shape"] = (4, 4)


def showers(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("incident_energies", data=np.full((9, 1), 1000.0), compression="gzip")
        file.create_dataset("showers", data=np.ones((9, 6)), compression="gzip")


def npz(path):
    with path.open("wb") as file:
        np.savez_compressed(file, x=np.arange(60.0).reshape(20, 3), weight=np.ones(20))


def pixels(path):
    path.write_bytes(b"\0\0\x08\x03" + struct.pack(">3I", 5, 4, 4) + bytes(range(80)))


def packed_pixels(path):
    pixels(path)
    path.write_bytes(gzip.compress(path.read_bytes()))


def root(path):
    import awkward as ak

    with uproot.recreate(path) as file:
        file["events"] = {
            "x": np.arange(40.0),
            "n": np.arange(40, dtype="i4"),
            "jets": ak.Array([[1.0] * (i % 3) for i in range(40)]),
        }


def geometry(path):
    write_geometry(path, Geometry((Layer(0, (0.0, 1.0, 2.0), 3), Layer(2, (0.0, 5.0), 1))))


def scorecard(path):
    row = Row(name="E", metric="means", value=1.0, error=0.1, curves={"a": ((1.0,), (2.0,))})
    path.write_text(Scorecard(rows=(row,), provenance={"run": "x"}).to_json())


def lines(path):
    path.write_text(
        "".join(f'{{"step":{i},"time":1.5,"metrics":{{"loss":{i}}}}}\n' for i in (1, 2))
    )


def tensors(path):
    write_tensors(path, {"a": torch.ones(3, 2), "b": torch.zeros(4, dtype=torch.float64)})


def settings(path):
    text = recipe.read("phi4-flow").to_yaml()
    path.write_text(text + "presets: {small: {engine.steps: 3}}\n")


def plan(path):
    path.write_text("title: t\nrecipes: [digits-vae]\noverrides: {a: 1}\ncolumns: {FPD: Frechet}\n")


def words(path):
    path.write_text("engine.steps=3\nsystem.shape=[4,4]\ndata.n=20\nmethod.k=2\nname=a\n")


def card(path):
    """The card of a run whose other files are made anew around it."""
    described = {
        "schema": Schema((4, 4), (Variable("spin", domain="spin", dtype="int8"),)).to_dict(),
        "dtype": "float32",
        "condition_domain": {},
        "weights_sha256": "0" * 64,
        "training_seconds": 1.0,
    }
    path.write_text(cards.to_text(described))


# What reads them.


def read(source):
    source.read(0, min(len(source), 1000))
    source.keys()
    source.digest()


def load_with(path):
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        resolved = recipe.read("ising-rbm", {"system.shape": [4, 4]})
        (run / "recipe.yaml").write_text(resolved.to_yaml())
        (run / "surrogate").mkdir()
        shutil.copy(path, run / "surrogate" / "card.json")
        tensors(run / "surrogate" / "weights.safetensors")
        manifest.write(run, manifest.sums_of(run, ("recipe.yaml", "surrogate")))
        Run(run).load()


def change(path):
    words = path.read_bytes().decode("utf-8", "replace").splitlines()
    recipe.read("ising-rbm", recipe.parse_overrides(words))


def columns(path):
    columns_to_choose(path, None)
    read(
        open_columns([path], ["x"], tree=None, weight="weight", group=(), max_items=None)
        if path.suffix != ".root"
        else open_columns([path], ["x"], tree=None, weight=None, group=("n",), max_items=None)
    )


def facts(path):
    names_in(path)
    stated(path, ("unit", "weight", "n"), "x")


TARGETS = {
    "hdf5": (hdf5, ".h5", (lambda p: read(HDF5Source(p)), inspect, columns, facts)),
    "spins": (spins, ".h5", (lambda p: read(SpinSource(p)), inspect)),
    "showers": (showers, ".hdf5", (lambda p: read(CaloChallengeSource(p)), inspect)),
    "ensemble": (spins, ".h5", (lambda p: list(Ensemble(path=str(p)).parts()),)),
    "npz": (npz, ".npz", (lambda p: read(NpzSource(p)), inspect, columns, facts)),
    "idx": (pixels, "", (read_idx, lambda p: read_images(image_card(str(p))), inspect)),
    "idx.gz": (packed_pixels, ".gz", (read_idx, inspect)),
    "root": (
        root,
        ".root",
        (
            lambda p: read(RootSource(p, "events", ["x", "n"])),
            lambda p: read(RootSource(p, None, ["jets"])),
            inspect,
            columns,
        ),
    ),
    "geometry": (geometry, ".xml", (read_geometry,)),
    "recipe": (settings, ".yaml", (recipe.read, lambda p: recipe.read(p, preset="small"))),
    "comparison": (plan, ".yaml", (lambda p: read_plan(str(p)),)),
    "overrides": (words, "", (change,)),
    "card": (card, ".json", (load_with,)),
    "scorecard": (scorecard, ".json", (lambda p: Scorecard.from_json(p.read_text("latin-1")),)),
    "journal": (lines, ".jsonl", (lambda p: list(journal.read(p)),)),
    "weights": (tensors, ".safetensors", (read_tensors,)),
}


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

INTERESTING = [b"\0", b"\xff" * 4, b"\xff" * 8, b"\x7f", b"-1", b"1e999", b"null", b"[]", b"{}"]
INTERESTING += [
    b'"',
    b"\n",
    b"\x1b[2J",
    b"\x80" * 3,
    b"&a [*a]",
    b"99999999999999999999",
    b"\0" * 8,
]
PLAIN = (".yaml", ".json", ".jsonl", ".xml", "")


def mutate(content, generator, text):
    """Return `content` after one to eight changes."""
    content = bytearray(content)
    for _ in range(generator.choice((1, 1, 1, 2, 3, 8))):
        at = generator.randrange(len(content) + 1) if content else 0
        kind = generator.randrange(7)
        if kind == 0 and content:
            content[at % len(content)] ^= 1 << generator.randrange(8)
        elif kind == 1 and content:
            content[at % len(content)] = generator.randrange(256)
        elif kind == 2:
            piece = generator.choice(INTERESTING)
            content[at : at + (len(piece) if generator.random() < 0.7 else 0)] = piece
        elif kind == 3:
            del content[at : at + generator.choice((1, 4, 30))]
        elif kind == 4:
            piece = content[at : at + generator.choice((1, 8, 60))]
            content[at:at] = piece
        elif kind == 5 and generator.random() < 0.3:
            del content[at:]
        elif text:
            letters = generator.choices(string.printable, k=generator.randrange(1, 6))
            content[at : at + 1] = "".join(letters).encode()
        else:
            size = generator.choice((2, 4, 8))
            number = generator.choice((0, 1, 2**31, 2**63, 2**32 - 1, generator.getrandbits(64)))
            packed = struct.pack(generator.choice("<>") + "Q", number % 2**64)
            content[at : at + size] = packed[:size]
    return bytes(content)


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


def hunt(target, content, tries, seconds=float("inf")):
    """Try inputs content(0), content(1), ...; return how many, and the failures by number.

    `seconds` of processor time are enough, however many were tried by then.
    """
    failures, number, begun = {}, 0, processor_time()
    with tempfile.TemporaryDirectory() as folder:
        while number < tries and processor_time() - begun < seconds:
            last = min(number + 20, tries)
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
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"good{suffix}"
        make(path)
        good = path.read_bytes()

    def content(number):
        return mutate(good, random.Random(f"{target} {seed} {number}"), suffix in PLAIN)

    result = hunt(target, content, tries, seconds)
    for failed in result["failures"] if keep is not None else ():
        mark = hashlib.sha256(content(failed)).hexdigest()[:8]
        (keep / f"{target}-{mark}{suffix}").write_bytes(content(failed))
    return result


def corpus(target):
    """Hunt with what is kept in `corpus/` of a target."""
    kept = [path.read_bytes() for path in sorted(CORPUS.glob(f"{target}-*"))]
    return hunt(target, kept.__getitem__, len(kept))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=[*TARGETS, "all", "corpus", "self-test"])
    parser.add_argument("--tries", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    failed = False
    for target in [given.target] if given.target in (*TARGETS, "self-test") else TARGETS:
        if given.target == "self-test":
            result = hunt(target, lambda number: bytes([number]), 6)
        elif given.target == "corpus":
            result = corpus(target)
        else:
            result = fuzz(target, given.tries, given.seconds, given.seed, given.keep)
        print(json.dumps(result), flush=True)
        failed |= bool(result["failures"])
    sys.exit(failed)
