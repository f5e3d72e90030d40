"""P-values of two-sample tests: right at every level, by exact permutation or by multipliers."""

import numpy as np
import pytest
from scipy import stats

from physgen.validation.permutation import MOST, Relabelling, sequential
from physgen.validation.resampling import resample
from physgen.validation.sample import Sample

NAMES = ("wasserstein", "kolmogorov_smirnov", "separation")


def plain(generator):
    return Sample(generator.normal(size=150)), Sample(generator.normal(size=250))


def discrete(generator):
    return tuple(Sample(generator.integers(0, 4, 150)) for _ in "ab")


def weighted_by_the_observable(generator):
    x = generator.normal(size=400)
    return Sample(x, np.exp(x)), Sample(generator.normal(1, 1, 600))


def negative_weights(generator):
    weight = np.where(generator.random(400) < 1 / 6, -1.0, 1.0)
    return Sample(generator.normal(size=400), weight), Sample(generator.normal(size=900))


def in_groups(generator):
    keys = np.arange(400) // 4
    x, y = generator.normal(size=(2, 100))[:, keys] + 0.3 * generator.normal(size=(2, 400))
    return Sample(x, unit=keys), Sample(y, unit=400 + keys)


CASES = {
    f.__name__: f
    for f in (plain, discrete, weighted_by_the_observable, negative_weights, in_groups)
}


def p_values(case, repeats):
    found = []
    for seed in range(repeats):
        samples = CASES[case](np.random.default_rng([repeats, seed]))
        p = resample(*samples, seed=seed, n_bootstraps=2).p_value
        found.append([getattr(p, name) for name in NAMES])
    return np.array(found)


def assert_within_the_binomial_band(p_values, levels):
    """At most a share `level` below each level, up to a chance of 1e-4 for all."""
    n = len(p_values)
    for level in levels:
        allowed = stats.binom.isf(1e-4 / len(levels) / p_values.shape[1], n, level)
        assert ((p_values <= level).sum(0) <= allowed).all(), level


@pytest.mark.parametrize("case", CASES)
def test_false_alarms_are_as_rare_as_stated(case):
    found = p_values(case, 60)
    assert_within_the_binomial_band(found, [0.2, 0.05, 0.0027])
    assert (found < 0.5).mean() > 0.3, "and p-values are not merely large"


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_false_alarms_far_in_the_tail(case):
    assert_within_the_binomial_band(p_values(case, 3000), [0.2, 0.05, 0.0027, 1e-3, 1e-4, 1.8e-5])


def test_a_p_value_is_no_smaller_than_the_draws_can_tell():
    null = np.random.default_rng(0)
    assert sequential(np.array([9.0]), lambda _: null.normal(size=(500, 1)))[0] == 1 / (MOST + 1)
    assert sequential(np.array([-9.0]), lambda _: null.normal(size=(500, 1)))[0] == 1.0
    found = sequential(np.array([1.0]), lambda _: null.normal(size=(500, 1)))[0]
    assert found == pytest.approx(stats.norm.sf(1.0), rel=0.6)


def test_beyond_the_draws_the_bound_of_a_threshold_holds():
    # Below the median stand 300 of 300 and 100 of 300 rows: hypergeometric.
    x, y = np.repeat([0.0, 1.0], [300, 0]), np.repeat([0.0, 1.0], [100, 200])
    exact = 2 * stats.hypergeom.sf(299, 600, 400, 300)
    found = resample(Sample(x), Sample(y), seed=0).p_value.kolmogorov_smirnov
    assert found == pytest.approx(exact, rel=0.01)
    small = resample(
        Sample(x), Sample(np.repeat([0.0, 1.0], [280, 20])), seed=0
    ).p_value.kolmogorov_smirnov
    assert small == pytest.approx(2 * stats.hypergeom.sf(299, 600, 580, 300), rel=1)


def test_bound_of_weighted_rows_is_that_of_gaussians():
    x, y = np.random.default_rng(1).normal(size=(2, 2000))
    weight = np.random.default_rng(2).uniform(0.5, 1.5, 2000)
    found = resample(Sample(x, weight), Sample(y + 0.5), seed=0)
    assert not found.exact
    assert 1e-60 < found.p_value.kolmogorov_smirnov < 1e-20


def test_a_sorted_file_changes_nothing():
    found = []
    for seed in range(40):
        x, y = np.random.default_rng(seed).normal(size=(2, 3000))
        found.append(
            resample(Sample(np.sort(x)), Sample(y), seed=seed, n_bootstraps=2).p_value.wasserstein
        )
    assert stats.kstest(found, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("sizes", [(3, 5000), (5000, 3), (1, 1), (2047, 3001)])
def test_samples_of_very_unequal_size(sizes):
    x, y = (np.random.default_rng(i).normal(size=n) for i, n in enumerate(sizes))
    found = resample(Sample(x), Sample(y), seed=0).p_value
    assert all(0 < getattr(found, name) <= 1 for name in NAMES)


def test_draws_of_a_mean_have_its_variance():
    generator = np.random.default_rng(3)
    x, y = generator.normal(size=1100), generator.normal(size=2900)
    weight = generator.exponential(size=1100)
    for weights, exact in (((None, None), True), ((weight, None), False)):
        relabelling = Relabelling(1100, 2900, weights=weights, seed=1)
        assert relabelling.exact is exact
        sums = relabelling.sums(np.concatenate([x, y])[:, None])
        drawn = []
        relabelling.p_values(sums, lambda d, drawn=drawn: (drawn.append(d), np.abs(d))[1])
        variance = np.concatenate(drawn[1:]).var()
        expected = 1 / 1100 + 1 / 2900
        if not exact:
            centred = weight * (x - weight @ x / weight.sum())
            expected = (centred @ centred) / weight.sum() ** 2 + 1 / 2900
        assert variance == pytest.approx(expected, rel=0.2)
