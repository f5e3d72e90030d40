"""The recipes of refinement, on few showers; and what files of events must not be."""

import json

import awkward as ak
import numpy as np
import pytest
import torch
import uproot

import physgen
from physgen.batch import Batch
from physgen.errors import FormatError, InputError
from physgen.scoring import compare
from physgen.systems.events import EventTable
from physgen.systems.shower_pair import shower_table
from physgen.systems.simulated_tables import simulated_file
from physgen.validation.classifier import ClassifierTest
from physgen.validation.comparison import Comparison

SMALL = {
    "engine.steps": 5,
    "engine.batch_size": 64,
    "sampling.n": 300,
    "validation.metrics": [
        {"kind": "means"},
        {"kind": "classifier", "model": "boosted", "conditions": False},
    ],
}
PATHS = {
    "refine-dctr": {"source": "fast/1", "target": "full/2"},
    "refine-cycle": {"source": "fast/1", "target": "full/2"},
    "refine-bridge": {"fast": "fast/1", "full": "full/1"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("showers")
        patch.setenv("PHYSGEN_DATA", str(folder))
        yield folder


@pytest.mark.parametrize("name", PATHS)
def test_a_recipe_runs_from_showers_to_a_refined_file(name, folder, tmp_path):
    paths = {f"data.{k}.path": f"simulated:showers-{v}/1500" for k, v in PATHS[name].items()}
    run = physgen.train(name, SMALL | paths, runs=tmp_path, track=False)
    rows = {row.name: row for row in run.scorecard.rows}
    row = rows["AUC, boosted classifier, low level, without conditions"]
    assert row.baseline > 0.65, "the fast events stand beside, as they were"
    assert abs(row.floor - 0.5) < 0.15
    report = physgen.refine(run, "simulated:showers-fast/1/1500", tmp_path / "refined.root")
    with uproot.open(tmp_path / "refined.root") as file:
        found = file["events"].arrays(library="np")
    fast = shower_table("showers-fast", 1500, seed=1).x.numpy()
    changed = (
        []
        if name == "refine-dctr"
        else ["response", "fraction_1", "fraction_3", "fraction_12", "width_1", "width_2"]
    )
    assert report["refined"] == changed, "the energy stays what it is"
    np.testing.assert_array_equal(found["energy"], fast[:, 1].astype("f4"))
    old = "response_unrefined" if changed else "response"
    np.testing.assert_array_equal(found[old], fast[:, 2].astype("f4"))
    if changed:
        assert (found["response"] != found["response_unrefined"]).mean() > 0.9
    else:
        assert found["weight"].sum() == pytest.approx(1500)


def test_events_outside_the_domain_are_counted_where_they_are_accepted(folder, tmp_path):
    paths = {
        f"data.{k}.path": f"simulated:showers-{v}/300" for k, v in PATHS["refine-dctr"].items()
    }
    changes = SMALL | paths | {"sampling.extrapolate": True}
    run = physgen.train("refine-dctr", changes, runs=tmp_path, track=False, score=False)
    report = physgen.refine(run, "simulated:showers-fast/7/5000", tmp_path / "refined.root")
    assert " of 5000 samples are outside the trained domain: " in report["outside_domain"]
    with uproot.open(tmp_path / "refined.root") as file:
        about = json.loads(str(file["physgen_provenance"]))
    assert about["outside_domain"] == report["outside_domain"]


def test_the_same_showers_are_in_both_files(folder):
    with pytest.raises(FormatError, match=r"simulated:NAME/SEED/N.*'showers-fast'"):
        simulated_file("simulated:shower-fast")
    fast, full = (shower_table(f"showers-{kind}", 1200, seed=4).x for kind in ("fast", "full"))
    assert (fast[:, :2] == full[:, :2]).all()
    for column in (2, 3, 4):  # Neither angle nor cross-talk, which moves energy, nor noise change.
        assert np.corrcoef(fast[:, column], full[:, column])[0, 1] > 0.99
    assert full[:, 6].mean() > 1.1 * fast[:, 6].mean()


def test_a_classifier_without_conditions_does_not_see_what_events_are_made_of(tmp_path):
    """Truth is its condition with a smear; made is as true, but of other events."""
    rng = np.random.default_rng(1)
    np.savez(tmp_path / "a.npz", x=rng.normal(size=9))
    columns = {"name": "x", "dtype": "float32"}
    system = EventTable(
        path=str(tmp_path / "a.npz"), fields=(columns,), condition=({**columns, "name": "y"},)
    )
    x, y = torch.from_numpy(rng.normal(size=(2, 2000, 1)).astype("f4"))
    comparison = Comparison(system, Batch(x, y), Batch(x + 0.1 * y, x))
    values = {}
    for conditions in (True, False):
        test = ClassifierTest(model="boosted", conditions=conditions, level="high")
        values[conditions] = test.rows(comparison)[0].value
    assert values[True] > 0.95
    assert values[False] == pytest.approx(0.5, abs=0.08)


def test_the_baseline_of_weighted_pairs_has_their_weights(tmp_path):
    """Nothing is between fast and full but 1: so the baseline is 1 off, whatever weights are."""
    rng = np.random.default_rng(1)
    x, event = rng.exponential(1.0, 2000), np.arange(2000)
    np.savez(tmp_path / "fast.npz", x=x, event=event)
    np.savez(tmp_path / "full.npz", x=x + 1, event=event, w=x)
    (tmp_path / "pairs.yaml").write_text("""
name: pairs
system: {kind: events}
data:
  fast: {path: fast.npz, fields: [x], group: [event]}
  full: {path: full.npz, fields: [x], group: [event], weight: w, paired_with: fast}
transform: [{kind: standardise}]
surrogate: {kind: bridge, network: {kind: residual, hidden: 4, depth: 1}}
method: {kind: flow-matching}
baseline: {kind: unrefined}
engine: {steps: 1, batch_size: 32}
validation: {metrics: [{kind: means}]}
""")
    run = physgen.train(tmp_path / "pairs.yaml", runs=tmp_path, track=False, score=False)
    samples = compare(run, run.load())
    means = {
        role: float(np.average(m.values["x"].squeeze(), weights=m.weight))
        for role, m in samples.measured.items()
    }
    assert means["truth"] == pytest.approx(means["baseline"] + 1, abs=1e-5)
    assert means["truth"] > 2.5  # Without weights it is 2, with those x it is 3.


RECIPE = """
name: classes
system: {kind: events}
data:
  source: {path: source.root, fields: FIELDS}
  target: {path: target.root, fields: FIELDS}
transform: [{kind: standardise}]
surrogate: {kind: KIND}
method: {kind: METHOD}
engine: {steps: 2, batch_size: 32}
"""
KINDS = {"reweighting": "density-ratio", "translator": "cycle-consistency"}


def write(path, n=400, **columns):
    with uproot.recreate(path) as file:
        file["events"] = {"E": np.random.default_rng(n).normal(size=n).astype("f4"), **columns}


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_that_one_of_two_files_lacks_is_refused(kind, tmp_path):
    fields = "[E, {name: label, low: 0, high: 9}]"
    text = RECIPE.replace("FIELDS", fields).replace("KIND", kind).replace("METHOD", KINDS[kind])
    (tmp_path / "recipe.yaml").write_text(text)
    label = np.arange(400) % 3
    write(tmp_path / "source.root", label=label)
    write(tmp_path / "target.root", label=np.where(label == 1, 0, label))
    options = {"runs": tmp_path / "runs", "track": False, "score": False}
    message = r"target\.root: no event has label = 1, which row 1 of .*source\.root and 132 others"
    with pytest.raises(FormatError, match=message):
        physgen.train(tmp_path / "recipe.yaml", **options)
    write(tmp_path / "target.root", n=401, label=np.arange(401) % 4)
    with pytest.raises(FormatError, match=r"source\.root: no event has label = 3.*take files of"):
        physgen.train(tmp_path / "recipe.yaml", **options)
    few = label.copy()
    few[:3] = 7  # So few may be absent by chance.
    write(tmp_path / "target.root", n=402, label=np.append(few, [0, 0]))
    physgen.train(tmp_path / "recipe.yaml", **options)


@pytest.mark.parametrize("other", [np.zeros(401, int), 1 + np.arange(401) % 2])
def test_a_flag_that_states_no_range_is_a_class(other, tmp_path):
    fields = "[E, tag]"
    text = RECIPE.replace("FIELDS", fields).replace("KIND", "reweighting")
    (tmp_path / "recipe.yaml").write_text(text.replace("METHOD", KINDS["reweighting"]))
    write(tmp_path / "source.root", tag=np.arange(400) % 2)
    write(tmp_path / "target.root", n=401, tag=other)
    with pytest.raises(FormatError, match="no event has tag = "):
        physgen.train(tmp_path / "recipe.yaml", runs=tmp_path / "runs", track=False, score=False)


def test_events_that_are_all_empty_are_refused(tmp_path):
    text = RECIPE.replace("FIELDS", "[hits]").replace("KIND", "reweighting")
    (tmp_path / "recipe.yaml").write_text(text.replace("METHOD", "density-ratio"))
    for name in ("source", "target"):
        with uproot.recreate(tmp_path / f"{name}.root") as file:
            file.mktree("events", {"hits": "var * float64"})
            empty = ak.unflatten(np.zeros(0), np.zeros(50, dtype=int))
            file["events"].extend({"hits": empty})
    with pytest.raises(FormatError, match=r"source\.root: all 50 events are empty: .* hits; name"):
        physgen.train(tmp_path / "recipe.yaml", runs=tmp_path / "runs", track=False, score=False)


def test_negative_weights_are_refused_by_name_where_nothing_learns_from_them(tmp_path):
    weight = np.where(np.arange(400) % 4, 1.0, -1.0)
    for name in ("source", "target"):
        write(tmp_path / f"{name}.root", n=400 + len(name[:1]), w=np.append(weight, 1.0))
    message = r"data\.source\.weight: .*negative, and method.kind: {} .*pair the two files"
    for kind, method in KINDS.items():
        text = RECIPE.replace("FIELDS", "[E], weight: w").replace("KIND", kind)
        (tmp_path / "recipe.yaml").write_text(text.replace("METHOD", method))
        with pytest.raises(InputError, match=message.format(method)):
            physgen.train(
                tmp_path / "recipe.yaml", runs=tmp_path / "runs", track=False, score=False
            )


def test_samples_of_any_surrogate_of_tables_are_reweighted(tmp_path):
    """A Gaussian model of a column of two peaks: its events between them weigh little."""
    rng = np.random.default_rng(1)
    x = rng.choice([-1.0, 1.0], 2000) + 0.3 * rng.normal(size=2000)
    np.savez(tmp_path / "true.npz", x=x, y=rng.normal(size=2000))
    common = "transform: [{kind: standardise}]\nengine: {batch_size: 200, steps: STEPS}\n"
    (tmp_path / "model.yaml").write_text(
        "name: model\nsystem: {kind: events}\ndata: {path: true.npz, fields: [x, y]}\n"
        "surrogate: {kind: flow, bijection: {kind: coupling, n_layers: 2, hidden: [4]}}\n"
        "method: {kind: maximum-likelihood}\n" + common.replace("STEPS", "0")
    )
    (tmp_path / "weighing.yaml").write_text(
        "name: weighing\nsystem: {kind: events}\ndata:\n"
        "  source: {path: made.npz, fields: [x, y]}\n  target: {path: true.npz, fields: [x, y]}\n"
        "surrogate: {kind: reweighting, network: {kind: mlp, hidden: [32]}}\n"
        "method: {kind: density-ratio, learning_rate: 0.01}\nbaseline: {kind: unrefined}\n"
        "sampling: {n: 600}\nvalidation:\n  metrics:\n    - {kind: event-weights}\n"
        "    - {kind: classifier, model: boosted}\n" + common.replace("STEPS", "600")
    )
    options = {"runs": tmp_path / "runs", "track": False}
    model = physgen.train(tmp_path / "model.yaml", score=False, **options)
    physgen.load(model).write(tmp_path / "made.npz", 2000, seed=1)
    run = physgen.train(tmp_path / "weighing.yaml", **options)
    rows = {row.name: row for row in run.scorecard.rows}
    auc = rows["AUC, boosted classifier, low level"]
    assert auc.baseline > 0.6, "as it was generated"
    assert auc.value < auc.baseline - 0.08, "and weighed"
    assert 0.2 < rows["ESS of event weights"].value < 0.95
    report = physgen.refine(run, tmp_path / "made.npz", tmp_path / "weighed.npz")
    assert report["verdict"] == run.scorecard.verdict
    with np.load(tmp_path / "weighed.npz") as file:
        assert file["weight"][np.abs(file["x"]) < 0.2].mean() < 0.5
