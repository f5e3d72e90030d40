"""Azimuths of events are known by name and range, and never leave it."""

import math

import numpy as np
import pytest
import torch

from physgen import pipeline
from physgen.batch import Batch, Variable
from physgen.systems.event_columns import may_be_azimuth
from physgen.systems.events import EventTable

N = 600


def table(folder, **columns):
    path = folder / "events.npz"
    np.savez(path, **{name: np.asarray(value, "f4") for name, value in columns.items()})
    return path


def domains(path, *fields):
    schema = EventTable(path=str(path), fields=fields).schema
    return {v.name: (v.domain, v.low, v.high) for v in schema.variables}


def test_names_of_azimuths():
    for name in ("phi", "Muon_phi", "jet1_phi", "phi2", "dphi", "Phi", "delta_phi", "jets.phi"):
        assert may_be_azimuth(Variable(name)), name
    for name in ("phi_star", "delphi", "graphic", "phil", "eta"):
        assert not may_be_azimuth(Variable(name)), name
    assert not may_be_azimuth(Variable("phi", unit="deg"))
    assert not may_be_azimuth(Variable("phi", dtype="int32"))


def test_the_range_decides_which_convention_or_none(tmp_path):
    u = np.linspace(0, 1, N)
    path = table(
        tmp_path,
        phi=np.float32(np.pi) * (2 * u - 1),
        a_phi=2 * np.pi * u,
        b_phi=360 * u,
        eta=u,
    )
    found = domains(path, "phi", "a_phi", "b_phi", "eta")
    assert found["phi"] == ("angle", -math.pi, math.pi)
    assert found["a_phi"] == ("angle", 0.0, 2 * math.pi)
    assert found["b_phi"] == found["eta"] == ("real", None, None)
    assert domains(path, {"name": "phi", "domain": "real"})["phi"] == ("real", None, None)


def test_differences_of_angles_go_the_shorter_way(tmp_path):
    path = table(tmp_path, a_phi=np.full(N, 3.0), b_phi=np.full(N, -3.0))
    events = EventTable(path=str(path), fields=("a_phi", "b_phi"))
    batch = events.open(path).read(0, 3)
    difference = events.features(batch, "high")[:, 2]
    torch.testing.assert_close(difference.abs(), torch.full((3,), 2 * math.pi - 6))
    assert isinstance(batch, Batch)


@pytest.mark.parametrize("low", [-math.pi, 0.0])
def test_generated_azimuths_stay_within_their_range(tmp_path, low):
    """Uniform ones, up to the last float before the end, are generated up to the ends."""
    phi = np.float32(low) + 2 * np.float32(np.pi) * np.random.default_rng(1).random(N)
    phi[:2] = np.float32(low), np.float32(low + 2 * math.pi)
    path = table(tmp_path, phi=phi, pt=np.random.default_rng(2).exponential(30, N))
    changes = {
        "data": {"path": str(path), "fields": ["phi", "pt"]},
        "engine.steps": 100,
        "engine.batch_size": 128,
        "sampling.n": 100,
        "validation.metrics": [{"kind": "means"}],
    }
    run = pipeline.train("events-flow", changes, runs=tmp_path / "runs", track=False, score=False)
    made = pipeline.generate(run.path, 20_000).x[:, 0]
    assert low - 1e-5 <= made.min() < low + 0.1
    assert low + 2 * math.pi - 0.1 < made.max() <= low + 2 * math.pi + 1e-5
