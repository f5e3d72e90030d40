"""Nearest neighbours by brute force and in the cases whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import cdist
from toy import compare, draw

from physgen.batch import Batch
from physgen.validation.judging import judge
from physgen.validation.mmd import MaximumMeanDiscrepancy
from physgen.validation.neighbours import NearestNeighbour, neighbours, two_sample
from physgen.validation.permutation import MOST
from physgen.validation.shapes import Histograms


def normal(n, seed, shift=0.0):
    return np.random.default_rng(seed).normal(shift, 1.0, (n, 3))


def test_neighbours_are_the_nearest_whatever_the_chunks(monkeypatch):
    points = normal(150, 0)
    distances = cdist(points, points)
    np.fill_diagonal(distances, np.inf)
    expected = distances.argmin(1)
    np.testing.assert_array_equal(neighbours(points, np.random.default_rng(0)), expected)
    monkeypatch.setattr("physgen.validation.neighbours.CHUNK", 7)
    np.testing.assert_array_equal(neighbours(points, np.random.default_rng(0)), expected)


def test_samples_apart_copies_and_equals():
    apart = two_sample(normal(100, 1), normal(100, 2, shift=50.0), 0)
    assert (apart.accuracy, apart.first, apart.second, apart.error) == (1.0, 1.0, 1.0, 0.0)
    assert apart.p_value == pytest.approx(1 / (MOST + 1))
    copies = two_sample(normal(100, 1), normal(100, 1), 0)
    assert copies.accuracy == 0.0
    assert copies.p_value == pytest.approx(1 / (MOST + 1))
    # All equally near: neighbours are of either kind as often as there are rows of it.
    constant = two_sample(np.zeros((300, 2)), np.zeros((100, 2)), 0)
    assert constant.first == pytest.approx(0.75, abs=0.1)
    assert constant.second == pytest.approx(0.25, abs=0.17)
    assert constant.p_value > 0.01


def test_a_collapsed_sample_is_recognised():
    found = two_sample(normal(100, 1), np.tile(normal(1, 2), (100, 1)), 0)
    assert found.second == 1.0
    assert found.accuracy > 0.9


def test_level_and_error_over_many_samples():
    found = [two_sample(normal(100, 2 * s), normal(100, 2 * s + 1), s) for s in range(100)]
    accuracies = np.array([f.accuracy for f in found])
    assert abs(accuracies.mean() - 0.5) < 4 * accuracies.std() / 10
    assert np.mean([f.error for f in found]) == pytest.approx(accuracies.std(), rel=0.3)
    assert stats.kstest([f.p_value for f in found], "uniform").pvalue > 1e-3


def test_row_is_seeded_and_judged():
    metric = NearestNeighbour(tolerance=0.12)
    shifted = compare(draw(500, 9, shift=2.0))
    (row,) = metric.rows(shifted)
    assert [row] == metric.rows(shifted)
    assert (row.verdict, row.exact) == ("fail", 0.5)
    assert row.value > 0.7
    assert abs(row.floor - 0.5) < 4 * row.floor_error
    assert metric.rows(compare(draw(900, 9)))[0].verdict == "pass"
    assert "100 rows" in NearestNeighbour(n=100).rows(shifted)[0].note


def test_truth_learned_by_heart_fails():
    """Each row is next to a true one and nothing else is wrong: one row must be able to say it."""
    sample = compare(draw(300, 9))
    noise = np.random.default_rng(0).normal(scale=1e-4, size=(300, 2))
    sample = replace(sample, generated=Batch(x=sample.truth.x + torch.from_numpy(noise)))
    metrics = [Histograms(), MaximumMeanDiscrepancy(), NearestNeighbour(n=300)]
    card = judge(sample, metrics, tested=True)
    assert card["1-NN accuracy"].value == 0.0
    assert (card["1-NN accuracy"].verdict, card.verdict) == ("fail", "fail")
