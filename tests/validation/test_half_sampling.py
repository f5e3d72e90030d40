"""The error of halves against textbook errors, and the bias that they take away."""

import numpy as np
import pytest

from physgen.validation.half_sampling import half_sampling


def moments(x):
    return np.array([x.mean(), x.var()])


def test_error_of_a_mean_is_the_textbook_one():
    x = np.random.default_rng(0).normal(2.0, 3.0, 1000)
    found = half_sampling(moments, (x,), seed=1, pairs=200)
    assert found.value[0] == x.mean()
    assert found.error[0] == pytest.approx(x.std() / np.sqrt(1000), rel=0.1)
    assert found.error[1] == pytest.approx(9 * np.sqrt(2 / 1000), rel=0.15)


def test_a_bias_of_one_over_n_vanishes():
    """The variance that divides by n is too small by 1/n; seen on very few rows."""
    generator = np.random.default_rng(2)
    found = [half_sampling(moments, (generator.normal(size=6),), seed=seed) for seed in range(500)]
    plain = np.array([f.value[1] for f in found])
    extrapolated = np.array([f.extrapolated[1] for f in found])
    assert plain.mean() == pytest.approx(5 / 6, abs=0.07)
    assert extrapolated.mean() == pytest.approx(1.0, abs=0.08)


def test_seeded_and_takes_unequal_samples():
    a, b = np.random.default_rng(3).normal(size=(2, 31))

    def difference(x, y):
        return np.array([x.mean() - y.mean()])

    first = half_sampling(difference, (a, b[:20]), seed=5)
    assert first == half_sampling(difference, (a, b[:20]), seed=5)
    assert first.error != half_sampling(difference, (a, b[:20]), seed=6).error
