"""The verb `refine`: files of fast events become files of full ones, in every format."""

import json
import logging

import awkward as ak
import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import uproot
from typer.testing import CliRunner

import physgen
from physgen.cli import app
from physgen.errors import DomainError, FormatError, InputError, TrainingError

N = 600
RECIPE = """
name: tiny-refine
system: {kind: events}
data:
  fast: {path: FAST, fields: [E, n], weight: WEIGHT, group: [event]}
  full: {path: FULL, fields: [E, n], group: [event], paired_with: fast}
transform: [{kind: gaussianise}, {kind: standardise}]
surrogate: {kind: bridge, network: {kind: residual, hidden: 16, depth: 1}}
method: {kind: flow-matching}
engine: {steps: 20, batch_size: 64}
validation: {metrics: [{kind: means}]}
"""
WEIGHING = """
name: tiny-weighing
system: {kind: events}
data:
  source: {path: FAST, tree: events, fields: [E, n], weight: w}
  target: {path: FULL, fields: [E, n]}
transform: [{kind: standardise}]
surrogate: {kind: reweighting, network: {kind: mlp, hidden: [8]}}
method: {kind: density-ratio}
engine: {steps: 20, batch_size: 64}
validation: {metrics: [{kind: means}, {kind: event-weights}]}
"""


def arrays(seed, shift=0.0):
    """E rises with a shift; n are int16 counts; the weights are positive."""
    rng = np.random.default_rng(seed)
    return {
        "E": (rng.normal(50, 5, N) + shift).astype("f4"),
        "n": rng.poisson(5, N).astype("i2"),
        "event": np.arange(N),
        "w": rng.uniform(0.5, 2, N),
    }


def write_root(path, columns):
    """A file with a jagged branch, a fixed-size one, another tree, a histogram and a text."""
    rng = np.random.default_rng(9)
    n = len(columns["E"])
    counts = rng.integers(0, 4, n)
    hits = ak.unflatten(rng.normal(size=counts.sum()), counts)
    columns = {**columns, "p": rng.normal(size=(n, 3)).astype("f4")}
    types = {name: np.dtype((c.dtype, c.shape[1:])) for name, c in columns.items()}
    with uproot.recreate(path) as file:
        file.mktree("events", {**types, "hits": "var * float64"}, title="all events")
        if n:
            file["events"].extend({**columns, "hits": hits})
        file["runs"] = {"run": np.array([1, 2])}
        file["h"] = np.histogram(columns["E"], 5)
        file["plots/h2"] = np.histogram(columns["E"], 3)
        file["made_by"] = "somebody"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refinement")
    write_root(folder / "fast.root", arrays(1))
    write_root(folder / "full.root", arrays(1, shift=2.0))
    write_root(folder / "other.root", arrays(2, shift=2.0))
    paths = {"FAST": "fast.root", "FULL": "full.root"}
    bridge, weighing = RECIPE, WEIGHING
    for name, path in paths.items():
        bridge = bridge.replace(name, f"{path}, tree: events")
    bridge = bridge.replace(", weight: WEIGHT", "")
    weighing = weighing.replace("FAST", "fast.root").replace("FULL", "other.root, tree: events")
    (folder / "bridge.yaml").write_text(bridge)
    (folder / "weighing.yaml").write_text(weighing)
    return folder


@pytest.fixture(scope="module")
def bridge(folder):
    return physgen.train(folder / "bridge.yaml", runs=folder / "runs", track=False, score=False)


@pytest.fixture(scope="module")
def weighing(folder):
    return physgen.train(folder / "weighing.yaml", runs=folder / "runs", track=False)


def test_a_root_file_comes_back_with_the_unrefined_columns_beside(folder, bridge, tmp_path):
    report = physgen.refine(bridge, folder / "fast.root", tmp_path / "refined.root", seed=3)
    assert (report["refined"], report["added"], report["lost"]) == (["E", "n"], [], [])
    with uproot.open(folder / "fast.root") as old, uproot.open(tmp_path / "refined.root") as new:
        before, after = old["events"], new["events"]
        assert set(after.keys()) == {*before.keys(), "E_unrefined", "n_unrefined"}
        for name in before.keys():  # noqa: SIM118 (a tree is no dictionary)
            assert after[name].typename == before[name].typename, name
            there = f"{name}_unrefined" if name in ("E", "n") else name
            assert ak.all(after[there].array() == before[name].array()), name
            assert after[there].typename == before[name].typename
        assert after.title == "all events"
        assert set(new.keys(cycle=False)) == {*old.keys(cycle=False), "physgen_provenance"}
        assert new["runs"]["run"].array().tolist() == [1, 2]
        assert new["h"].values().tolist() == old["h"].values().tolist()
        assert str(new["made_by"]) == "somebody"
        facts = json.loads(str(new["physgen_provenance"]))
        made = after.arrays(["E", "n"], library="np")
    assert (facts["refined_from"], facts["seed"]) == ("fast.root", 3)
    sampler = physgen.load(bridge)
    rows = sampler.conditions_in(folder / "fast.root")
    expected = sampler.sample(N, seed=3, condition=rows).x.numpy()
    np.testing.assert_array_equal(made["E"], expected[:, 0])
    np.testing.assert_array_equal(made["n"], expected[:, 1])


@pytest.mark.parametrize("suffix", [".h5", ".npz", ".parquet"])
def test_other_formats_come_back_likewise(folder, bridge, tmp_path, suffix):
    columns, source = arrays(1), tmp_path / f"fast{suffix}"
    columns["E"] = columns["E"].astype("f8")  # Wider than those that were trained on.
    if suffix == ".h5":
        with h5py.File(source, "w") as file:
            for name, column in columns.items():
                file[name] = column
            file["E"].attrs["unit"] = "1"
            file["deep/inside"] = np.ones(2)
            file.attrs["made_by"] = "somebody"
    elif suffix == ".npz":
        np.savez(source, **columns)
    else:
        pa = pytest.importorskip("pyarrow")
        pq.write_table(pa.table({**columns, "text": ["a"] * N}), source)
    target = tmp_path / f"refined{suffix}"
    physgen.refine(bridge, source, target, seed=3)
    root = physgen.refine(bridge, folder / "fast.root", tmp_path / "refined.root", seed=3)
    wanted = uproot.open(root["file"])["events"]["E"].array(library="np")
    if suffix == ".h5":
        with h5py.File(target) as file:
            found = {name: file[name][:] for name in file if name != "deep"}
            assert file["deep/inside"][:].tolist() == [1, 1]
            assert file["E"].attrs["unit"] == "1"
            assert (file.attrs["made_by"], "physgen_provenance" in file.attrs) == ("somebody", True)
    elif suffix == ".npz":
        found = dict(np.load(target))
    else:
        table = pq.read_table(target)
        assert table["text"].to_pylist() == ["a"] * N
        found = {name: table[name].to_numpy() for name in table.column_names}
    for name, column in columns.items():
        there = f"{name}_unrefined" if name in ("E", "n") else name
        np.testing.assert_array_equal(found[there], column)
        assert found[name].dtype == column.dtype, name
    np.testing.assert_allclose(found["E"], wanted, rtol=1e-6)


def test_reweighting_changes_the_weights_alone_and_keeps_their_sum(folder, weighing, tmp_path):
    report = physgen.refine(weighing, folder / "fast.root", tmp_path / "weighed.root")
    assert (report["refined"], report["added"]) == (["w"], [])
    with uproot.open(tmp_path / "weighed.root") as file:
        found = file["events"].arrays(["E", "w", "w_unrefined"], library="np")
        assert "E_unrefined" not in file["events"]
    old = arrays(1)
    np.testing.assert_array_equal(found["w_unrefined"], old["w"])
    np.testing.assert_array_equal(found["E"], old["E"])
    assert found["w"].sum() == pytest.approx(old["w"].sum(), rel=1e-9)
    assert report["sum_of_weights"] == pytest.approx(old["w"].sum(), rel=1e-9)
    rows = physgen.load(weighing).conditions_in(folder / "fast.root")
    ratio = weighing.load().log_ratio(rows.condition.float()).exp().detach().numpy()
    wanted = old["w"] * ratio
    np.testing.assert_allclose(found["w"], wanted * old["w"].sum() / wanted.sum(), rtol=1e-5)
    share = found["w"].sum() ** 2 / (found["w"] ** 2).sum() / N
    assert report["effective_share"] == pytest.approx(share)


def test_negative_weights_keep_their_signs_and_their_sum(folder, weighing, bridge, tmp_path):
    columns = arrays(1)
    columns["w"][::5] *= -1
    write_root(tmp_path / "signed.root", columns)
    report = physgen.refine(weighing, tmp_path / "signed.root", tmp_path / "weighed.root")
    assert report["sum_of_weights"] == pytest.approx(columns["w"].sum(), rel=1e-9)
    with uproot.open(tmp_path / "weighed.root") as file:
        assert ((file["events"]["w"].array(library="np") < 0) == (columns["w"] < 0)).all()
    columns["w"] = np.where(np.arange(N) % 2, 1.0, -1.0)
    write_root(tmp_path / "none.root", columns)
    with pytest.raises(InputError, match=r"none\.root: the weights of its 600 events sum to 0"):
        physgen.refine(weighing, tmp_path / "none.root", tmp_path / "no.root")
    physgen.refine(bridge, tmp_path / "none.root", tmp_path / "bridged.root")
    with uproot.open(tmp_path / "bridged.root") as file:
        np.testing.assert_array_equal(file["events"]["w"].array(library="np"), columns["w"])


def test_columns_that_stay_are_not_rounded_to_the_precision_of_the_network(tmp_path):
    columns = {**arrays(1), "E": np.random.default_rng(3).normal(50, 5, N)}
    np.savez(tmp_path / "fast.npz", **columns)
    np.savez(tmp_path / "full.npz", **{**columns, "n": columns["n"] + 1})
    text = RECIPE.replace(", weight: WEIGHT", "").replace(
        "kind: bridge", "kind: bridge, unchanged: [E]"
    )
    text = text.replace("FAST", "fast.npz").replace("FULL", "full.npz")
    (tmp_path / "stays.yaml").write_text(text)
    run = physgen.train(tmp_path / "stays.yaml", runs=tmp_path, track=False, score=False)
    report = physgen.refine(run, tmp_path / "fast.npz", tmp_path / "refined.npz")
    assert report["refined"] == ["n"]
    np.testing.assert_array_equal(np.load(tmp_path / "refined.npz")["E"], columns["E"])


def test_density_ratios_take_the_place_of_no_weights(folder, tmp_path):
    text = WEIGHING.replace("FAST, tree: events", "fast.npz").replace(", weight: w", "")
    np.savez(tmp_path / "fast.npz", **arrays(1))
    np.savez(tmp_path / "full.npz", **arrays(2, shift=2.0))
    (tmp_path / "weighing.yaml").write_text(text.replace("FULL", "full.npz"))
    run = physgen.train(tmp_path / "weighing.yaml", runs=tmp_path, track=False, score=False)
    report = physgen.refine(run, tmp_path / "fast.npz", tmp_path / "weighed.npz")
    assert report["added"] == ["weight"]
    columns = arrays(1)
    columns["weight"] = columns.pop("w")
    np.savez(tmp_path / "fast.npz", **columns)
    with pytest.raises(FormatError, match=r"fast\.npz has a column 'weight'.*data\.source\.weight"):
        physgen.refine(run, tmp_path / "fast.npz", tmp_path / "no.npz")
    assert not (tmp_path / "no.npz").exists()


def test_density_ratios_that_overflow_are_refused(folder, weighing, tmp_path, monkeypatch):
    def overflowing(self, batch):
        return torch.where(torch.arange(len(batch.x)) == 3, 1e3, 0.0)

    monkeypatch.setattr("physgen.surrogates.reweighting.Reweighting.latent_log_ratio", overflowing)
    with pytest.raises(TrainingError, match="the weight of sample 3 is not finite"):
        physgen.refine(weighing, folder / "fast.root", tmp_path / "no.root")


@pytest.mark.parametrize("suffix", [".root", ".h5", ".npz", ".parquet"])
def test_new_weights_are_not_rounded_to_the_integers_that_old_ones_were(
    folder, weighing, tmp_path, suffix
):
    columns, source = arrays(1), tmp_path / f"signs{suffix}"
    columns["w"] = np.where(np.arange(N) % 7, 1, -1).astype("i4")
    if suffix == ".root":
        write_root(source, columns)
    elif suffix == ".h5":
        with h5py.File(source, "w") as file:
            file.update(columns)
    elif suffix == ".npz":
        np.savez(source, **columns)
    else:
        pa = pytest.importorskip("pyarrow")
        pq.write_table(pa.table(columns), source)
    report = physgen.refine(weighing, source, tmp_path / f"weighed{suffix}")
    if suffix == ".root":
        with uproot.open(report["file"]) as file:
            found = file["events"].arrays(["w", "w_unrefined"], library="np")
    elif suffix == ".h5":
        with h5py.File(report["file"]) as file:
            found = {name: file[name][:] for name in ("w", "w_unrefined")}
    elif suffix == ".npz":
        found = dict(np.load(report["file"]))
    else:
        table = pq.read_table(report["file"])
        found = {name: table[name].to_numpy() for name in ("w", "w_unrefined")}
    np.testing.assert_array_equal(found["w_unrefined"], columns["w"])
    assert found["w_unrefined"].dtype == np.int32
    ratio = found["w"] / columns["w"]
    assert (ratio > 0).all()
    assert len(np.unique(ratio)) > N // 2
    assert found["w"].sum() == pytest.approx(columns["w"].sum(), rel=1e-9)


def test_what_cannot_be_refined_is_refused_with_its_row(folder, bridge, weighing, tmp_path):
    far = arrays(1)
    far["E"][17] = 500
    write_root(tmp_path / "far.root", far)
    with pytest.raises(DomainError, match=r"far\.root: condition fast_E = 500 \(row 17\)"):
        physgen.refine(bridge, tmp_path / "far.root", tmp_path / "no.root")
    with pytest.raises(InputError, match=r"far\.root is ROOT"):  # before events are looked at
        physgen.refine(bridge, tmp_path / "far.root", tmp_path / "no.h5")
    write_root(tmp_path / "empty.root", {name: column[:0] for name, column in far.items()})
    with pytest.raises(FormatError, match=r"empty\.root.*no events in it; name a file"):
        physgen.refine(bridge, tmp_path / "empty.root", tmp_path / "no.root")
    with pytest.raises(InputError, match=r"fast\.root is ROOT.*name the output no\.root"):
        physgen.refine(bridge, folder / "fast.root", tmp_path / "no.h5")
    refined = physgen.refine(weighing, folder / "fast.root", tmp_path / "refined.root")["file"]
    with pytest.raises(FormatError, match=r"'w_unrefined' is there already.*the original file"):
        physgen.refine(weighing, refined, tmp_path / "no.root")
    with pytest.raises(InputError, match="exists; choose another path"):
        physgen.refine(bridge, folder / "fast.root", refined)
    assert not (tmp_path / "no.root").exists()
    assert not list(tmp_path.glob("*.part"))


def test_units_of_the_file_are_checked(folder, tmp_path):
    for name, unit in (("fast", "GeV"), ("full", "GeV"), ("wrong", "MeV")):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            for key, column in arrays(1).items():
                file[key] = column
            file["E"].attrs["unit"] = unit
    energy = "fields: [{name: E, unit: GeV}, n]"
    text = RECIPE.replace("FAST", "fast.h5").replace("FULL", "full.h5")
    text = text.replace(", weight: WEIGHT", "").replace("fields: [E, n]", energy)
    (tmp_path / "units.yaml").write_text(text)
    run = physgen.train(
        tmp_path / "units.yaml", {"engine.steps": 1}, runs=tmp_path, track=False, score=False
    )
    with pytest.raises(FormatError, match=r"wrong\.h5.*'E' is in MeV, and data.fields says GeV"):
        physgen.refine(run, tmp_path / "wrong.h5", tmp_path / "no.h5")


def test_runs_that_make_no_events_from_others_are_refused(tmp_path):
    small = {"system.shape": [4, 4], "engine.steps": 1, "engine.batch_size": 8}
    run = physgen.train("phi4-coupling", small, runs=tmp_path, score=False, track=False)
    with pytest.raises(InputError, match="makes no events from others; train a recipe such as"):
        physgen.refine(run, "fast.root", tmp_path / "no.root")


def test_the_command_says_what_it_did_and_what_the_verdict_is(folder, weighing, tmp_path, caplog):
    words = ["refine", str(weighing.path), str(folder / "fast.root"), "--json"]
    with caplog.at_level(logging.WARNING, "physgen"):
        result = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "out.root")])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    verdict = weighing.scorecard.verdict
    assert (report["events"], report["verdict"]) == (N, verdict)
    assert (f"the verdict of this run is: {verdict}" in caplog.text) == (verdict != "pass")
