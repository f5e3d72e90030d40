"""One p-value of many tests: rarely small where nothing differs, small where something does."""

import numpy as np
import pytest
import torch
from scipy import stats
from toy import Normal

from physgen.batch import Batch, Schema, Variable
from physgen.errors import NotMeasurable
from physgen.validation.combined import CombinedTest
from physgen.validation.comparison import Comparison
from physgen.validation.permutation import Relabelling
from physgen.validation.two_sample.combination import (
    Combined,
    Finding,
    Tails,
    combine,
    either,
)
from physgen.validation.two_sample.pool import Family


class Columns(Normal):
    """Three columns, which are the observables; the second may be undefined."""

    @property
    def schema(self):
        return Schema((3,), tuple(Variable(name) for name in "abc"), (Variable("t"),))

    def observables(self, batch):
        return dict(zip("abc", batch.x.unbind(1), strict=True))


def sample(seed, n=500, change=lambda x: x, **batch):
    x = change(np.random.default_rng(seed).normal(size=(n, 3)))
    return Batch(torch.from_numpy(x), **batch)


def row(ours, truth, **comparison):
    return CombinedTest().rows(Comparison(Columns(), ours, truth, **comparison))[0]


def column(number, function):
    def change(x):
        x = x.copy()
        x[:, number] = function(x[:, number])
        return x

    return change


def correlated(x):
    x = x.copy()
    x[:, 0] = 0.2 * x[:, 2] + np.sqrt(0.96) * x[:, 0]
    return x


FAULTS = {
    "a shift": (column(1, lambda y: y + 0.15), "b"),
    "a width": (column(2, lambda y: 1.15 * y), "c"),
    "a cut tail": (column(0, lambda y: np.where(y > 2, 2 - y / 10, y)), "a above 1."),
    "a correlation": (correlated, "correlation of"),
    "a mode that is lost": (column(0, lambda y: np.where(y < -2.2, -y, y)), "a"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_differs_is_found_and_named(fault):
    change, name = FAULTS[fault]
    found = row(sample(1, 4000, change), sample(2, 4000))
    assert found.p_value < 1e-3
    assert name in found.note


class Deposits(Columns):
    """Four energies, measured to 3% at five energies of the particle."""

    @property
    def schema(self):
        return Schema((4,), tuple(Variable(name) for name in "abcd"), (Variable("E_inc"),))

    def observables(self, batch):
        return dict(zip("abcd", batch.x.unbind(1), strict=True))


def deposits(seed, by_kind, n=1200):
    """Return showers of which `a` is off by parts of its width, energy by energy."""
    kind = np.arange(n) % 5
    z = np.random.default_rng(seed).normal(size=(n, 4))
    z[:, 0] += np.array(by_kind)[kind]
    energy = 10.0 ** kind[:, None]
    x, condition = (torch.from_numpy(v) for v in (energy * (1 + 0.03 * z), energy))
    return Batch(x, condition=condition)


def test_what_differs_in_bins_of_the_condition_alone_is_found(monkeypatch):
    """Means at three of five energies are off, so that no mean or slope over all of them is."""
    ours, truth = deposits(4, (0, 0.3, -0.6, 0.3, 0)), deposits(5, (0,) * 5)
    comparison = Comparison(Deposits(), ours, truth)
    found = CombinedTest().rows(comparison)[0]
    assert found.p_value < 1e-3
    assert "mean of a at E_inc = 100: -" in found.note
    monkeypatch.setattr("physgen.validation.two_sample.conditional.of_bins", lambda pool: None)
    assert CombinedTest().rows(comparison)[0].p_value > 0.05


def test_what_does_not_differ_is_not_found():
    found = row(sample(1, 3000), sample(2, 2000))
    assert found.p_value > 0.01
    assert found.note == "41 tests of 3 observables, 2000 rows against 3000"


def test_rows_that_are_not_defined_are_found():
    lost = column(1, lambda y: np.where(np.arange(len(y)) % 50 == 0, np.nan, y))
    found = row(sample(1, 4000, lost), sample(2, 4000))
    assert (found.p_value < 1e-3, "b above" in found.note) == (True, True)


def outlier(x):
    x = x.copy()
    x[:, 0] += 1
    x[0, 0] = 1e12
    return x


@pytest.mark.parametrize(
    "change",
    [outlier, column(0, lambda y: np.where(np.arange(len(y)) == 0, np.inf, y + 1))],
)
def test_one_value_hides_nothing(change):
    assert row(sample(1, 1000, change), sample(2, 1000)).p_value < 1e-3


def test_a_large_offset_hides_nothing():
    moved = column(0, lambda y: y + 1e7 + 0.5)
    found = row(sample(1, 1000, moved), sample(2, 1000, column(0, lambda y: y + 1e7)))
    assert (found.p_value < 1e-3, "of 3 observables" in found.note) == (True, True)


def test_rows_worth_few_independent_ones_are_refused():
    weight = torch.from_numpy(np.random.default_rng(0).lognormal(0, 1.0, 300))
    with pytest.raises(NotMeasurable, match="independent ones are too few"):
        row(sample(1, 300, weight=weight), sample(2, 5000))


def test_of_three_rows_nothing_is_told():
    assert row(sample(1, 3), sample(2, 3)).p_value > 0.05


def test_identical_samples_do_not_differ():
    same = sample(1)
    assert row(same, same, paired=frozenset({"generated"})).p_value == 1.0


def test_samples_of_which_nothing_can_be_told_are_refused():
    constant = Batch(torch.ones(100, 3, dtype=torch.float64))
    with pytest.raises(NotMeasurable, match="no observable varies"):
        row(constant, constant)


def normal_law(seed, n=300):
    return sample(seed, n)


def weighted_truth(seed, n=400):
    """Weights, a sixth of them negative, that have nothing to do with the rows."""
    generator = np.random.default_rng([seed, 1])
    weight = generator.lognormal(0, 0.5, n) * np.where(generator.random(n) < 1 / 6, -1, 1)
    return sample(seed, n, weight=torch.from_numpy(weight))


def alarms(make_ours, make_truth, repeats):
    return [row(make_ours(2 * s), make_truth(2 * s + 1), seed=s).p_value for s in range(repeats)]


def check(p_values):
    """Of n p-values at most as many are below a level as chance allows (1 in 1000)."""
    for level in (0.01, 0.05, 0.2):
        assert np.sum(np.array(p_values) <= level) <= stats.binom.isf(1e-3, len(p_values), level)


def test_false_alarms_are_rare():
    check(alarms(normal_law, lambda s: normal_law(s, 400), 25))


@pytest.mark.slow
@pytest.mark.parametrize(("n", "repeats"), [(1000, 300), (5000, 100)])
def test_false_alarms_are_as_rare_as_stated(n, repeats):
    check(alarms(lambda s: sample(s, n), lambda s: sample(s, n), repeats))


@pytest.mark.slow
def test_false_alarms_with_weights_of_one_sample_only():
    check(alarms(lambda s: normal_law(s, 4000), lambda s: weighted_truth(s, 1000), 100))


@pytest.mark.slow
def test_false_alarms_of_rows_in_groups():
    """Five candidates of one event are nearly the same."""

    def grouped(seed):
        events = np.random.default_rng(seed).normal(size=(200, 3))
        rows = np.repeat(events, 5, axis=0)
        return rows + 0.1 * np.random.default_rng([seed, 1]).normal(size=rows.shape)

    keys = np.repeat(np.arange(200), 5)
    found = []
    for seed in range(100):
        a, b = (Batch(torch.from_numpy(grouped(2 * seed + i))) for i in range(2))
        groups = {"generated": keys, "truth": 200 + keys}
        found.append(row(a, b, groups=groups, seed=seed).p_value)
    check(found)


def test_the_classifier_has_a_fifth_of_the_level():
    tests, learned = (
        Combined(p, p / 2, (Finding(n, p, ""),)) for n, p in (("a", 0.04), ("b", 0.001))
    )
    found = either(tests, learned)
    assert (found.p_value, found.extrapolated) == pytest.approx((0.005, 0.0025))
    assert [f.test for f in found.findings] == ["b", "a"]
    assert [f.p_value for f in found.findings] == pytest.approx([0.005, 0.05])
    assert either(learned, tests).p_value == pytest.approx(0.00125)
    assert either(tests, Combined(0.9, 0.9, ())).p_value == pytest.approx(0.05)


def test_tails_are_smooth_and_extrapolate():
    """Of squares of a normal number p is known."""
    null = np.random.default_rng(0).normal(size=(2000, 3)) ** 2
    tails = Tails.of(null)
    assert 1 <= tails.independent <= 3
    for z in (2.0, 3.0, 4.0):
        wanted = stats.chi2.logsf(z**2, 1)
        found = tails.log_p(np.full((1, 3), z**2))[0]
        assert found == pytest.approx(wanted, abs=0.35 * abs(wanted))
    p = tails.log_p(np.sort(null, axis=0))
    assert (np.diff(p, axis=0) <= 1e-12).all()


def test_statistics_that_do_not_vary_say_nothing():
    tails = Tails.of(np.zeros((100, 1)))
    assert np.exp(tails.log_p(np.array([[0.0], [1.0]]))).ravel() == pytest.approx([1.0, 0.2])


def test_adjusted_p_values_hold_for_all_tests_together():
    """Of twenty tests of noise the least has an adjusted p below .1 in a tenth of cases."""
    below = 0
    for seed in range(60):
        x = np.random.default_rng(seed).normal(size=(200, 20))
        relabelling = Relabelling(100, 100, seed=seed)
        names = tuple(f"test {i}" for i in range(20))
        family = Family(names, relabelling.sums(x), np.square, lambda a, b: [""] * 20)
        below += combine([family], relabelling).findings[0].p_value <= 0.1
    assert below <= stats.binom.isf(1e-3, 60, 0.1)
    assert below >= 1
