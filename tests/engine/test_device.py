"""The choice of a device, and seeds that never meet."""

import json
import shutil
import subprocess

import pytest
import torch

from physgen.engine.device import choose_device, describe_machine, describe_revision, deterministic
from physgen.engine.random import keyed_seed
from physgen.errors import InputError
from physgen.run import Run


def machine(monkeypatch, n_devices):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: n_devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_devices)


def test_without_cuda_auto_is_the_cpu_and_cuda_is_refused(monkeypatch):
    machine(monkeypatch, 0)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(InputError, match=r"engine.device=cpu, or install"):
        choose_device("cuda")


def test_each_process_has_a_device_of_its_own(monkeypatch):
    machine(monkeypatch, 2)
    assert choose_device("auto", 1) == torch.device("cuda", 1)
    assert choose_device("cpu", 1) == torch.device("cpu")
    with pytest.raises(InputError, match=r"start at most 2 processes"):
        choose_device("cuda", 2)


def test_the_machine_is_described_in_json():
    found = json.loads(json.dumps(describe_machine()))
    assert torch.__version__.startswith(found["versions"]["torch"].split("+")[0])
    assert found["cores"] >= 1


def test_deterministic_mode_ends_with_its_block():
    with deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()


def test_seeds_of_one_key_never_meet_in_32_bits():
    seeds = {keyed_seed(3, "shared", number=step) % 2**32 for step in range(200_000)}
    assert len(seeds) == 200_000
    assert keyed_seed(1, "a") != keyed_seed("1", "a")
    assert keyed_seed("ab", "c") != keyed_seed("a", "bc")


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_revision_of_a_clone_and_whether_it_was_changed(tmp_path, monkeypatch):
    assert describe_revision(tmp_path) is None

    def git(*words):
        who = ["-c", "user.name=n", "-c", "user.email=e@x", "-c", "core.hooksPath=/dev/null"]
        return subprocess.run(
            ["git", "-C", tmp_path, *who, *words], check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init")
    assert describe_revision(tmp_path) is None
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "first")
    assert describe_revision(tmp_path) == {"revision": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "b").write_text("not of the clone")
    assert not describe_revision(tmp_path)["dirty"]
    (tmp_path / "a").write_text("2")
    assert describe_revision(tmp_path)["dirty"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert describe_revision(tmp_path) is None


def test_a_run_is_written_with_the_revision_that_made_it(tmp_path):
    Run(tmp_path).write_provenance({})
    assert Run(tmp_path).provenance["git"] == describe_revision()
