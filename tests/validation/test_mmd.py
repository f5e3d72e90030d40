"""The maximum mean discrepancy against its closed form, and its p-value."""

import numpy as np
import pytest
from scipy import stats

from physgen.validation.mmd import kernel_p_value, maximum_mean_discrepancy
from physgen.validation.permutation import Relabelling


def p_value(a, b, weight=None, seed=0, bandwidth=1.0):
    relabelling = Relabelling(len(a), len(b), weights=(None, weight), seed=seed)
    return kernel_p_value(relabelling, np.concatenate([a, b]), bandwidth)


def gaussian_mmd(dimension, shift, bandwidth):
    """E k - E k for N(0, 1) and N(shift, 1) in each of `dimension` directions."""
    scale = (bandwidth**2 / (bandwidth**2 + 2)) ** (dimension / 2)
    return 2 * scale * (1 - np.exp(-dimension * shift**2 / (2 * (bandwidth**2 + 2))))


def test_closed_form():
    generator = np.random.default_rng(8)
    values, errors = [], []
    for _ in range(40):
        a, b = generator.normal(size=(250, 3)), generator.normal(0.5, 1, (250, 3))
        found = maximum_mean_discrepancy(a, b, bandwidth=1.5)
        values.append(found.value)
        errors.append(found.error)
    assert abs(np.mean(values) - gaussian_mmd(3, 0.5, 1.5)) < 4 * np.std(values) / np.sqrt(40)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.4)


def test_p_values_are_uniform_under_the_null():
    generator = np.random.default_rng(9)
    found = [p_value(*generator.normal(size=(2, 60, 2)), seed=seed) for seed in range(100)]
    assert stats.kstest(found, "uniform").pvalue > 1e-3


def test_importance_weights_undo_a_shift():
    generator = np.random.default_rng(10)
    a, b = generator.normal(size=(800, 1)), generator.normal(0.7, 1, (800, 1))
    weight = np.exp(-0.7 * b[:, 0])
    off, on = maximum_mean_discrepancy(a, b), maximum_mean_discrepancy(a, b, None, weight)
    assert abs(on.value) < 0.1 * off.value
    assert p_value(a, b) == pytest.approx(1e-4, rel=0.01)
    assert p_value(a, b, weight) > 1e-3
