"""Benchmarks of a device draw samples on it."""

from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from physgen.batch import Schema, Variable
from physgen.surrogates.flows.flow import Flow

EPIC = {"kind": "epic", "hidden": 8, "n_global": 4, "depth": 1}
SMALL = {
    "calo-points-flow": {"surrogate.network": EPIC, "surrogate.first.hidden": [8]},
    "jets-gluon-flow": {"surrogate.network": EPIC, "data.n": 500},
    "calo-6480": {"data.n": 100, "data.fit_rows": 60, "surrogate.hidden": 8},
    "refine-bridge": {
        "data.fast.path": "simulated:showers-fast/1/300",
        "data.full.path": "simulated:showers-full/1/300",
    },
}
META = torch.device("meta")
"""A device that every machine has."""


@pytest.mark.parametrize("name", ["device_speed", "full_size"])
def test_samples_are_timed_on_the_device(name, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    module, speed, timed = import_module(name), import_module("device_speed"), []

    def milliseconds(surrogate, condition, *, batches, repeats, seed):
        timed.append(surrogate.device)
        return {size: np.full(repeats, 1e-3) for size in batches}

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
    assert timed == [META] * len(speed.BATCHES)


@pytest.mark.parametrize(
    "name", ["calo-points-flow", "jets-gluon-flow", "calo-6480", "refine-bridge"]
)
def test_recipes_are_measured_within_their_time(name, tmp_path, monkeypatch):
    """With small networks and a hundred rows; no batch is drawn that would take too long."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    monkeypatch.setenv("PHYSGEN_DATA", str(tmp_path))
    speed = import_module("device_speed")
    small = {"engine.batch_size": 8, "engine.warmup": 0, **SMALL[name]}
    monkeypatch.setattr(speed, "ROWS", 500)
    monkeypatch.setattr(speed, "FEWER", {**speed.FEWER, **small})
    monkeypatch.setattr(speed, "WINDOWS", 2)
    monkeypatch.setattr(speed, "TRAINING", 0.1)
    monkeypatch.setattr(speed, "SAMPLING", 1e-9)
    monkeypatch.setattr(speed, "REPEATS", 1)
    rows = speed.measure(name, tmp_path, {"float32": 1e9}, 1e9)
    assert [row["name"].removeprefix(f"{name}: ") for row in rows] == [
        "training, FLOP, float32",
        "training, bytes, float32",
        "training, batches of 8",
        *(f"sampling, batches of {size}" for size in speed.BATCHES),
    ]
    assert all(row["value"] > 0 for row in rows[:4])
    assert [row["value"] for row in rows[4:]] == [None] * (len(speed.BATCHES) - 1)
    assert rows[0]["value"] == pytest.approx(1e9 * rows[0]["ratio"]["median"])


def test_no_recipe_is_begun_when_time_is_up(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    speed = import_module("device_speed")
    monkeypatch.setattr(speed, "ceilings", lambda: ({}, 1.0))
    monkeypatch.setattr(speed, "LAST", -1.0)
    rows = speed.run()
    assert [row["name"] for row in rows] == list(speed.RECIPES)
    assert {row["note"] for row in rows} == {"no time was left"}
