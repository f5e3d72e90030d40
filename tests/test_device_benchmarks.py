"""Benchmarks of a device draw samples on it."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from physgen.batch import Schema, Variable
from physgen.surrogates.flows.flow import Flow

META = torch.device("meta")
"""A device that every machine has."""


def benchmark(name):
    path = Path(__file__).parents[1] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["device_speed", "full_size"])
def test_samples_are_timed_on_the_device(name, monkeypatch):
    module, timed = benchmark(name), []

    def milliseconds(surrogate, condition, *, batches, repeats, seed):
        timed.append(surrogate.device)
        return {size: np.ones(repeats) for size in batches}

    run = SimpleNamespace(
        load=lambda: Flow(Schema((1,), (Variable("x"),))),
        data=None,
        path=Path(),
        recipe=SimpleNamespace(name="any"),
        scorecard=SimpleNamespace(rows=()),
    )
    monkeypatch.setattr(module, "milliseconds", milliseconds)
    if name == "device_speed":
        monkeypatch.setattr(module, "DEVICE", META)
        module.sampling(run)
    else:
        monkeypatch.setattr(module, "choose_device", lambda: META)
        monkeypatch.setattr(module, "read_card", lambda folder: {"training_seconds": 1})
        monkeypatch.setattr(module.physgen, "train", lambda *_, **__: run)
        module.run("any")
    assert timed == [META]
