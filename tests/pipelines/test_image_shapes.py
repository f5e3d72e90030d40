"""Images of every size through every network that can take them: a few steps, then samples."""

import numpy as np
import pytest

import physgen
from physgen.errors import RecipeError

SIZES = {"mnist": (28, 28), "oblong": (12, 20), "lattice": (16, 16)}
NETWORKS = {
    "mlp": {"surrogate.network": {"kind": "mlp", "hidden": [16]}},
    "conv": {"surrogate.network": {"kind": "conv", "channels": [4, 8], "hidden": [16]}},
    "torus": {"surrogate.network": {"kind": "conv", "channels": [4, 8], "periodic": True}},
}
SYSTEMS = {
    "grey": {
        "transform": [{"kind": "dequantise", "levels": 256}, {"kind": "rescale"}],
        "surrogate.counts": 255,
    },
    "labelled": {"system.labels": True, "transform": [{"kind": "rescale"}, {"kind": "one-hot"}]},
    "drawn": {
        "system.binarise": "dynamic",
        "transform": [],
        "surrogate.likelihood": "bernoulli",
    },
}


def train(tmp_path, shape, changes):
    noise = np.random.default_rng(0)
    images = noise.integers(0, 256, (60, *shape)).astype(np.uint8)
    np.savez(tmp_path / "images.npz", images=images, labels=np.arange(60) % 10)
    small = {"data.path": str(tmp_path / "images.npz"), "engine.steps": 2, "engine.batch_size": 8}
    return physgen.train("digits-vae", small | changes, runs=tmp_path, track=False, score=False)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("size", SIZES)
def test_every_size_trains_with_every_network(tmp_path, size, network):
    run = train(tmp_path, SIZES[size], NETWORKS[network] | SYSTEMS["grey"])
    x = physgen.generate(run.path, 5, seed=1).x
    assert x.shape == (5, *SIZES[size])
    levels = (255 * x).round()
    assert (255 * x - levels).abs().max() < 1e-3
    assert levels.min() >= 0
    assert levels.max() <= 255


@pytest.mark.parametrize("network", ["mlp", "conv"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_every_kind_of_image_trains(tmp_path, system, network):
    run = train(tmp_path, (8, 8), NETWORKS[network] | SYSTEMS[system])
    batch = physgen.generate(run.path, 20, seed=1)
    if system == "labelled":
        assert batch.condition.shape == (20, 1)
        assert set(batch.condition[:, 0].tolist()) <= set(range(10))
    if system == "drawn":
        assert set(batch.x.unique().tolist()) <= {0, 1}


def test_a_size_that_cannot_be_halved_is_said_before_training(tmp_path):
    with pytest.raises(RecipeError, match="7x7 cannot be halved 2 times"):
        train(tmp_path, (7, 7), NETWORKS["conv"] | SYSTEMS["grey"])


@pytest.mark.parametrize("labels", ["none", "letters"])
def test_images_without_usable_labels_are_scored(tmp_path, labels):
    images = np.random.default_rng(0).integers(0, 17, (200, 8, 8)).astype(np.uint8) * 15
    given = {"labels": np.array(list("ab"))[np.arange(200) % 2]} if labels == "letters" else {}
    np.savez(tmp_path / "mine.npz", images=images, **given)
    changes = SYSTEMS["grey"] | {"data.path": str(tmp_path / "mine.npz"), "engine.steps": 2}
    changes["validation.metrics"] = [
        {"kind": "means"},
        {"kind": "frechet"},
        {"kind": "coverage"},
        {"kind": "inception-score"},
    ]
    run = physgen.train("digits-vae", changes, runs=tmp_path, track=False)
    assert "needs classes" in run.scorecard["inception-score"].warning
    assert "features of high level" in run.scorecard["Frechet distance"].note
