"""The choice of a device, and seeds that never meet."""

import json

import pytest
import torch

from physgen.engine.device import choose_device, describe_machine, deterministic
from physgen.engine.random import keyed_seed
from physgen.errors import InputError


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
