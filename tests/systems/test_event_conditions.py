"""Columns of events that are conditions: read, learned, asked for and written back by name."""

import awkward as ak
import h5py
import numpy as np
import pytest
import torch
import uproot

from physgen import pipeline
from physgen.errors import FormatError, RecipeError
from physgen.systems.events import EventTable

N = 400


def table(folder, suffix):
    """Write a resolution: E_reco = E_true (1 + .1 eps), by the name of the format."""
    rng = np.random.default_rng(1)
    energy = rng.uniform(10, 100, N).astype("f4")
    columns = {
        "E_reco": (energy * (1 + 0.1 * rng.normal(size=N))).astype("f4"),
        "eta": rng.normal(size=N).astype("f4"),
        "E_true": energy,
        "run": np.arange(N, dtype="i4") % 3,
    }
    path = folder / f"events{suffix}"
    if suffix == ".root":
        with uproot.recreate(path) as file:
            file.mktree("events", {name: value.dtype for name, value in columns.items()})
            file["events"].extend(columns)
    elif suffix == ".npz":
        np.savez(path, **columns)
    else:
        with h5py.File(path, "w") as file:
            for name, value in columns.items():
                file[name] = value
                file[name].attrs["unit"] = "GeV" if name.startswith("E") else "1"
    return path, columns


def system(path, **options):
    given = {"fields": ("E_reco", "eta"), "condition": ("E_true", "run")} | options
    return EventTable(path=str(path), **given)


@pytest.mark.parametrize("suffix", [".root", ".h5", ".npz"])
def test_conditions_are_read_and_written_back_by_name(tmp_path, suffix):
    path, columns = table(tmp_path, suffix)
    events = system(path)
    source = events.open(path)
    batch = source.read(3, 20)
    assert events.schema.names == ("E_reco", "eta")
    assert [v.name for v in events.schema.condition] == ["E_true", "run"]
    assert events.schema.condition[1].domain == "integer"
    np.testing.assert_array_equal(batch.condition[:, 0], columns["E_true"][3:20])
    np.testing.assert_array_equal(batch.condition[:, 1], columns["run"][3:20])
    for other in (".root", ".h5", ".npz"):
        copy = tmp_path / f"copy{suffix[1:]}{other}"
        with events.writer(copy, 17) as append:
            append(batch)
        again = events.open(copy).read(0, 17)
        assert torch.equal(again.x, batch.x)
        assert torch.equal(again.condition, batch.condition)


@pytest.mark.parametrize("suffix", [".root", ".h5", ".npz"])
def test_conditions_keep_their_precision_beside_single_precision_fields(tmp_path, suffix):
    path = tmp_path / f"runs{suffix}"
    x = np.arange(5, dtype="f4")
    time = 1.7e9 + np.arange(5.0)
    if suffix == ".root":
        with uproot.recreate(path) as file:
            file.mktree("events", {"x": "f4", "time": "f8"})
            file["events"].extend({"x": x, "time": time})
    elif suffix == ".npz":
        np.savez(path, x=x, time=time)
    else:
        with h5py.File(path, "w") as file:
            file["x"], file["time"] = x, time
    events = system(path, fields=("x",), condition=("time",))
    batch = events.open(path).read(0, 5)
    assert batch.x.dtype == torch.float32
    np.testing.assert_array_equal(batch.condition[:, 0], time)


def test_items_of_events_have_flat_conditions(tmp_path):
    path = tmp_path / "jagged.root"
    counts = np.arange(30) % 4
    pt = ak.unflatten(np.arange(counts.sum(), dtype="f4"), counts)
    met = np.arange(30, dtype="f4")
    with uproot.recreate(path) as file:
        file.mktree("events", {"jet_pt": "var * float32", "met": "f4"})
        file["events"].extend({"jet_pt": pt, "met": met})
    events = EventTable(path=str(path), fields=("jet_pt",), condition=("met",))
    batch = events.open(path).read(0, 30)
    assert [v.name for v in events.schema.condition] == ["met"]
    np.testing.assert_array_equal(batch.condition[:, 0], met)
    copy = tmp_path / "copy.root"
    with events.writer(copy, 30) as append:
        append(batch)
    again = events.open(copy).read(0, 30)
    assert torch.equal(again.x, batch.x)
    assert torch.equal(again.condition, batch.condition)


def test_a_classifier_sees_conditions(tmp_path):
    """Samples of another energy scale differ in nothing but their ratio to the condition."""
    path, _ = table(tmp_path, ".h5")
    events = system(path, condition=("E_true",))
    batch = events.open(path).read(0, N)
    low, high = (events.features(batch, level) for level in ("low", "high"))
    assert torch.equal(low[:, :1], batch.condition.float())
    difference = batch.x[:, 0] - batch.condition[:, 0]
    assert any(torch.allclose(column, difference) for column in high.unbind(1))


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        (("E_tru",), "'E_tru' does not exist; did you mean 'E_true'"),
        (("eta",), "data.condition: eta is one of the fields too"),
        (({"name": "E_true", "present": "eta > 1"},), "E_true is always present"),
        (({"name": "E_true", "unti": "GeV"},), "data.condition: unknown key 'unti' of E_true"),
        (({"name": "E_true", "unit": "MeV"},), "is in GeV, and data.condition says MeV"),
    ],
)
def test_wrong_conditions_are_named(tmp_path, condition, said):
    path, _ = table(tmp_path, ".h5")
    with pytest.raises((FormatError, RecipeError), match=said):
        system(path, condition=condition).open(path)


def test_a_run_learns_the_response_and_is_asked_for_an_energy(tmp_path):
    path, _ = table(tmp_path, ".h5")
    changes = {
        "data": {"path": str(path), "fields": ["E_reco"], "condition": ["E_true"]},
        "engine.steps": 300,
        "engine.batch_size": 128,
        "sampling.n": 80,
        "validation.metrics": [{"kind": "response"}],
    }
    run = pipeline.train("events-flow", changes, runs=tmp_path / "runs", track=False)
    low, high = (
        pipeline.generate(run.path, 500, condition={"E_true": energy}).x.mean().item()
        for energy in (20.0, 90.0)
    )
    assert low == pytest.approx(20, rel=0.2)
    assert high == pytest.approx(90, rel=0.2)
