"""Gamma-method, jackknife and bootstrap against exact autocorrelation times and each other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter
from scipy.stats import binom, chi2

from physgen.errors import DomainError
from physgen.validation.uncertainty import autocorrelation, gamma_method


def ar1(n, a, seed, replicas=1):
    """Stationary unit-variance AR(1) chains, (replicas, n), with tau_int = (1 + a) / 2(1 - a)."""
    generator = np.random.default_rng(seed)
    noise = generator.standard_normal((replicas, n)) * np.sqrt(1 - a * a)
    noise[:, 0] = generator.standard_normal(replicas)
    return lfilter([1.0], [1.0, -a], noise, axis=1)


@pytest.mark.parametrize(("a", "tau"), [(0.5, 1.5), (0.9, 9.5), (0.99, 99.5)])
def test_exact_autocorrelation_time(a, tau):
    n = 400_000
    estimate = gamma_method(ar1(n, a, seed=1)[0], chain=np.zeros(n))
    assert abs(estimate.tau_int - tau) < 4 * estimate.tau_int_error
    assert estimate.tau_int_error < 0.1 * tau
    assert estimate.error == pytest.approx(np.sqrt(2 * tau / n), rel=0.1)
    assert estimate.converged


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # It imports scipy.odr.
def test_agrees_with_pyerrors():
    import pyerrors

    x = ar1(20_000, 0.9, seed=3)[0] + 2.0
    primary = pyerrors.Obs([x], ["chain"])
    square = pyerrors.Obs([x**2], ["chain"])
    for theirs, columns, function in (
        (primary, x, None),
        (square - primary**2, np.stack([x**2, x], 1), lambda m: m[0] - m[1] ** 2),
    ):
        theirs.gamma_method(S=1.5)
        ours = gamma_method(columns, function=function, chain=np.zeros(len(x)))
        # They do not take the bias of a function of means away, a small part of its error.
        assert abs(ours.value - theirs.value) < (1e-9 if function is None else 0.1 * theirs.dvalue)
        assert ours.error == pytest.approx(theirs.dvalue, rel=2e-2)
        assert ours.error_of_error == pytest.approx(theirs.ddvalue, rel=5e-2)
        assert ours.tau_int == pytest.approx(theirs.e_tauint["chain"], rel=3e-2)


def test_replicas_in_any_interleaving_of_chains_give_the_same():
    x = ar1(3000, 0.8, seed=4, replicas=5)
    label = np.repeat(np.arange(5), 3000)
    together = gamma_method(x.ravel(), chain=label)
    interleaved = gamma_method(x.T.ravel(), chain=np.tile(np.arange(5), 3000))
    assert together.error == pytest.approx(interleaved.error, rel=1e-12)
    assert together.tau_int == pytest.approx(4.5, rel=0.15)


def test_many_short_chains_fall_back_on_their_spread():
    x = ar1(8, 0.9, seed=5, replicas=4000)
    estimate = gamma_method(x.ravel(), chain=np.repeat(np.arange(4000), 8))
    t = np.arange(1, 8)
    exact = np.sqrt((1 + 2 * np.sum((1 - t / 8) * 0.9**t)) / 8 / 4000)
    assert estimate.error == pytest.approx(exact, rel=0.06)
    # Their spread is right if they began where they should, which nothing in them shows.
    assert not estimate.converged
    assert estimate.agreement < 1e-10


def test_many_short_chains_that_forget_their_beginning_have_converged():
    x = ar1(4, 0.1, seed=5, replicas=1000)
    estimate = gamma_method(x.ravel(), chain=np.repeat(np.arange(1000), 4))
    exact = np.sqrt((1 + 2 * np.sum((1 - np.arange(1, 4) / 4) * 0.1 ** np.arange(1, 4))) / 4000)
    assert estimate.error == pytest.approx(exact, rel=0.1)
    assert estimate.converged
    # One sample of each chain says nothing of mixing.
    assert not gamma_method(x[:, 0], chain=np.arange(1000)).converged


@pytest.mark.parametrize("replicas", [2, 4, 16, 64, 1024])
def test_chains_frozen_in_two_wells_have_never_converged(replicas):
    generator = np.random.default_rng(replicas)
    wells = np.where(np.arange(replicas) % 2, 1.0, -1.0)[:, None]
    for length, spread in ((200, 0.3), (200, 3.0), (8, 0.3)):
        x = wells + spread * generator.standard_normal((replicas, length))
        estimate = gamma_method(x.ravel(), chain=np.repeat(np.arange(replicas), length))
        assert not estimate.converged
        if length == 200:
            assert estimate.agreement < 1e-4
            between = 1 / np.sqrt(replicas)
            assert estimate.error > 0.6 * between


def test_chains_of_one_sample_each_do_not_say_whether_they_are_stuck():
    x = np.random.default_rng(1).normal(size=40)
    found = gamma_method(x, chain=np.arange(40))
    assert np.isnan(found.agreement)
    assert not found.converged
    assert found.error == pytest.approx(x.std(ddof=1) / np.sqrt(40))


def test_one_stuck_chain_of_many_is_seen():
    x = ar1(400, 0.5, seed=12, replicas=64)
    x[7] += 2.0
    estimate = gamma_method(x.ravel(), chain=np.repeat(np.arange(64), 400))
    assert not estimate.converged
    assert estimate.agreement < 1e-10


def ragged(lengths, a, seed):
    """Chains of different lengths, one after another, and which is which."""
    x = ar1(max(lengths), a, seed=seed, replicas=len(lengths))
    cut = [one[:length] for one, length in zip(x, lengths, strict=True)]
    return cut, np.repeat(np.arange(len(lengths)), lengths)


UNEVEN = ([600] * 8 + [2, 3, 4, 5, 6, 7] * 10, [3000] + [20] * 15, [1800, 900, 300, 100, 50])


@pytest.mark.parametrize("lengths", UNEVEN)
def test_chains_of_uneven_lengths_raise_no_false_alarms(lengths):
    """Short ones, whose ends know their beginnings, do not speak for the long ones."""
    for seed in range(40):
        x, chain = ragged(lengths, 0.9, seed)
        assert gamma_method(np.concatenate(x), chain=chain).agreement > 1e-4


def test_short_chains_that_are_stuck_elsewhere_are_seen_beside_a_long_one():
    x, chain = ragged(UNEVEN[1], 0.9, 1)
    moved = [one + (4.0 * (-1) ** number if number else 0) for number, one in enumerate(x)]
    found = gamma_method(np.concatenate(moved), chain=chain)
    assert found.agreement < 1e-4
    assert not found.converged


@pytest.mark.parametrize(("shift", "frozen"), [(1.0, False), (2.0, True)])
def test_short_chains_that_are_shifted_beside_long_ones_are_seen(shift, frozen):
    """They hold 5% of the samples."""
    for seed in range(10):
        x, chain = ragged(UNEVEN[0], 0.6, seed)
        own = 0.1 if frozen else 1.0
        moved = [one if len(one) == 600 else own * one + shift for one in x]
        found = gamma_method(np.concatenate(moved), chain=chain)
        assert found.agreement < 1e-4
        assert not found.converged


def test_a_long_chain_that_is_stuck_is_seen_beside_many_short_ones():
    for seed in range(10):
        x, chain = ragged(UNEVEN[0], 0.6, seed)
        x[3] = 1.0 + 0.3 * x[3]
        assert gamma_method(np.concatenate(x), chain=chain).agreement < 1e-4


def test_chains_that_alternate_do_not_disagree():
    """Long trajectories of HMC turn a field round: rho(t) = (-0.6)^t."""
    for seed in range(10):
        x = ar1(100, -0.6, seed=seed, replicas=64)
        estimate = gamma_method(x.ravel(), chain=np.repeat(np.arange(64), 100))
        assert estimate.converged


@pytest.mark.slow
@pytest.mark.parametrize(
    ("length", "a", "replicas"), [(100, 0.5, 2), (400, 0.8, 4), (256, 0.5, 64), (8, 0.0, 1000)]
)
def test_chains_that_mix_agree_with_the_stated_probability(length, a, replicas):
    """P(p < 0.05) = 0.05 and no alarm at 1e-4 in 200 runs; pulls have unit width."""
    chain = np.repeat(np.arange(replicas), length)
    found = [
        gamma_method(ar1(length, a, seed, replicas).ravel(), chain=chain) for seed in range(200)
    ]
    p_values = np.array([one.agreement for one in found])
    told = p_values[~np.isnan(p_values)]
    assert len(told) > 180
    low, high = binom.ppf([0.001, 0.999], len(told), 0.05)
    assert low <= (told < 0.05).sum() <= high
    assert told.min() > 1e-4
    pulls = np.array([one.value / one.error for one in found])
    assert chi2.ppf(0.001, 200) < (pulls**2).sum() < 1.15 * chi2.ppf(0.999, 200)
    assert np.mean([one.converged for one in found]) > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("a", [0.0, 0.6, 0.9])
def test_chains_of_uneven_lengths_disagree_no_more_often_than_stated(a):
    """P(p < 0.05) <= 0.05 and P(p < 0.01) <= 0.01, and no alarm at 1e-4, in 400 runs."""
    p_values = []
    for seed in range(400):
        x, chain = ragged(UNEVEN[0], a, seed)
        p_values.append(gamma_method(np.concatenate(x), chain=chain).agreement)
    p_values = np.array(p_values)
    for level in (0.05, 0.01):
        assert (p_values < level).sum() <= binom.ppf(0.999, 400, level)
    # Of several tests at once the least probable one counts, so p is a little too large.
    assert (p_values < 0.1).mean() > 0.02
    assert p_values.min() > 1e-4


def test_the_mean_of_a_short_chain_does_not_bias_its_autocorrelation_time():
    """Without equation 49 of Wolff tau_int of chains of 133 tau_int comes out 6% too small."""
    n, tau = 200, 1.5
    chains = ar1(n, 0.5, seed=11, replicas=4000)
    found = [gamma_method(chain, chain=np.zeros(n)).tau_int for chain in chains]
    assert np.mean(found) == pytest.approx(tau, rel=0.015)


def test_a_chain_too_short_says_so():
    x = ar1(60, 0.99, seed=6)[0]
    assert not gamma_method(x, chain=np.zeros(60)).converged


def test_errors_cover():
    """Over many small chains the truth lies within one error in about 68% of them."""
    inside = 0
    for seed in range(200):
        x = ar1(2000, 0.7, seed=100 + seed)[0]
        pair = np.stack([x**2, x], 1)
        estimate = gamma_method(pair, function=lambda m: m[0] - m[1] ** 2, chain=np.zeros(2000))
        inside += abs(estimate.value - 1.0) < estimate.error
    assert 0.58 < inside / 200 < 0.78


@pytest.mark.parametrize(("share", "fast", "slow"), [(0.93, 0.0, 0.99), (0.9, -0.9, 0.98)])
def test_errors_know_of_slow_modes_below_others(share, fast, slow):
    """A small slow mode, below noise or anticorrelations, that makes nearly all of the error."""
    pulls = []
    for seed in range(60):
        parts = (share, ar1(8000, fast, 2 * seed)), (1 - share, ar1(8000, slow, 2 * seed + 1))
        values = sum(np.sqrt(s) * series for s, series in parts)[0]
        found = gamma_method(values, chain=np.zeros(8000))
        pulls.append(found.value / found.error)
    low, high = chi2.ppf([1e-4, 1 - 1e-4], 60) / 60
    # Errors of slow modes are known to 10% and come out too small by as much.
    assert low < np.mean(np.square(pulls)) < 1.3 * high


def telegraph(n_chains, length, switch, noise, seed):
    """Chains that jump between -1 and 1, once in `switch` steps, below independent noise."""
    generator = np.random.default_rng(seed)
    jumps = generator.random((n_chains, length)) < 1 / switch
    jumps[:, 0] = generator.random(n_chains) < 0.5
    place = np.cumprod(np.where(jumps, -1, 1), axis=1)
    return place + noise * generator.standard_normal((n_chains, length))


@pytest.mark.parametrize("setting", [(1, 20_000, 3), (4, 2500, 3), (4, 2500, 10)])
def test_chains_that_jump_a_few_times_have_not_converged(setting):
    """Jumps below noise are a small part of tau_int, and all of the error."""
    n_chains, length, noise = setting
    labels = np.repeat(np.arange(n_chains), length)
    found = [
        gamma_method(telegraph(n_chains, length, 2000, noise, seed).ravel(), chain=labels)
        for seed in range(40)
    ]
    # Chains none of which jumps are those of a single state.
    assert sum(one.converged for one in found) <= 4


def test_a_slow_mode_is_believed_once_it_has_come_and_gone_often():
    series = [telegraph(1, 40_000, 100, 3, seed)[0] for seed in range(40)]
    found = [gamma_method(values, chain=np.zeros(40_000)) for values in series]
    assert sum(one.converged for one in found) >= 36
    assert 0.6 < np.mean([(one.value / one.error) ** 2 for one in found]) < 1.6


def test_importance_weighted_mean_covers():
    """Reweight N(0, 1) to N(0.5, 1): the mean is 0.5, and the pull has unit width."""
    pulls = []
    for seed in range(200):
        x = np.random.default_rng(seed).standard_normal(1000)
        estimate = gamma_method(x, weight=np.exp(0.5 * x))
        pulls.append((estimate.value - 0.5) / estimate.error)
    assert 0.85 < np.std(pulls) < 1.15
    assert abs(np.mean(pulls)) < 0.3


@given(st.integers(0, 1000), st.floats(-5, 5), st.floats(0.1, 10))
@settings(max_examples=25, deadline=None)
def test_scales_and_shifts(seed, shift, scale):
    x = ar1(500, 0.5, seed)[0]
    chain = np.zeros(500)
    plain, moved = gamma_method(x, chain=chain), gamma_method(scale * x + shift, chain=chain)
    assert moved.value == pytest.approx(scale * plain.value + shift, abs=1e-9)
    assert moved.error == pytest.approx(scale * plain.error, rel=1e-9)
    assert moved.tau_int == pytest.approx(plain.tau_int, rel=1e-9)


def test_a_jackknife_gives_the_same_value_and_error():
    generator = np.random.default_rng(7)
    x, weight = generator.standard_normal(5000), generator.uniform(-0.3, 1.0, 5000)
    columns = np.stack([x**4, x**2], 1)
    gamma = gamma_method(columns, function=binder, weight=weight)
    norms = weight.reshape(50, -1).sum(1)[:, None]
    sums = (columns * weight[:, None]).reshape(50, -1, 2).sum(1)
    rest = [binder(m) for m in (sums.sum(0) - sums) / (norms.sum() - norms)]
    assert np.sqrt(49 * np.var(rest)) == pytest.approx(gamma.error, rel=0.3)
    value = 50 * binder(sums.sum(0) / norms.sum()) - 49 * np.mean(rest)
    assert abs(value - gamma.value) < 0.3 * gamma.error


def test_undefined_samples_do_not_enter():
    x = np.random.default_rng(1).standard_normal(1000)
    holes = np.where(np.arange(2000) % 2 == 0, np.repeat(x, 2), np.nan)
    plain, holed = gamma_method(x), gamma_method(holes)
    assert holed.value == pytest.approx(plain.value)
    assert holed.error == pytest.approx(plain.error, rel=1e-3)


@pytest.mark.parametrize("chain", [None, np.zeros(1000), np.arange(1000) % 10])
def test_a_constant_is_exact(chain):
    """Even 0.1, whose mean over 1000 samples is not 0.1 in floating point."""
    found = gamma_method(np.full(1000, 0.1), chain=chain)
    assert (found.value, found.error, found.tau_int) == (0.1, 0.0, 0.5)
    assert found.converged


def binder(m):
    return 1 - m[0] / (3 * m[1] ** 2)


@pytest.mark.parametrize("a", [0.0, 0.5])
def test_the_bias_of_a_function_of_means_is_taken_away(a):
    """U4 of Gaussian chains is 0; from few samples the plain function of means is too high."""
    n, runs = 100, 2000
    x = ar1(n, a, seed=21, replicas=runs)
    chain = np.zeros(n) if a else None
    found = [gamma_method(np.stack([y**4, y**2], 1), function=binder, chain=chain) for y in x]
    values = np.array([one.value for one in found])
    plain = np.array([binder([np.mean(y**4), np.mean(y**2)]) for y in x])
    error = values.std() / np.sqrt(runs)
    assert plain.mean() > 5 * error
    assert abs(values.mean()) < 0.5 * plain.mean()


def test_autocorrelation_function():
    rho = autocorrelation(ar1(200_000, 0.8, seed=2)[0])
    assert rho[0] == 1.0
    np.testing.assert_allclose(rho[:6], 0.8 ** np.arange(6), atol=0.02)


def test_faults():
    with pytest.raises(DomainError, match="mean of nothing"):
        gamma_method(np.full(10, np.nan))
    with pytest.raises(DomainError, match="weights of shape"):
        gamma_method(np.ones(10), weight=np.ones(9))
    with pytest.raises(DomainError, match="one label a sample"):
        gamma_method(np.ones(10), chain=np.ones(9))
    with pytest.raises(DomainError, match="no function"):
        gamma_method(np.ones((10, 2)))
