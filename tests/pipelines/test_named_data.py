"""Recipes with several data sections: pairs of events, and samples made from other samples."""

import h5py
import numpy as np
import pytest
import yaml

import physgen
from physgen import card as cards
from physgen import cli
from physgen.errors import CheckpointError, FormatError, RecipeError
from physgen.recipe import check

N = 4000
SMEAR = 0.2
PAIRED = """
name: pairs
system: {kind: events}
data:
  fast: {path: fast.npz, fields: [E, eta], group: [event]}
  full: {path: full.npz, fields: [E, eta], group: [event], paired_with: fast}
transform: [{kind: standardise}]
surrogate: {kind: flow, bijection: {kind: coupling, n_layers: 3, hidden: [32]}}
method: {kind: maximum-likelihood, learning_rate: 0.005}
engine: {steps: 300, batch_size: 256, schedule: cosine, clip: 1.0}
sampling: {n: 800}
validation: {metrics: [{kind: means}, {kind: response}]}
"""
UNPAIRED = """
name: reweighted
system: {kind: events}
data:
  target: {path: full.npz, fields: [E, eta]}
  source: {path: fast.npz, fields: [E, eta]}
transform: [{kind: standardise}]
surrogate: {kind: reweighting, network: {kind: mlp, hidden: [32]}}
method: {kind: density-ratio, learning_rate: 0.005}
engine: {steps: 300, batch_size: 256, schedule: cosine}
sampling: {n: 800}
validation: {metrics: [{kind: means}]}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Fast events, and the full ones of most of them: E rises by 20% and is smeared, eta moves."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(1)
    energy, eta = rng.normal(50, 5, N), rng.normal(size=N)
    event = np.arange(N)
    np.savez(
        folder / "fast.npz", E=energy.astype("f4"), eta=eta.astype("f4"), event=event.astype("i8")
    )
    some = rng.permutation(N)[: N - 100]
    full = 1.2 * energy + SMEAR * rng.normal(size=N)
    np.savez(
        folder / "full.npz",
        E=full[some].astype("f4"),
        eta=(eta + 0.5)[some].astype("f4"),
        event=event[some].astype("i4"),
    )
    (folder / "pairs.yaml").write_text(PAIRED)
    (folder / "reweighted.yaml").write_text(UNPAIRED)
    return folder


def train(folder, name, overrides=None, **options):
    path = folder / f"{name}.yaml"
    return physgen.train(path, overrides, runs=folder / "runs", track=False, **options)


@pytest.fixture(scope="module")
def pairs(folder):
    return train(folder, "pairs")


def test_pairs_are_learned_event_by_event(folder, pairs):
    assert list(pairs.inputs) == ["data"]
    names = [v.name for v in pairs.load().schema.condition]
    assert names == ["fast_E", "fast_eta"]
    data = pairs.provenance["data"]
    assert data["rows"] == N - 100
    assert any("100 of 4000 rows have no partner" in note for note in pairs.data.notes)
    rng = np.random.default_rng(2)
    given = {"fast_E": rng.normal(50, 4, 2000).clip(40, 60), "fast_eta": rng.uniform(-1, 1, 2000)}
    made = physgen.generate(pairs.path, 2000, seed=1, condition=given)
    energy, eta = made.x.double().numpy().T
    # The spread of E at a fast E is small beside that of all E: only pairs can tell.
    assert np.std(energy - 1.2 * given["fast_E"]) < 0.5 * np.std(energy)
    assert np.mean(energy - 1.2 * given["fast_E"]) == pytest.approx(0, abs=0.3)
    assert np.std(eta - given["fast_eta"] - 0.5) < 0.2


def test_generated_events_stand_beside_the_fast_ones_they_are_of(folder, pairs):
    with np.load(folder / "fast.npz") as file:
        fast = np.stack([file["E"], file["eta"]], 1)
    path = folder / "made.h5"
    physgen.load(pairs.path).write(path, 50, seed=3)
    with h5py.File(path) as file:
        assert set(file) == {"E", "eta", "fast_E", "fast_eta"}
        made = np.stack([file["fast_E"], file["fast_eta"]], 1)
    assert (made[:, None] == fast[None]).all(-1).any(1).all(), "columns of one event stay together"


def test_the_scorecard_is_at_the_conditions_of_the_test_rows(pairs):
    rows = {row.name for row in pairs.scorecard.rows}
    assert "response in bins of the condition" in rows
    assert "E" in rows


def test_rows_are_paired_by_their_order_without_keys(folder):
    changes = {"data.fast.group": None, "data.full.group": None}
    with pytest.raises(FormatError, match=r"full.npz has 3900 rows and .*fast.npz 4000"):
        train(folder, "pairs", changes)
    changes["data.full.path"] = str(folder / "fast.npz")
    run = train(folder, "pairs", changes | {"engine.steps": 2}, score=False)
    batch = run.data.source.read(5, 9)
    assert (batch.x == batch.condition).all()


@pytest.fixture(scope="module")
def reweighted(folder):
    return train(folder, "reweighted")


def test_rows_that_are_paired_in_another_order_are_a_warning(folder, tmp_path, caplog):
    no_keys = {"data.fast.group": None, "data.full.group": None, "engine.steps": 1}
    event = {name: dict(np.load(folder / f"{name}.npz")) for name in ("fast", "full")}
    order = event["full"]["event"]
    np.savez(tmp_path / "same.npz", **{key: x[order] for key, x in event["fast"].items()})
    np.savez(tmp_path / "other.npz", **{key: x[: len(order)] for key, x in event["fast"].items()})
    for name, warned in (("same", False), ("other", True)):
        changes = {**no_keys, "data.fast.path": tmp_path / f"{name}.npz"}
        with caplog.at_level("WARNING", "physgen"):
            train(folder, "pairs", changes, score=False)
        said = f"{tmp_path / name}.npz are paired row by row, and none of their columns E, eta is"
        assert (said in caplog.text) == warned


def test_samples_are_made_from_those_of_another_file(folder, reweighted):
    assert list(reweighted.inputs) == ["source", "target"], "in the order of the method"
    made_from = reweighted.provenance["data"]["made_from"]
    assert made_from["source"]["rows"] == N
    assert reweighted.provenance["data"]["rows"] == N - 100
    with np.load(folder / "full.npz") as file:
        wanted = file["eta"].mean()
    for suffix in (".npz", ".h5"):
        path = folder / f"weighted{suffix}"
        physgen.load(reweighted.path).write(path, 4000, seed=1)
        with np.load(path) if suffix == ".npz" else h5py.File(path) as file:
            eta, weight = file["eta"][:], file["weight"][:]
        # exp(.5^2) events for one, and another 1 of E: the error of the mean is about .04.
        assert abs(eta.mean()) < 0.1
        assert np.average(eta, weights=weight) == pytest.approx(wanted, abs=0.15)


def test_unpaired_samples_of_the_same_events_are_no_surprise_later(folder, caplog):
    keys = {"data.source.group": ["event"], "data.target.group": ["event"]}
    train(folder, "reweighted", keys | {"engine.steps": 2}, score=False)
    assert "data.source and data.target have 3900 events in common" in caplog.text


def test_the_scorecard_weighs_test_rows_of_the_source(reweighted):
    row = next(row for row in reweighted.scorecard.rows if row.name == "eta")
    assert row.value == pytest.approx(0.5, abs=0.25)
    assert row.exact == pytest.approx(0.5, abs=0.15)


def test_another_source_file_is_another_training(folder, reweighted, tmp_path):
    with np.load(folder / "fast.npz") as file:
        arrays = dict(file)
    np.savez(tmp_path / "fast.npz", **arrays)
    changes = {"data.source.path": str(tmp_path / "fast.npz"), "engine.steps": 2}
    run = train(folder, "reweighted", changes, score=False)
    assert run.provenance["data"]["sha256"] == reweighted.provenance["data"]["sha256"]
    arrays["E"] = arrays["E"] + 1
    np.savez(tmp_path / "fast.npz", **arrays)
    with pytest.raises(CheckpointError, match="trained with another source"):
        train(folder, "reweighted", changes, score=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.full.paired_with": "fasst"}, "data.full.paired_with = 'fasst' is no other section"),
        ({"data.full.paired_with": "full"}, "'full' is no other section"),
        ({"data.full.paired_with": None}, "maximum-likelihood learns from data, and .* data.fast"),
        ({"data.fast.paired_with": "full"}, "data.full.paired_with: data.fast is paired with it"),
        ({"data.fast.path": None, "data.fast.n": 10}, "data.fast.path is missing"),
        ({"data.full.path": None}, "data.full.path is missing"),
        ({"data.full.pathh": "x"}, "unknown key 'data.full.pathh'.*path"),
        ({"data.full.fit_rows": 0}, "data.full.fit_rows = 0"),
        ({"data.path": "x.npz"}, "unknown key 'data.fast'"),
        ({"data.other": {"path": "x"}}, "data.fast and data.other|data.full and data.other"),
        ({"method": {"kind": "density-ratio"}}, "not paired: name data.source and data.target"),
        ({"data": {"path": "x", "paired_with": "y"}}, "pairs a section with another; name them"),
        (
            {"data": {"path": "x"}, "method": {"kind": "density-ratio"}},
            "source: {path: ...}, target: {path: ...}",
        ),
        ({"data.1": {"path": "x"}}, "data.1: names of sections"),
    ],
)
def test_sections_that_do_not_fit_are_refused(folder, changes, message):
    with pytest.raises(RecipeError, match=message):
        physgen.recipe.read(folder / "pairs.yaml", changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.fast.condition": ["event"]}, "all columns of data.fast are conditions already"),
        ({"system": {"kind": "images"}}, "samples of system 'images' cannot be paired"),
        (
            {"data.fast.axes": ["chain", "time"]},
            "data.fast.axes: files of system 'events' are read without",
        ),
        ({"data.fast.fields": ["E", "nothing"]}, "nothing"),
    ],
)
def test_what_a_system_cannot_do_with_sections_is_refused(folder, changes, message):
    with pytest.raises((RecipeError, FormatError), match=message):
        train(folder, "pairs", changes)


def test_a_target_with_conditions_is_not_made_from_others(folder):
    with pytest.raises(RecipeError, match="leave the conditions out, or pair the two"):
        train(folder, "reweighted", {"data.target.condition": ["event"]})


def test_a_recipe_with_sections_is_written_and_read_again(folder):
    recipe = physgen.recipe.read(folder / "pairs.yaml")
    assert check(yaml.safe_load(recipe.to_yaml())) == recipe
    assert recipe.sections["fast"].path == str(folder / "fast.npz")


def test_a_file_of_fast_events_becomes_full_ones(folder, pairs):
    sampler = physgen.load(pairs.path)
    rows = sampler.conditions_in(folder / "fast.npz")
    assert len(rows) == N
    made = sampler.sample(200, seed=1, condition=rows[:200])
    with np.load(folder / "fast.npz") as file:
        fast = file["E"][:200]
    np.testing.assert_array_equal(made.condition[:, 0], fast)
    assert np.corrcoef(made.x[:, 0], fast)[0, 1] > 0.9


def test_weights_of_a_file_are_those_of_what_is_made_from_it(folder, reweighted, tmp_path):
    """Event weights times density ratios: neither is lost."""
    with np.load(folder / "fast.npz") as file:
        arrays = dict(file)
    arrays["w"] = np.where(arrays["E"] > 50, 3.0, -1.0)
    np.savez(tmp_path / "fast.npz", **arrays)
    changes = {"data.source.weight": "w", "data.source.path": str(tmp_path / "fast.npz")}
    with pytest.raises(physgen.errors.InputError, match=r"is negative, and method\.kind"):
        train(folder, "reweighted", changes, score=False)
    arrays["w"] = np.abs(arrays["w"])
    np.savez(tmp_path / "fast.npz", **arrays)
    run = train(folder, "reweighted", changes | {"engine.steps": 20}, score=False)
    sampler = physgen.load(run.path)
    rows = sampler.conditions_in(tmp_path / "fast.npz")
    np.testing.assert_array_equal(rows.weight, arrays["w"])
    made = sampler.sample(N, seed=1, condition=rows)
    ratio = run.load().log_ratio(made.x).exp().detach()
    np.testing.assert_allclose(made.weight, arrays["w"] * ratio.numpy(), rtol=1e-5)


def test_files_without_the_conditions_are_refused(folder, pairs, tmp_path):
    np.savez(tmp_path / "other.npz", E=np.ones(3))
    with pytest.raises(FormatError, match="eta"):
        physgen.load(pairs.path).conditions_in(tmp_path / "other.npz")
    with pytest.raises(FormatError, match=r"absent\.npz"):
        physgen.load(pairs.path).conditions_in(tmp_path / "absent.npz")


def test_the_command_refines_a_file(folder, pairs, tmp_path, capsys, monkeypatch):
    def generate(*words):
        command = ["physgen", "generate", str(pairs.path), "-o", str(tmp_path / "full.h5"), *words]
        monkeypatch.setattr("sys.argv", command)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, capsys.readouterr().err

    fast = str(folder / "fast.npz")
    code, said = generate("--condition-from", fast, "--condition", "fast_E=50")
    assert (code, "leave one out" in said) == (2, True)
    code, said = generate("--condition-from", fast, "-n", "1e6")
    assert (code, f"has only {N} rows" in said) == (2, True)
    code, said = generate()
    assert (code, "-n is missing" in said) == (2, True)
    far = sample_rows(tmp_path, "far", E=[50.0, 500.0], eta=[0.0, 0.0], event=[1, 2])
    code, said = generate("--condition-from", far)
    assert code == 2
    assert f"{far}: condition fast_E = 500 (row 1) is outside" in said
    assert [path.name for path in tmp_path.iterdir()] == ["far.npz"]
    assert generate("--condition-from", fast)[0] == 0
    with h5py.File(tmp_path / "full.h5") as file, np.load(fast) as given:
        np.testing.assert_array_equal(file["fast_E"], given["E"])


def sample_rows(folder, name, **columns):
    np.savez(folder / f"{name}.npz", **{k: np.asarray(v) for k, v in columns.items()})
    return str(folder / f"{name}.npz")


@pytest.mark.parametrize("dependent", ["group", "chain"])
def test_dependent_rows_of_the_source_widen_its_errors(folder, tmp_path, dependent):
    """Eight rows of an event share E, or neighbours in a chain do: eight times fewer count."""
    rng = np.random.default_rng(3)
    energy = np.repeat(rng.normal(50, 5, N // 8), 8) + 0.1 * rng.normal(size=N)
    event = np.arange(N) // 8
    path = sample_rows(
        tmp_path, "source", E=energy.astype("f4"), eta=rng.normal(size=N).astype("f4"), event=event
    )
    changes = {"data.source.path": path, "engine.steps": 2}
    if dependent == "group":
        changes["data.source.group"] = ["event"]
    run = train(folder, "reweighted", changes)
    row = next(row for row in run.scorecard.rows if row.name == "E")
    assert row.error > 2 * 5 / np.sqrt(800)


def test_the_same_events_on_both_sides_are_a_warning_on_the_card(folder, tmp_path):
    keys = {"data.source.group": ["event"], "data.target.group": ["event"], "engine.steps": 2}
    run = train(folder, "reweighted", keys)
    assert any("3900 events in common" in warning for warning in run.scorecard.warnings)
    same = {"data.source.path": str(folder / "full.npz"), "engine.steps": 2}
    run = train(folder, "reweighted", same)
    assert any("are the same file" in warning for warning in run.scorecard.warnings)
    with pytest.raises(RecipeError, match="same file with another split or seed"):
        train(folder, "reweighted", same | {"data.source.seed": 2})
    with np.load(folder / "full.npz") as file:
        smeared = file["E"] + np.random.default_rng(1).normal(size=len(file["E"]))
        path = sample_rows(tmp_path, "again", E=smeared.astype("f4"), eta=file["eta"])
    run = train(folder, "reweighted", {"data.source.path": path, "engine.steps": 2})
    assert any("go together, one by one" in warning for warning in run.scorecard.warnings)


def test_other_events_are_no_warning(reweighted):
    assert not any("independence" in warning for warning in reweighted.scorecard.warnings)


def test_weights_of_source_rows_count_in_the_scores(folder, tmp_path):
    """Events of positive eta weigh three times as much: <eta> = .4 before any reweighting."""
    with np.load(folder / "fast.npz") as file:
        weight = np.where(file["eta"] > 0, 3.0, 1.0)
        path = sample_rows(tmp_path, "w", E=file["E"], eta=file["eta"], w=weight)
    changes = {"data.source.path": path, "data.source.weight": "w", "engine.steps": 1}
    changes["method.learning_rate"] = 1e-9
    run = train(folder, "reweighted", changes)
    model, row = run.load(), next(row for row in run.scorecard.rows if row.name == "eta")
    rows = run.origin.source.read(0, N)
    w = rows.weight.double() * model.log_ratio(rows.x).exp().detach()
    assert row.value == pytest.approx(float((w * rows.x[:, 1]).sum() / w.sum()), abs=0.15)
    assert row.value > 0.25


@pytest.mark.parametrize("name", ["pairs", "reweighted"])
def test_test_rows_beyond_those_of_training_are_scored(folder, tmp_path, name):
    """The largest of a steep spectrum is kept for the test: which row that is, is chance."""
    rng = np.random.default_rng(4)
    energy = rng.pareto(1.5, 300)
    files = {}
    for kind in ("fast", "full"):
        files[kind] = sample_rows(
            tmp_path, kind, E=energy.astype("f4"), eta=rng.normal(size=300), event=np.arange(300)
        )
    first, second = ("fast", "full") if name == "pairs" else ("source", "target")
    changes = {f"data.{first}.path": files["fast"], f"data.{second}.path": files["full"]}
    changes |= {"engine.steps": 1, "validation.metrics": [{"kind": "means"}]}
    for seed in range(3):
        seeds = {"data.full.seed": seed}
        if name == "reweighted":
            seeds = {"data.source.seed": seed, "data.target.seed": seed}
        train(folder, name, changes | seeds)


def test_a_correction_that_is_impossible_is_refused_before_the_training(folder):
    wrong = {"sampling.correction": "independence-metropolis"}
    with pytest.raises(RecipeError, match="needs an action"):
        train(folder, "pairs", wrong)
    importance = {"validation.metrics": [{"kind": "importance"}]}
    with pytest.raises(RecipeError, match=r"validation\.metrics\.0: importance"):
        train(folder, "pairs", importance)


@pytest.mark.parametrize("key", ["weight", "split", "seed", "fit_rows"])
def test_what_a_partner_would_ignore_is_refused(folder, key):
    value = {"weight": "E", "split": [0.5, 0.2, 0.3], "seed": 2, "fit_rows": 10}[key]
    with pytest.raises(RecipeError, match=rf"data\.fast\.{key} has no effect"):
        physgen.recipe.read(folder / "pairs.yaml", {f"data.fast.{key}": value})


def test_how_many_to_generate_is_no_setting_of_the_run(pairs):
    for key in ("n", "seed"):
        with pytest.raises(physgen.errors.InputError, match=rf"sampling\.{key} is of what is"):
            physgen.load(pairs.path, sampling={key: 5})


def test_a_run_of_another_format_names_its_version(folder, tmp_path):
    run = train(folder, "reweighted", {"engine.steps": 1}, score=False)
    card = run.path / "surrogate/card.json"
    card.write_text(card.read_text().replace('"format": 2', '"format": 1'))
    with pytest.raises(
        CheckpointError, match=r"physgen 0\.1\.0 \(format 1 of cards\).*train again"
    ):
        cards.read_card(card.parent)
    provenance = run.path / "provenance.json"
    provenance.write_text('{"physgen": "0.0.1"}')
    with pytest.raises(CheckpointError, match=r"written by physgen 0\.0\.1 \(format 1 of runs\)"):
        _ = physgen.run.Run(run.path).recipe
