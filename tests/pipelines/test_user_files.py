"""The same pipelines on files that users bring."""

import shlex

import awkward as ak
import h5py
import numpy as np
import pytest
import torch
import uproot

import physgen
from physgen import recipe
from physgen.against import Against, Criteria
from physgen.ensembles import score_ensemble
from physgen.errors import CheckpointError, FormatError, InputError
from physgen.io.inspect import inspect
from physgen.overrides import parse_overrides
from physgen.run import Run
from physgen.systems.gauge import Gauge

SMALL = {"engine.steps": 4, "engine.batch_size": 64, "validation.metrics": [{"kind": "means"}]}


def data_path(name):
    return pytest.importorskip("skhep_testdata").data_path(name)


def train(name, changes, runs):
    return physgen.train(name, {**SMALL, **changes}, runs=runs, track=False)


def test_events_of_one_collision_stay_together(tmp_path):
    changes = {
        "data.path": data_path("uproot-Zmumu.root"),
        "data.tree": "events",
        "data.fields": ["E1", "px1", "py1", "pz1", "E2", "px2", "py2", "pz2", "M"],
        "data.group": ["Run", "Event"],
    }
    run = train("events-flow", changes, tmp_path)
    keys, parts = run.data.source.keys(), run.data.parts
    assert len(keys) == 2304
    assert len(np.unique(keys)) == 500
    members = [set(keys[part]) for part in (parts.train, parts.validation, parts.test)]
    assert not members[0] & members[1]
    assert not members[0] & members[2]
    assert not members[1] & members[2]

    output = physgen.load(run).write(tmp_path / "more.root", 300, seed=1)
    with uproot.open(output) as file:
        tree = file["events"]
        assert tree.num_entries == 300
        assert tree["M"].typename == "double"


def test_repeated_keys_are_said(tmp_path):
    changes = {
        "data.path": data_path("uproot-Zmumu.root"),
        "data.tree": "events",
        "data.fields": ["M", "pt1"],
        "data.group": ["Run", "Event"],
    }
    resolved = recipe.read("events-flow", changes)
    assert any(
        "500 group keys" in sentence for sentence in Run.create(resolved, tmp_path)[0].data.notes
    )


def test_jagged_events(tmp_path):
    changes = {
        "data.path": data_path("uproot-HZZ.root"),
        "data.tree": "events",
        "data.fields": ["Muon_Px", "Muon_Py", "Muon_Pz", "Muon_E"],
        "data.weight": "EventWeight",
    }
    run = train("events-flow", changes, tmp_path)
    output = physgen.load(run).write(tmp_path / "more.root", 200, seed=1)
    with uproot.open(data_path("uproot-HZZ.root")) as file:
        total = file["events"]["EventWeight"].array(library="np").astype(float).sum()
    with uproot.open(output) as file:
        tree = file["events"]
        weights = tree["EventWeight"].array(library="np").astype(float)
        counts = {len(row) for row in tree["Muon_Px"].array(library="np")}
    assert weights.sum() == pytest.approx(total, rel=1e-4)
    assert len(counts) > 1


def test_an_rntuple(tmp_path):
    generator = np.random.default_rng(3)
    counts = generator.integers(0, 4, 400)
    columns = {"Muon_pt": generator.gamma(2.0, 20.0, counts.sum())}
    columns["Muon_eta"] = generator.normal(size=counts.sum())
    with uproot.recreate(tmp_path / "a.root") as file:
        file.mkrntuple("Events", {k: ak.unflatten(v, counts) for k, v in columns.items()})
    changes = {"data.path": str(tmp_path / "a.root"), "data.fields": list(columns)}
    run = train("events-flow", changes, tmp_path)
    assert run.system.schema.names[:3] == ("nMuon", "Muon_pt[0]", "Muon_eta[0]")
    x = run.data.source.read(0, 400).x
    assert x[:, 0].tolist() == counts.tolist()
    first = counts > 0
    starts = (np.cumsum(counts) - counts)[first]
    assert np.array_equal(x[torch.from_numpy(first), 1].numpy(), columns["Muon_pt"][starts])
    assert np.isfinite(run.scorecard["Muon_pt[0]"].value)


@pytest.mark.parametrize(
    "name", ["uproot-Zmumu.root", "uproot-HZZ.root", "uproot-from-geant4.root"]
)
def test_what_inspect_proposes_runs(tmp_path, name):
    hints = [hint for hint in inspect(data_path(name))["hints"] if "physgen train" in hint]
    assert hints
    for hint in hints:
        recipe_name, *words = shlex.split(hint.partition("physgen train ")[2])
        changes = {**SMALL, **parse_overrides(words)}
        assert physgen.train(recipe_name, changes, runs=tmp_path, track=False, score=False).finished


@pytest.mark.parametrize("transform", ["gaussianise", "standardise"])
def test_times_in_seconds_since_1970_keep_their_spread(tmp_path, transform):
    generator = np.random.default_rng(1)
    codes = [22, 11, 2212, 1_000_010_020, 1_000_020_030, 1_000_020_040]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["time"] = 1.7e9 + generator.normal(0, 5, 3000)
        file["energy"] = generator.exponential(3.0, 3000).astype("f4")
        file["pdg"] = generator.choice(codes, 3000).astype("i4")
    fields = ["time", "pdg", "energy"] if transform == "gaussianise" else ["time", "energy"]
    changes = {
        "data.path": str(tmp_path / "a.h5"),
        "data.fields": fields,
        "transform": [{"kind": transform}],
        "surrogate": {
            "kind": "flow",
            "bijection": {"kind": "coupling", "n_layers": 2, "hidden": [8]},
        },
    }
    run = physgen.train("events-flow", {**SMALL, **changes}, runs=tmp_path, track=False)
    x = physgen.generate(run.path, 2000, seed=1).x
    # The standard error of a deviation of 2000 normal numbers is 1.6%.
    assert x[:, 0].std().item() == pytest.approx(5, rel=0.15)
    assert x[:, 0].mean().item() == pytest.approx(1.7e9, abs=2)
    if transform == "gaussianise":
        assert set(x[:, 1].tolist()) == set(codes)
    physgen.load(run).write(tmp_path / "more.root", 100, seed=1)
    with uproot.open(tmp_path / "more.root") as file:
        assert file["events"]["time"].array(library="np").std() > 3


def test_a_tree_without_rows_is_said_to_be_empty(tmp_path):
    with uproot.recreate(tmp_path / "a.root") as file:
        file.mktree("events", {"pt": "f4", "eta": "f4"})
    changes = {"data.path": str(tmp_path / "a.root"), "data.fields": ["pt", "eta"]}
    with pytest.raises(InputError, match=r"a\.root holds no rows"):
        train("events-flow", changes, tmp_path)
    with pytest.raises(InputError, match=r"a\.root holds no rows"):
        Against(tmp_path / "a.root", Criteria(recipe="events-flow", overrides=changes)).score(
            tmp_path / "a.root"
        )


def test_showers_of_a_user(tmp_path):
    system = Run.create(recipe.read("calo-flow"), tmp_path)[0].system
    with system.writer(tmp_path / "mine.hdf5", 500) as append:
        append(system.simulate(500, seed=5))
    changes = {
        "data.path": str(tmp_path / "mine.hdf5"),
        "data.binning": "calo-368.xml",
        "data.split": [0.6, 0.1, 0.3],
    }
    run = train("calo-flow", changes, tmp_path)
    assert len(run.data.source) == 500
    assert run.scorecard.rows


@pytest.mark.parametrize("name", ["calo-flow", "calo-conv-flow-matching", "calo-vae"])
def test_showers_that_are_all_empty_are_refused_by_the_name_of_their_file(tmp_path, name):
    with h5py.File(tmp_path / "empty.hdf5", "w") as file:
        file["showers"], file["incident_energies"] = np.zeros((200, 368)), np.full((200, 1), 5e3)
    changes = {"data.path": tmp_path / "empty.hdf5", "data.binning": "calo-368.xml"}
    with pytest.raises(FormatError, match=r"empty\.hdf5: all 1.. training rows are empty.*name"):
        physgen.train(name, changes, runs=tmp_path, track=False, score=False)


def test_spins_of_a_user(tmp_path):
    system = Run.create(recipe.read("ising-rbm"), tmp_path)[0].system
    with system.writer(tmp_path / "spins.h5", 300) as append:
        append(system.simulate(300, seed=5))
    run = train("ising-rbm", {"data.path": str(tmp_path / "spins.h5")}, tmp_path)
    assert len(run.data.source) == 300


def test_an_action_of_a_user(tmp_path):
    (tmp_path / "my_action.py").write_text(
        "def action(x):\n"
        "    links = sum((x - x.roll(1, d)) ** 2 for d in (1, 2))\n"
        "    return (links + 0.5 * x**2 + x**4).sum((1, 2))\n"
    )
    changes = {
        "system.action": f"{tmp_path / 'my_action.py'}:action",
        "system.shape": [4, 4],
        "sampling.n": 500,
    }
    run = train("lattice-flow", changes, tmp_path)
    assert {row.name for row in run.scorecard.rows} >= {"phi^2", "|m|", "chi2", "U4"}

    file = tmp_path / "my_action.py"
    file.write_text(file.read_text().replace("0.5 * x**2", "5.0 * x**2"))
    with pytest.raises(CheckpointError, match="has changed since"):
        train("lattice-flow", changes, tmp_path)


def test_a_chain_of_anybody(tmp_path):
    field = np.random.default_rng(0).normal(size=(400, 6, 6))
    np.savez(tmp_path / "chain.npz", x=field)
    card = score_ensemble(tmp_path / "chain.npz", None, {}).card
    assert card["phi^2"].value == pytest.approx(1.0, abs=5 * card["phi^2"].error)
    assert card["tau_int phi^2"].value == pytest.approx(0.5, abs=0.2)


@pytest.mark.parametrize("file", ["u1.h5", "u1.npz"])
def test_angles_stand_beside_the_exact_values_of_the_theory_that_their_file_states(tmp_path, file):
    theory = Gauge(group="U(1)", shape=(4, 6), beta=1.5)
    batch = theory.simulate(800, seed=1)
    with theory.writer(tmp_path / file, 800) as append:
        append(batch)
    card = score_ensemble(tmp_path / file, None, {}).card
    rows = {row.name: row for row in card.rows}
    assert rows["Q^2"].exact == theory.exact()["Q^2"]
    assert abs(rows["plaquette"].pull) < 4
    assert card.provenance["beta"] == 1.5


@pytest.mark.parametrize("shape", [(400,), (400, 1)])
@pytest.mark.parametrize("name", ["energy", "samples"])
def test_a_series_of_measurements_is_no_lattice(tmp_path, name, shape):
    values = np.random.default_rng(0).normal(3.0, 1.0, shape)
    np.savez(tmp_path / "a.npz", **{name: values})
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file[name] = values
    for file in ("a.npz", "a.h5"):
        card = score_ensemble(tmp_path / file, None, {}).card
        assert [row.name for row in card.rows] == ["value", "tau_int value"]
        assert card["value"].value == pytest.approx(values.mean())
        assert card["value"].error == pytest.approx(0.05, rel=0.3)


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_chain_labels_under_the_name_that_was_given(tmp_path, suffix):
    values = np.random.default_rng(0).normal(size=(10, 100)) + 3.0 * np.array([[-1], [1]] * 5)
    columns = {"x": values.ravel(), "replica": np.repeat(np.arange(10), 100)}
    path = tmp_path / f"replicas{suffix}"
    if suffix == ".npz":
        np.savez(path, **columns)
    else:
        with h5py.File(path, "w") as file:
            for name, column in columns.items():
                file[name] = column
    card = score_ensemble(path, None, {"system.chain": "replica"}).card
    assert card.provenance["chains"] == 10
    assert card["value"].error > 0.7  # of ten numbers +-3, not of a thousand
    with pytest.raises(InputError, match=r"'replicas'.*replica"):
        score_ensemble(path, None, {"system.chain": "replicas"})


@pytest.mark.parametrize("n", [0, 1])
def test_a_chain_needs_two_samples(tmp_path, n):
    np.savez(tmp_path / "a.npz", x=np.ones((n, 4, 4)))
    with pytest.raises(InputError, match=f"samples in the chain: {n};"):
        score_ensemble(tmp_path / "a.npz", None, {})


def test_rows_of_a_chain_are_tested_by_stretches_of_its_time(tmp_path):
    """Rows beside each other in a chain are alike: one trained on would make the other's test."""
    generator = np.random.default_rng(2)
    up, n = np.zeros(3000), 3000
    for i in range(1, n):
        up[i] = 0.97 * up[i - 1] + 0.24 * generator.normal()
    chain = np.where(up[:, None, None] + generator.normal(size=(n, 4, 4)) > 0, 1, -1)
    for name, spins in (("chain", chain), ("mixed", chain[generator.permutation(n)])):
        np.savez(tmp_path / f"{name}.npz", samples=spins.astype("i1"))
        changes = {"system.shape": [4, 4], "data.path": str(tmp_path / f"{name}.npz")}
        parts = Run.create(recipe.read("ising-rbm", changes), tmp_path / "runs")[0].data.parts
        assert len(parts.test) > 100
        beside_train = np.isin(parts.test + 1, parts.train).mean()
        assert beside_train < 0.05 if name == "chain" else beside_train > 0.5
