"""Several processes on one model: one writes and speaks, and all end together."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from safetensors.torch import load_file

from physgen.engine.launch import launch
from physgen.errors import InputError, TrainingError

COMMAND = [sys.executable, "-m", "physgen", "train"]
SMALL = {
    "ising-rbm": ["system.shape=[8,8]", "data.n=400"],  # persistent chains
    "digits-rbm-cd": [],  # contrastive divergence
    "digits-gan": [],
    "digits-vae": [],
    "digits-ddpm": [],
    "digits-realnvp": [],
    "phi4-coupling": ["system.shape=[4,4]"],  # reverse KL
}


def train(name, runs, *changes, n=2):
    words = [name, "--nproc", n, "--runs", runs, "--no-track", "--json", *SMALL[name], *changes]
    return subprocess.run(
        [*COMMAND, *map(str, words), "engine.steps=4", "engine.batch_size=64", "engine.device=cpu"],
        capture_output=True,
        text=True,
        check=False,
    )


def weights_of(runs):
    (path,) = runs.glob("*/*/surrogate/weights.safetensors")
    return load_file(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_two_processes_train_one_surrogate(name, tmp_path):
    done = train(name, tmp_path, "--no-score")
    assert done.returncode == 0, done.stderr
    assert list(json.loads(done.stdout)) == ["run"], "one of them speaks"
    assert all(torch.isfinite(one).all() for one in weights_of(tmp_path).values())


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path):
    for n in (1, 2):
        done = train("digits-realnvp", tmp_path / str(n), "sampling.n=200", n=n)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["rows"], "scored once"
    alone, shared = (weights_of(tmp_path / str(n)) for n in (1, 2))
    for key, value in alone.items():
        torch.testing.assert_close(shared[key], value, rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.slow
def test_one_killed_process_ends_all_and_is_named(tmp_path):
    words = [*COMMAND, "digits-realnvp", "--nproc", "2", "--runs", tmp_path, "--no-track"]
    changes = ["engine.steps=1000000", "engine.checkpoint_every=20", "engine.device=cpu"]
    started = subprocess.Popen([*words, *changes], stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("*/*/checkpoints/*")) and started.poll() is None:
        time.sleep(0.2)
    children = psutil.Process(started.pid).children(recursive=True)
    (victim,) = [child for child in children if child.environ().get("RANK") == "1"]
    os.kill(victim.pid, signal.SIGKILL)
    _, said = started.communicate(timeout=60)
    assert started.returncode == 1
    last = said.splitlines()[-1]
    assert last.startswith("error: process 1 of 2 was killed by SIGKILL; the others were ended")
    assert not any(child.is_running() for child in children)


@pytest.mark.slow
def test_what_a_process_says_of_its_failure_is_the_reason(tmp_path):
    done = train("digits-vae", tmp_path, "engine.learning_rate_min=1")
    assert done.returncode == 2
    assert done.stderr.count("learning_rate_min") == 1, "said once, before any process is started"
    done = train("digits-vae", tmp_path, "data.path=absent.npz")
    assert done.returncode != 0
    assert "absent.npz" in done.stderr


def test_wrong_numbers_of_processes_are_refused():
    with pytest.raises(InputError, match="--nproc 0"):
        launch(0, [])


@pytest.mark.slow
def test_an_exit_code_is_named():
    with pytest.raises(TrainingError, match=r"process [01] of 2 ended with exit code 2"):
        launch(2, ["train", "no-such-recipe"])
