"""Frechet distances against closed forms; bias, errors and p-values over many samples."""

import numpy as np
import pytest
from scipy import linalg, stats
from toy import Normal, compare, draw

from physgen.validation.comparison import Comparison
from physgen.validation.frechet import Frechet, between_normals, frechet_distance, p_value
from physgen.validation.half_sampling import half_sampling


def test_independent_normals_have_a_closed_form():
    means, widths = (
        np.array([[0.0, 1.0, -2.0], [0.5, 1.0, 1.0]]),
        [[1.0, 2.0, 0.0], [3.0, 2.0, 0.5]],
    )
    covariances = [np.diag(np.square(w)) for w in widths]
    found = between_normals(means[0], covariances[0], means[1], covariances[1])
    assert found == pytest.approx(0.25 + 9 + 4 + 0 + 0.25, abs=1e-6)


def test_correlated_normals_agree_with_the_matrix_root():
    generator = np.random.default_rng(0)
    a, b = (m @ m.T for m in generator.normal(size=(2, 5, 5)))
    zero = np.zeros(5)
    root = linalg.sqrtm(linalg.sqrtm(a) @ b @ linalg.sqrtm(a)).real
    expected = np.trace(a + b - 2 * root)
    assert between_normals(zero, a, zero, b) == pytest.approx(expected, rel=1e-6)
    assert between_normals(zero, b, zero, a) == pytest.approx(expected, rel=1e-6)
    assert between_normals(zero, a, zero, a) == pytest.approx(0.0, abs=1e-6)


def test_samples_enter_by_their_moments():
    a, b = np.random.default_rng(1).normal(size=(2, 9, 3))
    moments = (a.mean(0), np.cov(a.T), b.mean(0), np.cov(b.T))
    assert frechet_distance(a, b) == pytest.approx(between_normals(*moments))


def test_samples_are_biased_and_extrapolation_is_not():
    generator = np.random.default_rng(1)

    def distance(a, b):
        return np.array([frechet_distance(a, b)])

    found = []
    for seed in range(40):
        a, b = generator.normal(size=(2, 150, 6))
        b[:, 0] += 0.6
        found.append(half_sampling(distance, (a, b), seed=seed))
    value, error, limit = (
        np.array([getattr(f, k)[0] for f in found]) for k in ("value", "error", "extrapolated")
    )
    of_mean = value.std() / np.sqrt(40)
    assert value.mean() > 0.36 + 5 * of_mean
    assert abs(limit.mean() - 0.36) < 4 * of_mean
    assert error.mean() == pytest.approx(value.std(), rel=0.35)


def test_p_values_are_uniform_under_the_null():
    generator = np.random.default_rng(2)
    p_values = []
    for seed in range(60):
        a, b = generator.normal(size=(2, 40, 3))
        p_values.append(p_value(a, b, seed))
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3


def test_rows_stand_beside_floor_and_baseline():
    baseline = draw(600, 10, shift=3.0)
    shifted = Frechet(tolerance=0.1).rows(compare(draw(600, 9, shift=1.0), baseline=baseline))
    row, limit = shifted
    # A unit of distance is the total variance of the truth, 2 columns of variance 1.
    assert limit.value == pytest.approx(0.5, abs=0.15)
    assert row.floor < 0.05 < 0.3 < row.value < row.baseline
    assert abs(limit.floor) < 3 * limit.floor_error
    assert (row.verdict, row.p_value < 1e-4) == ("fail", True)
    same = Frechet(tolerance=0.1).rows(compare(draw(600, 9)))[0]
    assert (same.verdict, same.p_value > 1e-3) == ("pass", True)
    assert "few rows" not in row.note


def test_few_rows_for_many_features_are_said():
    class Many(Normal):
        def features(self, batch, level):
            return batch.x.repeat(1, 10)

    few = Comparison(Many(), draw(60, 3), draw(60, 1), draw(60, 2))
    assert "few rows for so many features" in Frechet().rows(few)[0].note
