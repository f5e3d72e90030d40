"""Convolutions in cylindrical coordinates, the networks of the reference, and balanced accuracy."""

import numpy as np
import pytest
import torch

from physgen.batch import Batch
from physgen.errors import NotMeasurable, RecipeError
from physgen.isolation import global_generators
from physgen.systems.calorimeter import Calorimeter
from physgen.systems.geometry import Geometry, Layer, write_geometry
from physgen.validation.auc import auc, balanced_accuracy
from physgen.validation.classifier import ClassifierTest
from physgen.validation.classifier_networks import (
    WIDTH,
    Cylinder,
    ResNet18,
    as_reference,
    perceptron,
)
from physgen.validation.classifiers import Task
from physgen.validation.comparison import Comparison


def test_grid_places_each_voxel_where_it_lies():
    layers = Layer(0, (0.0, 1.0, 2.0), 1), Layer(1, (0.0, 1.0, 2.0, 3.0), 4)
    grid = Geometry(layers).voxel_grid
    assert grid[0].tolist() == [[0, 1, -1]] * 4
    assert grid[1].tolist() == [[2, 3, 4], [5, 6, 7], [8, 9, 10], [11, 12, 13]]


def test_rotations_of_the_input_rotate_what_convolutions_see():
    grid = Geometry((Layer(0, tuple(map(float, range(6))), 8),)).voxel_grid
    with global_generators(0):
        network = Cylinder(grid, 1, 41)
    seen = []
    network.second.register_forward_hook(lambda module, given, result: seen.append(result))
    x = torch.randn(2, 41)
    turned = torch.cat([x[:, :1], x[:, 1:].reshape(2, 8, 5).roll(3, 1).flatten(1)], 1)
    network(x), network(turned)
    torch.testing.assert_close(seen[1], seen[0].roll(3, 2))


def test_a_sector_that_is_turned_is_seen_by_convolutions(showers):
    truth, other = showers
    turned = other.x.clone()
    turned[:, 8:] = turned[:, 8:].reshape(-1, 8, 4).roll(2, 1).flatten(1)
    comparison = Comparison(SMALL, other.replace(x=turned), truth)
    metric = ClassifierTest(model="convolutional", epochs=25, calibrate=True)
    found, rounded, *_ = metric.rows(comparison)
    assert found.name == "AUC, convolutional classifier, low level"
    assert found.value > 0.75
    assert rounded.name == "balanced accuracy, convolutional classifier, low level"
    assert "HGCal" in rounded.note


@pytest.mark.parametrize(("level", "width"), [("low", 41), ("normalised", 43), ("high", 14)])
def test_the_reference_perceptron_is_trained_on_the_features_of_the_reference(
    showers, monkeypatch, level, width
):
    seen = []
    monkeypatch.setattr("physgen.validation.classifier_networks.WIDTH", 32)
    monkeypatch.setattr("physgen.validation.classifier_networks.RATE", 0.01)
    build = perceptron
    monkeypatch.setattr(
        "physgen.validation.classifier_networks.perceptron",
        lambda n: seen.append(n) or build(n),
    )
    truth, other = showers
    brighter = other.replace(x=other.x * 2)
    metric = ClassifierTest(settings="reference", level=level, epochs=30)
    row = metric.rows(Comparison(SMALL, brighter, truth))[0]
    assert row.name == f"AUC, neural classifier, {level} level, reference settings"
    assert seen == [width]
    assert row.value > 0.9 or level == "normalised"


def test_networks_of_the_reference_have_its_sizes():
    network = perceptron(10)
    assert [m.out_features for m in network if isinstance(m, torch.nn.Linear)] == [2048] * 3 + [1]
    assert WIDTH == 2048
    residual = ResNet18((45, 16, 9))
    convolutions = [m for m in residual.modules() if isinstance(m, torch.nn.Conv3d)]
    # 17 with the stem, 3 in short cuts, and the last linear layer: 18 layers.
    assert len(convolutions) == 20
    assert {c.out_channels for c in convolutions} == {32, 64, 128}
    assert residual(torch.randn(2, 1 + 45 * 16 * 9)).shape == (2, 1)


def test_the_perceptron_of_the_reference_has_its_activations():
    network = perceptron(10)
    kinds = [torch.nn.Linear, torch.nn.LeakyReLU] * 3 + [torch.nn.Linear]
    assert [type(module) for module in network] == kinds
    assert torch.equal(network[1](torch.tensor([-1.0, 2.0])), torch.tensor([-0.01, 2.0]))
    assert {network[i].negative_slope for i in (1, 3, 5)} == {0.01}


class Recording(torch.nn.Module):
    """One weight, and what it saw in training: its value, and how many rows of which type."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def forward(self, x):
        if self.training:
            self.seen.append((self.weight.item(), len(x), x.dtype))
        return self.weight * x[:, :1]


def test_training_is_that_of_the_reference(monkeypatch):
    """Batches of 1000, 50 epochs, and a rate of 2e-4: the first step of Adam is as long."""
    network = Recording()
    monkeypatch.setattr("physgen.validation.classifier_networks.perceptron", lambda n: network)
    y = np.tile([1.0, 0.0], 1260)
    x = np.where(np.arange(2520) < 2500, 2 * y - 1, 1.0)[:, None]  # Half right where it is chosen.
    rows = np.arange(2520)
    as_reference(Task(x.__getitem__, y, np.ones(2520), rows[:2500], rows[2500:2510]), 0)
    weights, sizes, types = zip(*network.seen, strict=True)
    assert list(sizes) == [1000, 1000, 500] * 50
    assert set(types) == {torch.float64}
    assert weights[:2] == pytest.approx([0, 2e-4], rel=1e-5)


def test_the_metric_trains_the_reference_for_its_epochs(showers, monkeypatch):
    asked = []

    def record(task, seed, shape, epochs):
        asked.append(epochs)
        return np.zeros(len(task.y))

    monkeypatch.setattr("physgen.validation.classifier.as_reference", record)
    ClassifierTest(settings="reference").rows(Comparison(SMALL, *showers))
    assert asked == [50]


def test_the_residual_network_learns_where_voxels_lie(monkeypatch):
    monkeypatch.setattr("physgen.validation.classifier_networks.RATE", 0.002)
    monkeypatch.setattr("physgen.validation.classifier_networks.BATCH", 40)
    generator = np.random.default_rng(0)
    x = generator.normal(size=(300, 1 + 4 * 6 * 5)) ** 2
    y = np.repeat([1.0, 0.0], 150)
    x[:150, 1:61] *= 3
    rows = generator.permutation(300)
    task = Task(x.__getitem__, y, np.ones(300), rows[:160], rows[200:220])
    scores = as_reference(task, 0, (4, 6, 5), epochs=2)
    test = rows[220:]
    assert auc(scores[test], y[test], np.ones(80)).value > 0.9
    few = Task(x.__getitem__, y, np.ones(300), rows[:40], rows[200:220])
    first = as_reference(few, 0, (4, 6, 5), epochs=1)
    monkeypatch.setattr("physgen.validation.classifier_networks._HELD", 0)
    np.testing.assert_array_equal(first, as_reference(few, 0, (4, 6, 5), epochs=1))


class Scripted(torch.nn.Module):
    """Scores rows by column e of their features after epoch e, whatever it was taught."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.epoch = -1

    def train(self, mode=True):
        self.epoch += mode
        return super().train(mode)

    def forward(self, x):
        return x[:, [self.epoch]] + self.weight.detach() + 0 * self.weight


def test_the_epoch_of_highest_accuracy_on_the_rows_that_choose_counts(monkeypatch):
    monkeypatch.setattr("physgen.validation.classifier_networks.perceptron", lambda n: Scripted())
    y = np.tile([1.0, 0.0], 15)
    sign = 2 * y - 1
    train, choose, test = np.arange(10), np.arange(10, 20), np.arange(20, 30)
    # Right scores: of 5, 8, 8 and 6 of the rows that choose; of all that are tested, in the last.
    x = np.empty((30, 4))
    for epoch, right in enumerate((5, 8, 8, 6)):
        x[:, epoch] = sign * np.where(np.arange(30) < 10 + right, 1.0, -1.0) * (1 + epoch)
    x[test, 3] = 4 * sign[test]
    scores = as_reference(Task(x.__getitem__, y, np.ones(30), train, choose), 0, epochs=4)
    assert np.isnan(scores[train]).all()
    np.testing.assert_array_equal(scores[10:], x[10:, 1])


def test_balanced_accuracy_is_the_auc_of_rounded_scores():
    generator = np.random.default_rng(0)
    y = (generator.random(3000) < 0.3).astype(float)
    scores, w = generator.normal(y, 1.0) - 0.5, generator.uniform(0.5, 1.5, 3000)
    found = balanced_accuracy(scores, y, w)
    rounded = np.round(1 / (1 + np.exp(-scores)))
    assert found.value == pytest.approx(auc(rounded, y, w).value, abs=1e-12)
    assert found.error == pytest.approx(auc(rounded, y, w).error, rel=1e-9)
    assert found.value != pytest.approx(auc(scores, y, w).value, abs=0.02)


def test_what_there_is_not_is_refused(showers):
    for options, reason in (
        ({"model": "boosted", "settings": "reference"}, "no boosted trees"),
        ({"level": "normalised"}, "settings: reference"),
        ({"model": "convolutional", "level": "high"}, "level: low"),
    ):
        with pytest.raises(RecipeError, match=reason):
            ClassifierTest(**options)
    with pytest.raises(NotMeasurable, match="layers that are all alike"):
        ClassifierTest(model="convolutional", settings="reference").rows(
            Comparison(SMALL, *showers)
        )


@pytest.fixture(scope="module")
def showers(binning):
    generator = np.random.default_rng(0)
    x = generator.exponential(size=(2, 1200, 40)) * 20
    x[:, :, 8:24] *= 4  # Sectors 0 to 3 of the second layer.
    x[generator.random(x.shape) < 0.5] = 0
    energy = torch.full((1200, 1), 1000.0)
    return [Batch(torch.from_numpy(part).float(), condition=energy) for part in x]


@pytest.fixture(scope="module", autouse=True)
def binning(tmp_path_factory):
    global SMALL
    layers = Layer(0, (0.0, *map(float, range(1, 9))), 1), Layer(1, (0.0, 5.0, 9.0, 12.0, 20.0), 8)
    path = tmp_path_factory.mktemp("binning") / "small.xml"
    write_geometry(path, Geometry(layers))
    SMALL = Calorimeter(binning=path, depths=())
    return path
