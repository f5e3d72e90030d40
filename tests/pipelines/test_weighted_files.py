"""Files with event weights, from the file to generated events."""

import awkward as ak
import h5py
import numpy as np
import pytest
import uproot

import physgen
from physgen.errors import InputError

RECIPE = """
name: weights
system: {kind: events}
data: {path: PATH, fields: [x, y], weight: w, split: [0.8, 0.1, 0.1]}
transform: [{kind: standardise}]
surrogate: {kind: flow, bijection: {kind: coupling, n_layers: 3, hidden: [32]}}
method: {kind: maximum-likelihood, learning_rate: 0.005}
engine: {steps: 150, schedule: cosine, clip: 1.0, evaluate_every: 100000}
validation: {metrics: []}
"""


def train(folder, columns, overrides):
    path = folder / "events.h5"
    if not path.exists():
        with h5py.File(path, "w") as file:
            for name, values in columns.items():
                file[name] = values.astype("f4")
    recipe = folder / "weights.yaml"
    recipe.write_text(RECIPE.replace("PATH", str(path)))
    return physgen.train(recipe, overrides, runs=folder / "runs", score=False, track=False)


def sliced():
    """A few rows below 1 carry most of the weight, as in samples sliced in momentum."""
    generator = np.random.default_rng(7)
    x = np.concatenate([np.linspace(0.01, 0.99, 30), generator.uniform(1, 2, 2970)])
    w = np.concatenate([np.full(30, 1000.0), np.ones(2970)])
    order = generator.permutation(3000)
    return {"x": x[order], "y": generator.normal(size=3000), "w": w[order]}


@pytest.mark.parametrize(("batch_size", "steps"), [(64, 400), (1024, 150)])
def test_the_share_of_a_slice_does_not_depend_on_the_batch(batch_size, steps, tmp_path):
    columns = sliced()
    options = {"batch_size": batch_size, "steps": steps, "ema": 0.98}
    options = {f"engine.{name}": value for name, value in options.items()}
    run = train(tmp_path, columns, {**options, "method.learning_rate": 0.003})
    rows = run.data.parts.train
    below = columns["w"][rows][columns["x"][rows] < 1].sum() / columns["w"][rows].sum()
    generated = physgen.generate(run.path, 4096, seed=1)
    # Seeds of the training scatter by 0.01. Weights divided by their mean over a batch gave 0.13 at
    # 64 and 0.46 at 256 rows, of 0.87.
    assert float((generated.x[:, 0] < 1).double().mean()) == pytest.approx(below, abs=0.04)
    weights = run.provenance["data"]["weights"]
    assert weights["sum"] == pytest.approx(columns["w"][rows].sum())
    assert weights["negative_share"] == 0


def negative(share):
    generator = np.random.default_rng(3)
    x = generator.normal(size=(2, 3000))
    return {"x": x[0], "y": x[1], "w": np.where(generator.random(3000) < share, -1.0, 1.0)}


def test_weights_of_either_sign_train_where_events_can_be_taken_away(tmp_path):
    """Half as many negative events in the left half plane: they are subtracted there."""
    columns = negative(0.0)
    left = columns["x"] < 0
    columns["w"] = np.where(left & (np.arange(3000) % 3 == 0), -1.0, 1.0)
    run = train(tmp_path, columns, {"engine.batch_size": 512})
    rows = run.data.parts.train
    target = columns["w"][rows][left[rows]].sum() / columns["w"][rows].sum()
    generated = physgen.generate(run.path, 4096, seed=1)
    assert target < 0.27
    assert float((generated.x[:, 0] < 0).double().mean()) == pytest.approx(target, abs=0.04)


@pytest.mark.parametrize(
    "overrides",
    [
        {"surrogate": {"kind": "autoencoder"}, "method": {"kind": "reconstruction"}},
        {"surrogate": {"kind": "generator"}, "method": {"kind": "adversarial"}},
        {"surrogate": {"kind": "energy"}, "method": {"kind": "langevin-divergence"}},
        {
            "surrogate": {"kind": "diffusion-flow"},
            "method": {"kind": "flow-matching", "coupling": "optimal-transport"},
        },
        {"surrogate": {"kind": "pca", "components": 1}},
    ],
)
def test_methods_that_cannot_take_events_away_refuse_them_before_training(overrides, tmp_path):
    with pytest.raises(InputError, match=r"data.weight: .* negative"):
        train(tmp_path, negative(0.1), overrides)
    assert not list(tmp_path.glob("runs/*/*/checkpoints/*"))


def test_weights_that_sum_to_less_than_nothing_are_refused_before_training(tmp_path):
    with pytest.raises(InputError, match=r"events.h5: the weights of 24.. rows .* sum to -"):
        train(tmp_path, negative(0.7), {})


def test_few_effective_events_are_said(tmp_path, caplog):
    train(tmp_path, sliced(), {"engine.steps": 1})
    assert "have the statistics of 2" in caplog.text
    assert "events of equal weight" in caplog.text


def test_jagged_events_with_weights_are_scored_though_none_has_all_items(tmp_path):
    """One event has nine muons: no other row defines all columns."""
    generator = np.random.default_rng(1)
    n = generator.integers(0, 3, 600)
    n[17] = 9
    momenta = [ak.unflatten(generator.exponential(30, n.sum()).astype("f4"), n) for _ in range(2)]
    with uproot.recreate(tmp_path / "muons.root") as file:
        file.mktree("events", {"Mu": "var * {pt: float32, pz: float32}", "w": "float32"})
        columns = ak.zip(dict(zip(("pt", "pz"), momenta, strict=True)))
        file["events"].extend({"Mu": columns, "w": generator.uniform(0.1, 2, 600).astype("f4")})
    recipe = tmp_path / "muons.yaml"
    recipe.write_text(
        RECIPE.replace("PATH", str(tmp_path / "muons.root"))
        .replace("[x, y]", "[Mu_pt, Mu_pz]")
        .replace("standardise", "gaussianise")
        .replace("metrics: []", "metrics: [{kind: means}, {kind: correlations}]")
    )
    run = physgen.train(recipe, {"engine.steps": 2}, runs=tmp_path / "runs", track=False)
    rows = {row.name: row for row in run.scorecard.rows}
    assert rows["largest |d correlation|"].value is not None
    assert "are left out" in rows["mean |d correlation|"].note
