"""The threshold of the set: rows say which one was used, and that it removes true energies."""

import pytest
import torch
from toy import compare, draw

from physgen.systems.calorimeter import Calorimeter
from physgen.validation.comparison import Comparison
from physgen.validation.judging import judge
from physgen.validation.metrics import (
    ClassifierTest,
    Coverage,
    Means,
    PhysicsDistances,
    ReferenceHistograms,
)
from physgen.validation.threshold import Threshold, threshold_of

CUT = "voxels below 5 MeV taken for 0"


@pytest.fixture(scope="module")
def samples():
    """Showers of a readout with a threshold of 1 MeV."""
    return [Calorimeter().simulate(300, seed) for seed in (1, 2)]


def test_rows_of_the_reference_name_the_threshold_they_use(samples, monkeypatch):
    monkeypatch.setattr("physgen.validation.classifier_networks.WIDTH", 8)
    comparison = Comparison(Calorimeter(cut_mev=5.0), *samples)
    asked = (
        ReferenceHistograms(),
        PhysicsDistances(smallest=100, largest=200, batch=100),
        Coverage(level="voxels", n=100),
        ClassifierTest(settings="reference", level="high", epochs=1),
    )
    for metric in asked[:3]:
        assert all(CUT in row.note for row in metric.rows(comparison))
    assert CUT in asked[3].rows(comparison)[0].note
    for metric in (Coverage(n=100), ClassifierTest(model="boosted", level="high")):
        assert all("MeV" not in row.note for row in metric.rows(comparison))


def test_a_threshold_that_removes_true_energies_is_one_warning(samples):
    truth = samples[1].x
    share = float(((truth > 0) & (truth < 5)).sum() / (truth > 0).sum())
    system = Calorimeter(cut_mev=5.0)
    metrics = [PhysicsDistances(smallest=100, largest=200, batch=100), ReferenceHistograms()]
    card = judge(Comparison(system, *samples), metrics)
    warning = card["readout threshold"].warning
    assert f"removes {100 * share:.2g}% of the hit voxels of the truth" in warning
    assert warning.endswith("--set system.cut_mev=1")
    assert sum("cut_mev" in one for one in card.warnings) == 1
    # Metrics that take nothing for 0 say nothing of it.
    names = [row.name for row in judge(Comparison(system, *samples), [Means()]).rows]
    assert "readout threshold" not in names


def test_a_threshold_below_all_true_energies_is_none_to_warn_of(samples):
    card = judge(Comparison(Calorimeter(), *samples), [ReferenceHistograms()])
    assert "readout threshold" not in [row.name for row in card.rows]
    assert "voxels below 1 MeV taken for 0" in card.rows[0].note


def test_the_remedy_removes_nothing():
    assert Threshold(cut=1.0, least=0.0151599, removed=0.5).warning.endswith("cut_mev=0.01515")
    found = threshold_of(
        Comparison(Calorimeter(), *(2 * [Calorimeter().simulate(50, 1).replace(x=_few())]))
    )
    assert (found.least, found.removed) == (0.25, 0.5)
    assert threshold_of(compare(draw(100, 3))) is None


def _few():
    x = torch.zeros(50, 368)
    x[:, 0], x[:, 1] = 0.25, 3.0
    return x
