"""Distances against closed forms, scipy and hand counts; errors over many samples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from physgen.errors import DomainError
from physgen.validation.distances import (
    bin_edges,
    compare,
    kolmogorov_smirnov,
    separation_power,
    wasserstein,
)
from physgen.validation.resampling import resample
from physgen.validation.sample import Sample


def test_wasserstein_of_shifted_gaussians_is_the_shift():
    x = np.random.default_rng(0).standard_normal(100_000)
    assert wasserstein(x, x + 0.3) == pytest.approx(0.3, abs=1e-12)
    y = np.random.default_rng(1).standard_normal(100_000) + 0.5
    assert wasserstein(x, y) == pytest.approx(0.5, abs=0.02)


# Its p-value, which is not asked for, cannot always be computed.
@pytest.mark.filterwarnings("ignore:ks_2samp:RuntimeWarning")
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 60), st.booleans())
@settings(max_examples=50, deadline=None)
def test_agrees_with_scipy(seed, n, m, discrete):
    generator = np.random.default_rng(seed)
    a, b = generator.standard_normal(n), generator.standard_normal(m) + 0.2
    if discrete:
        a, b = np.round(a), np.round(b)
    wa, wb = generator.uniform(0.1, 2, n), generator.uniform(0.1, 2, m)
    found = compare(a, b)
    assert found.wasserstein == pytest.approx(stats.wasserstein_distance(a, b), abs=1e-12)
    assert found.kolmogorov_smirnov == pytest.approx(stats.ks_2samp(a, b).statistic, abs=1e-12)
    assert wasserstein(a, b, wa, wb) == pytest.approx(
        stats.wasserstein_distance(a, b, wa, wb), abs=1e-12
    )


def test_an_integer_weight_is_a_repetition():
    generator = np.random.default_rng(3)
    a, b, times = generator.normal(size=40), generator.normal(size=50), generator.integers(1, 4, 40)
    edges = np.linspace(-3, 3, 7)
    weighted = compare(a, b, times, None, edges=edges)
    repeated = compare(np.repeat(a, times), b, edges=edges)
    for name in ("wasserstein", "kolmogorov_smirnov", "separation"):
        assert getattr(weighted, name) == pytest.approx(getattr(repeated, name), abs=1e-12)


def test_separation_power_of_known_histograms():
    a = np.repeat([0.5, 1.5, 2.5], [5, 3, 2])
    b = np.repeat([0.5, 1.5, 2.5], [1, 3, 6])
    expected = 0.5 * ((0.4**2) / 0.6 + 0 + (0.4**2) / 0.8)
    assert separation_power(a, b, edges=[0, 1, 2, 3]) == pytest.approx(expected)
    assert separation_power(a, b) == pytest.approx(expected)  # discrete: a bin a value
    assert separation_power([0.0, 0.1], [5.0, 6.0], edges=[0, 1, 7]) == 1.0


def test_overflow_counts():
    assert separation_power([0.5, 0.6], [99.0, -99.0], edges=[0, 0.55, 1]) == 0.0
    assert separation_power([0.2, 0.3, 0.6], [99.0], edges=[0, 0.55, 1]) > 0.3


def test_bins_of_a_mostly_constant_sample():
    values = np.concatenate([np.zeros(100_000), np.linspace(1, 2, 80)])
    assert bin_edges(values)[0] == 0.0
    assert bin_edges(values)[-1] == 2.0
    assert len(bin_edges(np.ones(5))) == 2


def test_bootstrap_error_matches_repetition():
    generator = np.random.default_rng(6)
    values = [
        wasserstein(generator.normal(size=400), generator.normal(0.5, 1, 400)) for _ in range(200)
    ]
    found = resample(
        Sample(generator.normal(size=400)), Sample(generator.normal(0.5, 1, 400)), seed=1
    )
    assert found.error.wasserstein == pytest.approx(np.std(values), rel=0.3)


def test_resampling_a_handful_of_rows_may_leave_none():
    found = resample(Sample(np.array([1.0, 2.0, 3.0])), Sample(np.array([1.5])), seed=0)
    assert np.isfinite(found.error.wasserstein)


def test_resampling_is_seeded():
    a, b = map(Sample, np.random.default_rng(7).normal(size=(2, 300)))
    assert resample(a, b, seed=3) == resample(a, b, seed=3)
    assert resample(a, b, seed=4) != resample(a, b, seed=3)


def test_faults():
    with pytest.raises(DomainError, match="no finite value"):
        wasserstein([np.nan, np.inf], [1.0])
    with pytest.raises(DomainError, match="2 values but 3 weights"):
        kolmogorov_smirnov([1.0, 2.0], [1.0], [1.0, 1.0, 1.0])


@pytest.mark.parametrize("power", [1, 2, 4])
def test_bins_of_discrete_values_hold_equally_many(power):
    # The magnetisation of 256 spins comes in steps of 2/256: bins of equal width would alternate.
    steps = np.arange(129) / 128
    values = np.random.default_rng(0).choice(steps, 40_000) ** power
    edges = bin_edges(values, n_bins=20)
    counts, _ = np.histogram(steps**power, edges)
    assert len(set(counts[:-1].tolist())) == 1
    assert 0 < counts[-1] <= counts[0]
    assert len(counts) <= 20


def test_the_separation_power_stays_below_one_with_negative_weights():
    rng = np.random.default_rng(1)
    for _ in range(200):
        a, b = rng.normal(size=(2, 120))
        weights = np.where(rng.random((2, 120)) < 0.3, -1.0, 1.0)
        s = separation_power(a, b, *weights)
        assert 0 <= s <= 1


@pytest.mark.parametrize("seed", range(5))
def test_one_weighted_event_that_differs_is_no_evidence(seed):
    """Too few rows for bins of their own: nothing but rounding is left of the separation power."""
    weight = np.random.default_rng(seed).uniform(0.5, 1.5, (2, 3000))
    values = np.zeros((2, 3000))
    values[0, seed] = 1.0
    ours, theirs = (Sample(x, w) for x, w in zip(values, weight, strict=True))
    p_value = resample(ours, theirs, seed=seed).p_value
    assert p_value.separation == 1.0
    assert min(p_value.wasserstein, p_value.kolmogorov_smirnov) > 0.01
