"""Benchmarks of a device draw samples on it."""

from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from physgen.batch import Schema, Variable
from physgen.surrogates.flows.flow import Flow

META = torch.device("meta")
"""A device that every machine has."""


@pytest.mark.parametrize("name", ["device_speed", "full_size"])
def test_samples_are_timed_on_the_device(name, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    module, speed, timed = import_module(name), import_module("device_speed"), []

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
    monkeypatch.setattr(speed, "milliseconds", milliseconds)
    monkeypatch.setattr(speed, "DEVICE", META)
    if module is speed:
        module.sampling(run)
    else:
        monkeypatch.setattr(module, "read_card", lambda folder: {"training_seconds": 1})
        asked = []
        monkeypatch.setattr(
            module.physgen, "train", lambda *given, **__: asked.append(given) or run
        )
        assert len(module.run("any", "data.path=a.h5", "data.n=3")) == 1 + len(speed.BATCHES)
        assert asked == [("any", {"data.path": "a.h5", "data.n": 3})]
    assert timed == [META]
