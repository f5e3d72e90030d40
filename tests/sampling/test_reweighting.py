"""Weights with a known effective sample size, and its trap."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from physgen.errors import InputError
from physgen.sampling.reweighting import (
    ENOUGH,
    FewSamplesWarning,
    effective_sample_size,
    forward_effective_sample_size,
    log_partition_function,
    normalised_weights,
    reweighted_mean,
)

N = 4 * ENOUGH


def noise(n=N, seed=1):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("spread", [0.1, 0.5, 1.0])
def test_gaussian_log_weights(spread):
    """w = exp(s xi): ESS = exp(-s^2), ln Z = s^2 / 2; under the target xi has the mean s."""
    xi = noise()
    ess = effective_sample_size(spread * xi)
    assert abs(ess.value - math.exp(-(spread**2))) < 4.5 * ess.error
    log_z = log_partition_function(spread * xi - 3)
    assert abs(log_z.value - (spread**2 / 2 - 3)) < 4.5 * log_z.error
    assert log_z.error == pytest.approx(math.sqrt(math.expm1(spread**2) / N), rel=0.5)
    mean = reweighted_mean(xi, spread * xi)
    assert abs(mean.value - spread) < 4.5 * mean.error
    forward = forward_effective_sample_size(spread * (xi + spread))
    assert abs(forward.value - math.exp(-(spread**2))) < 4.5 * forward.error


def test_few_samples_flatter_and_are_warned_of():
    log_weight = math.sqrt(2) * noise(64 * 200).reshape(200, 64)
    with pytest.warns(FewSamplesWarning, match="64 samples"):
        values = [effective_sample_size(row).value for row in log_weight]
    assert sum(values) / 200 > 1.5 * math.exp(-2)


@given(st.floats(-1e4, 1e4), st.integers(1, 200))
def test_a_common_factor_changes_only_ln_z(shift, n):
    log_weight = noise(n)
    weights = normalised_weights(log_weight + shift)
    assert weights.sum().item() == pytest.approx(1)
    torch.testing.assert_close(weights, normalised_weights(log_weight), rtol=1e-6, atol=1e-12)
    found = log_partition_function(log_weight + shift).value - shift
    assert found == pytest.approx(log_partition_function(log_weight).value, abs=1e-6)


def test_equal_weights_are_as_good_as_independent_samples():
    found = effective_sample_size(torch.zeros(N))
    assert found.value == pytest.approx(1)
    assert found.error == pytest.approx(0, abs=1e-9)


def test_one_sample_that_has_all_the_weight():
    log_weight = torch.full((N,), -math.inf)
    log_weight[7] = 0.0
    assert effective_sample_size(log_weight).value == pytest.approx(1 / N)


@pytest.mark.parametrize(
    "log_weight",
    [torch.tensor([0.0, math.nan]), torch.tensor([0.0, math.inf]), torch.full((3,), -math.inf)],
)
def test_weights_that_are_none(log_weight):
    with pytest.raises(InputError, match="log-weights"):
        log_partition_function(log_weight)


def test_shapes_that_do_not_fit():
    with pytest.raises(InputError, match="shape"):
        reweighted_mean(torch.zeros(3), torch.zeros(4))
    with pytest.raises(InputError, match="shape"):
        normalised_weights(torch.zeros(3, 2))
