"""Scores of balls by brute force, their ceilings, and modes that are missing."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from toy import compare, draw

from physgen.batch import Batch
from physgen.validation.coverage import Coverage, coverage


def clusters(n, seed, modes):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(n, 2)) + 20 * generator.choice(modes, n)[:, None]


def test_agrees_with_its_definition_whatever_the_chunks(monkeypatch):
    generator = np.random.default_rng(0)
    truth, generated = generator.normal(size=(80, 3)), generator.normal(0.5, 1.2, (70, 3))
    balls = np.sort(cdist(truth, truth), axis=1)[:, 5]  # the row itself is the nearest
    inside = cdist(truth, generated) <= balls[:, None]
    reach = np.sort(cdist(generated, generated), axis=1)[:, 5]
    recalled = (cdist(truth, generated) <= reach).any(1)
    found = inside.any(1).mean(), inside.sum() / (5 * 70)
    expected = *found, inside.any(0).mean(), recalled.mean()
    assert coverage(truth, generated, 5) == pytest.approx(expected)
    monkeypatch.setattr("physgen.validation.coverage.CHUNK", 9)
    assert coverage(truth, generated, 5) == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_ceiling_where_distributions_agree(k):
    found = np.array([coverage(*clusters_pair(s), k) for s in range(20)])
    assert found[:, 0].mean() == pytest.approx(1 - 0.5**k, abs=0.02)
    assert found[:, 1].mean() == pytest.approx(1.0, abs=0.05)


def clusters_pair(seed):
    return clusters(200, 2 * seed, [0]), clusters(200, 2 * seed + 1, [0])


def test_a_missing_mode_halves_coverage_and_leaves_density():
    truth, generated = clusters(600, 1, [0, 1]), clusters(600, 2, [0])
    covered, density, *_ = coverage(truth, generated, 5)
    assert covered == pytest.approx(0.5, abs=0.06)
    assert density == pytest.approx(1.0, abs=0.1)


def test_a_missing_mode_lowers_recall_and_samples_off_the_truth_precision():
    missing = coverage(clusters(600, 1, [0, 1]), clusters(600, 2, [0]), 5)
    off = coverage(clusters(600, 1, [0]), clusters(600, 2, [0, 1]), 5)
    assert missing.recall == pytest.approx(0.5, abs=0.06)
    assert off.precision == pytest.approx(0.5, abs=0.06)
    assert min(missing.precision, off.recall) > 0.95


def test_poor_samples_lower_density_and_central_ones_raise_it():
    generator = np.random.default_rng(3)
    truth, other = generator.normal(size=(2, 400, 10))
    assert coverage(truth, 2 * other, 5)[1] < 0.1
    covered, density, *_ = coverage(truth, 0.3 * other, 5)
    assert density > 2
    assert covered < 0.9


def test_rows_beside_their_floor_say_what_is_wrong():
    covered, density, *_ = Coverage(minimum=0.8).rows(compare(draw(500, 9)))
    assert covered.floor == pytest.approx(0.97, abs=4 * covered.floor_error)
    assert density.floor == pytest.approx(1.0, abs=4 * density.floor_error)
    assert covered.verdict == "pass"
    assert not covered.warning
    single = Batch(x=draw(1, 9).x.repeat(500, 1))
    collapsed = Coverage(minimum=0.8).rows(compare(single))[0]
    assert collapsed.verdict == "fail"
    assert "uncovered" in collapsed.warning
    assert "gradient penalty" in collapsed.warning
