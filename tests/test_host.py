"""physgen as a guest: the host's settings change no sample, and come back as they were."""

import logging
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

# Libraries set things when they are imported; that is not physgen's doing.
import awkward  # noqa: F401
import h5py
import matplotlib as mpl
import mplhep  # noqa: F401
import numpy as np
import psutil
import pytest
import rich.console  # noqa: F401
import sklearn.ensemble  # noqa: F401
import torch
import uproot  # noqa: F401

import physgen
from physgen import pipeline, recipe, reports, simulation
from physgen.against import Criteria
from physgen.errors import InputError, Stopped
from physgen.io.inspect import inspect

RECIPE = """
extends: events-flow
name: table
data: {path: table.h5, fields: [a, b], split: [0.4, 0.2, 0.4]}
engine: {steps: 4, batch_size: 64, evaluate_every: 2, log_every: 2}
sampling: {n: 100}
validation: {metrics: [{kind: means}, {kind: classifier, model: boosted, level: low}]}
"""


def train(folder, overrides=None, **options):
    options = {"runs": folder / "runs", "track": False, "score": False} | options
    return physgen.train(folder / "table.yaml", overrides, **options)


def weights(run):
    return (run.path / "surrogate/weights.safetensors").read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("host")
    numbers = np.random.default_rng(0)
    with h5py.File(folder / "table.h5", "w") as file:
        file["a"] = numbers.normal(size=500).astype("f4")
        file["b"] = numbers.exponential(size=500).astype("f4")
    (folder / "table.yaml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def run(folder):
    return train(folder)


@pytest.fixture(scope="module")
def expected(run):
    return physgen.generate(run, 50, seed=7, device="cpu").x


def score(folder):
    file = folder / "table.h5"
    return pipeline.validate_files(file, file, Criteria(recipe=str(folder / "table.yaml")))


@pytest.fixture(scope="module")
def scores(folder):
    return score(folder)


def state():
    """Return everything of the host that a verb might touch."""
    opened = [file.path for file in psutil.Process().open_files()]
    found = {
        "default dtype": torch.get_default_dtype(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "default device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "benchmark": torch.backends.cudnn.benchmark,
        "autocast": torch.is_autocast_enabled("cpu"),
        "torch's generator": torch.get_rng_state().tolist(),
        "NumPy's generator": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "Python's generator": random.getstate(),
        "NumPy's errors": np.geterr(),
        "NumPy's print": np.get_printoptions(),
        "signals": {s: signal.getsignal(s) for s in signal.valid_signals()},
        "environment": dict(os.environ),
        "folder": os.getcwd(),  # noqa: PTH109
        "path": list(sys.path),
        "warnings": (list(warnings.filters), warnings.showwarning),
        "hooks": (sys.excepthook, threading.excepthook),
        "logging": [
            (logger.level, logger.disabled, list(logger.handlers), logger.propagate)
            for logger in (logging.root, logging.getLogger("physgen"), logging.getLogger("host"))
        ],
        "rcParams": dict(mpl.rcParams),
        "live threads": threading.enumerate(),
        "open files": sorted(path for path in opened if "site-packages" not in path),
    }
    if "mlflow" in sys.modules:
        import mlflow

        found["MLflow"] = (mlflow.active_run(), mlflow.get_tracking_uri())
    return found


VERBS = {
    "train": lambda run, folder, out: train(folder, runs=out),
    "train, deterministic": lambda run, folder, out: train(
        folder, {"engine.deterministic": True}, runs=out
    ),
    "validate and report": lambda run, folder, out: (
        physgen.validate(run),
        reports.report([run], out / "report.html"),
    ),
    "validate files": lambda run, folder, out: score(folder),
    "load": lambda run, folder, out: physgen.load(run).sample(5),
    "generate": lambda run, folder, out: physgen.generate(run, 5),
    "generate a file": lambda run, folder, out: physgen.load(run).write(out / "x.h5", 5),
    "inspect": lambda run, folder, out: inspect(folder / "table.h5"),
    "simulate": lambda run, folder, out: simulation.simulate(
        recipe.read("ising-rbm"), out / "spins.h5", 10, 1
    ),
    "refuse": lambda run, folder, out: refused(lambda: physgen.generate(run, 0)),
}


def refused(call):
    with pytest.raises(InputError):
        call()


@contextmanager
def odd_host():
    """Change what a host may change."""
    torch.set_default_dtype(torch.float64)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_float32_matmul_precision("high")
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        with torch.device("meta"), np.errstate(all="raise"), torch.no_grad():
            yield
    finally:
        signal.signal(signal.SIGTERM, before)
        torch.set_float32_matmul_precision("highest")
        torch.use_deterministic_algorithms(False)
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("verb", VERBS)
def test_the_host_is_left_as_found(verb, run, folder, tmp_path):
    tmp_path.joinpath("out").mkdir()
    with odd_host():
        before = state()
        VERBS[verb](run, folder, tmp_path / "out")
        after = state()
    assert not {key: (before[key], after[key]) for key in before if before[key] != after[key]}


def test_a_verb_imports_no_compiler():
    """Torch's takes longer to import than a refusal may take in all."""
    code = (
        "import sys; from physgen.isolation import isolated\n"
        "with isolated(): pass\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_import_draws_nothing_from_pythons_generator():
    code = (
        "import random, sys; before = random.getstate(); from physgen.isolation import isolated\n"
        "import rich.style\n"
        "sys.exit(random.getstate() != before)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


HOSTS = {
    "float64": odd_host,
    "no gradients": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "errors raise": lambda: np.errstate(all="raise"),
}


@pytest.mark.parametrize("host", HOSTS)
def test_the_hosts_settings_change_no_sample(host, run, expected, scores, folder, tmp_path):
    before = weights(run)
    with HOSTS[host]():
        again = train(folder, runs=tmp_path)
        drawn = physgen.load(again).sample(50, seed=7)
        card = score(folder)
    assert weights(again) == before
    assert drawn.x.dtype == expected.dtype
    assert torch.equal(drawn.x, expected)
    assert card == scores


def test_threads_get_the_samples_of_one(run, expected, folder, tmp_path):
    """Two trainings, and samples between them, while the host counts in double precision."""
    with odd_host(), ThreadPoolExecutor(3) as pool:
        trained = [pool.submit(train, folder, runs=tmp_path / str(i)) for i in range(2)]
        drawn = [pool.submit(physgen.generate, run, 50, 7, device="cpu") for _ in range(4)]
        assert all(torch.equal(part.result().x, expected) for part in drawn)
        assert {weights(part.result()) for part in trained} == {weights(run)}
        assert torch.get_default_dtype() == torch.float64


@pytest.mark.parametrize("seed", [np.int64(7), np.uint32(7), np.arange(8)[7], 7.0, "7", "7e0"])
def test_a_seed_is_a_whole_number_of_any_type(seed, run, expected):
    assert torch.equal(physgen.generate(run, np.float64(50), seed=seed).x, expected)
    assert torch.equal(physgen.load(run).sample("50", seed).x, expected)


@pytest.mark.parametrize("seed", [None, 7.5, "seven", float("nan"), True, [7], np.ones(2)])
def test_what_is_no_whole_number_is_refused_by_name(seed, run):
    with pytest.raises(InputError, match=r"seed = .*: give a whole number"):
        physgen.generate(run, 5, seed=seed)
    with pytest.raises(InputError, match=r"n = .*: give a whole number"):
        physgen.load(run).sample(seed)


def test_numpys_numbers_are_overrides(folder, run, tmp_path):
    plain = {"method.learning_rate": 0.5, "surrogate.bijection.hidden": [8], "engine.steps": 2}
    numpys = {
        "method.learning_rate": np.float32(0.5),
        "surrogate.bijection.hidden": np.array([8]),
        "engine.steps": np.int64(2),
    }
    assert train(folder, numpys, runs=tmp_path).path == train(folder, plain, runs=tmp_path).path


def interrupt(kind, at):
    """Return a progress that sends a signal when training has come to a step."""

    def progress(stage, step, steps, figures):
        if stage.endswith("train") and step == at:
            os.kill(os.getpid(), kind)

    return progress


@pytest.fixture
def heard():
    """Ctrl-C is heard, also where the tests were begun in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
def test_ctrl_c_ends_a_loop_that_survives_failures(folder, run, tmp_path):
    done, survived = [], []

    def sweep():
        for seed in (0, 1):
            try:
                progress = None if done else interrupt(signal.SIGINT, 2)
                train(folder, {"engine.seed": seed}, runs=tmp_path, progress=progress)
                done.append(seed)
            except Exception as error:
                survived.append(error)

    with pytest.raises(KeyboardInterrupt, match=r"after step 3 of 4.*same command again"):
        sweep()
    assert not done
    assert not survived
    # What was done is there.
    assert weights(train(folder, runs=tmp_path)) == weights(run)


def test_a_signal_reaches_the_hosts_handler_when_all_is_saved(folder, run, tmp_path):
    told = []

    def handler(number, frame):
        told.append((number, len(list(tmp_path.glob("*/*/checkpoints/step-*")))))

    before = signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(Stopped):
            train(folder, runs=tmp_path, progress=interrupt(signal.SIGTERM, 2))
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)
    assert told == [(signal.SIGTERM, 1)]


def test_a_signal_that_the_host_ignores_is_ignored(folder, run, tmp_path):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        done = train(folder, runs=tmp_path, progress=interrupt(signal.SIGTERM, 2))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert weights(done) == weights(run)
