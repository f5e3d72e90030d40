"""Metrics on a system whose answers are known, and the verdicts that follow."""

import math

import numpy as np
import pytest
import torch
from toy import Normal, compare, draw

from physgen.batch import Batch
from physgen.errors import InputError, RecipeError
from physgen.validation.comparison import Comparison, measure
from physgen.validation.correlations import correlation_matrix
from physgen.validation.ensemble import analyse
from physgen.validation.estimates import pull
from physgen.validation.importance import acceptance
from physgen.validation.judging import judge
from physgen.validation.metrics import (
    ClassifierTest,
    Correlations,
    Histograms,
    Importance,
    MaximumMeanDiscrepancy,
    Means,
)


def by_name(rows):
    return {row.name: row for row in rows}


def test_means_stand_beside_exact_values():
    rows = by_name(Means(tolerance={"a^2": 0.3}).rows(compare(draw(4000, 3))))
    a, variance = rows["a"], rows["variance"]
    assert a.error == pytest.approx(1 / math.sqrt(4000), rel=0.05)
    assert (a.exact, a.exact_source, a.unit) == (0.0, "exact", "GeV")
    assert a.pull == pytest.approx(a.value / a.error)
    assert variance.error == pytest.approx(math.sqrt(2 / 4000), rel=0.1)
    assert rows["a^2"].tolerance == pytest.approx(0.3)
    assert rows["a^2"].verdict == "pass"
    assert a.verdict == "info"
    assert rows["b"].exact_source == "truth"
    assert rows["b"].exact_error == pytest.approx(a.error, rel=0.05)
    assert a.floor < 4 * a.floor_error
    profile = next(row for name, row in rows.items() if name.startswith("both, bin"))
    assert profile.p_value > 1e-3


def test_a_biased_sample_fails_where_a_tolerance_or_exactness_was_claimed():
    shifted = draw(4000, 3, shift=0.3)
    rows = by_name(Means(tolerance={"a^2": 0.05, "both": 0.1}).rows(compare(shifted)))
    assert rows["a^2"].verdict == "fail"
    assert next(r for n, r in rows.items() if n.startswith("both, bin 1")).verdict == "fail"
    metrics = [Means(), Histograms()]
    card = judge(compare(shifted, corrected=True), metrics)
    assert card["a"].verdict == "fail"
    assert card["W1 a"].verdict == "fail"
    assert card["b"].verdict == "pass"
    assert judge(compare(draw(4000, 3), corrected=True), metrics).verdict == "pass"


def shift_log_weight(x, shift):
    """ln p / q of the pair, q shifted along a (precision matrix [[4/3, -2/3], [-2/3, 4/3]])."""
    return -shift * (4 / 3 * x[:, 0] - 2 / 3 * x[:, 1]) + 0.5 * shift**2 * 4 / 3


def test_importance_weights_correct_the_means():
    x = draw(8000, 4, shift=0.4)
    reweighted = x.replace(log_weight=shift_log_weight(x.x, 0.4))
    truth = draw(8000, 5)
    truth = truth.replace(log_weight=shift_log_weight(truth.x, 0.4))
    comparison = Comparison(Normal(), reweighted, truth, corrected=True)
    row = by_name(Means().rows(comparison))["a"]
    assert abs(row.pull) < 4
    assert abs(by_name(Means().rows(Comparison(Normal(), reweighted)))["a"].pull) > 10
    rows = by_name(Importance(minimum_ess=0.5).rows(comparison))
    variance = 0.16 * 4 / 3
    assert abs(rows["ESS"].value - math.exp(-variance)) < 4 * rows["ESS"].error
    assert abs(rows["acceptance"].value - math.erfc(math.sqrt(variance) / 2)) < 0.02
    assert abs(rows["ln Z"].pull) < 4
    assert rows["ESS"].verdict == "pass"
    assert "fewer than 16384" in rows["ESS"].note


def test_one_tiny_weight_does_not_flatten_the_histogram_of_all():
    x = draw(8000, 4, shift=0.4)
    log_weight = shift_log_weight(x.x, 0.4)
    log_weight[0] = -1e4
    rows = by_name(Importance().rows(Comparison(Normal(), x.replace(log_weight=log_weight))))
    edges, counts = rows["ESS"].curves["log weights"]
    assert sum(counts) == 8000
    assert edges[0] > -10
    assert edges[-1] == pytest.approx((log_weight - log_weight.logsumexp(0)).max() + math.log(8000))


def two_modes(n, seed, share=0.5):
    """Samples of a mixture at a = -4 and +4 of which a model knows only the second."""
    x = draw(n, seed).x
    up = torch.from_numpy(np.random.default_rng(seed).random(n) < share)
    x[:, 0] += torch.where(up, 4.0, -4.0)
    log_p = torch.logaddexp(-0.5 * (x[:, 0] - 4) ** 2, -0.5 * (x[:, 0] + 4) ** 2) + math.log(0.5)
    return Batch(x=x, log_weight=log_p + 0.5 * (x[:, 0] - 4) ** 2)


def test_a_model_of_one_of_two_modes_does_not_pass():
    """Its own samples see nothing: ESS 1, and a ln Z that is ln 2 too low."""
    ours, truth = two_modes(20_000, 3, share=1.0), two_modes(20_000, 4)
    metrics = [Importance(minimum_ess=0.9, minimum_acceptance=0.5)]
    card = judge(Comparison(Normal(), ours, truth, proposals=ours), metrics)
    assert card["ESS"].value > 0.99
    assert card["ESS"].verdict == "info"
    assert "a sector is missing" in card["ESS"].warning
    assert card["ESS on truth"].value < 0.01
    assert card["ESS on truth"].verdict == "fail"
    assert card["ln Z"].value is None
    assert "a sector is missing" in card["ln Z"].note
    whole = ours.replace(log_weight=torch.zeros(len(ours)))
    good = truth.replace(log_weight=torch.zeros(len(ours)))
    assert judge(Comparison(Normal(), whole, good, proposals=whole), metrics).verdict == "pass"


@pytest.mark.parametrize("why", ["no truth", "no log-weights", "chains that do not mix"])
def test_weights_pass_nothing_that_samples_of_the_truth_do_not_back(why):
    ours, truth = two_modes(20_000, 3, share=1.0), None
    if why == "no log-weights":
        truth = draw(20_000, 5)
    if why == "chains that do not mix":
        truth = frozen(100, 200).replace(log_weight=torch.zeros(20_000))
    card = judge(
        Comparison(Normal(), ours, truth, proposals=ours),
        [Importance(minimum_ess=0.9, minimum_acceptance=0.5)],
    )
    assert card.verdict == "info"
    assert "not backed" in card["ESS"].warning


def test_chains_that_do_not_mix_still_show_a_missing_sector():
    """The truth stands still in both wells, and the model has one: nothing passes."""
    ours = two_modes(20_000, 3, share=1.0)
    log_weight = torch.where(torch.arange(100) % 2 == 0, 0.0, 200.0).repeat_interleave(200)
    truth = frozen(100, 200).replace(log_weight=log_weight)
    comparison = Comparison(
        Normal(known=False), ours, truth, frozen(100, 200, seed=9), proposals=ours, corrected=True
    )
    card = judge(comparison, [Means(), Importance()])
    assert "a sector is missing" in card["ESS"].warning
    assert card["ln Z"].value is None
    assert "pass" not in {row.verdict for row in card.rows}
    assert judge(comparison, [Importance(minimum_ess=0.9)]).verdict == "fail"


@pytest.mark.parametrize("tested", [False, True])
@pytest.mark.parametrize("whose", ["truth", "generated"])
def test_weights_of_a_few_rows_judge_nothing(whose, tested):
    weight = torch.ones(5000)
    weight[:20] = 1e4
    one, other, floor = draw(5000, 1).replace(weight=weight), draw(5000, 2), draw(5000, 3)
    both = (other, one) if whose == "truth" else (one, other)
    comparison = Comparison(Normal(known=False), *both, floor)
    metrics = [Means(tolerance={"a^2": 0.5}), Histograms(), Correlations()]
    card = judge(comparison, metrics, tested=tested)
    name = "weights of the truth" if whose == "truth" else "weights"
    assert card[name].value == pytest.approx(204_980**2 / (20e8 + 4980))
    assert "give more rows" in card[name].warning
    assert "differ beyond chance" not in " ".join(card.warnings)
    if whose == "truth":
        assert card.verdict == "info"
        assert card["a^2"].value is None
        assert "no usable weights" in card["a^2"].warning
    else:
        assert card.verdict != "pass"


def test_weights_of_a_few_samples_give_no_numbers():
    x = draw(20_000, 3)
    log_weight = 6 * torch.from_numpy(np.random.default_rng(1).standard_normal(20_000))
    card = judge(Comparison(Normal(), x.replace(log_weight=log_weight)), [Importance()])
    for name in ("ESS", "acceptance", "ln Z"):
        assert card[name].value is None
        assert "no usable weights" in card[name].note
    assert card.verdict == "fail"
    assert len(card.warnings) == 1
    reweighted = Comparison(Normal(), x.replace(log_weight=log_weight), corrected=True)
    row = judge(reweighted, [Means()])["a"]
    assert row.value is None
    assert "no usable weights" in row.note


def test_acceptance_is_the_pair_average():
    w = np.random.default_rng(0).exponential(size=60)
    pairs = np.minimum.outer(w, w)
    np.fill_diagonal(pairs, 0)
    assert acceptance(w).value == pytest.approx(pairs.sum() / (59 * w.sum()))
    assert acceptance(np.ones(100)).value == pytest.approx(1.0)


def test_chains_enlarge_the_error():
    n = 4000
    x = draw(n, 3)
    slow = Batch(x=x.x[: n // 10].repeat_interleave(10, 0), chain=torch.zeros(n))
    comparison = compare(slow, corrected=True)
    assert by_name(Means().rows(comparison))["a"].error == pytest.approx(
        math.sqrt(10 / n), rel=0.25
    )
    rows = by_name(Histograms().rows(comparison))
    # A chain that repeats itself is not exchangeable with independent samples.
    assert rows["KS a"].p_value is None


def test_event_weights_are_used_everywhere():
    x = draw(4000, 5, shift=0.5)
    a, b = x.x[:, 0], x.x[:, 1]
    weight = torch.exp(-0.5 * (4 / 3 * a - 2 / 3 * b))
    comparison = compare(x.replace(weight=weight))
    rows = by_name(Means().rows(comparison)) | by_name(Histograms().rows(comparison))
    assert abs(rows["a"].pull) < 4
    assert rows["KS a"].p_value > 1e-3
    assert by_name(Correlations().rows(comparison))["largest |d correlation|"].value < 0.15


def test_undefined_everywhere_fails_rather_than_vanishes():
    x = draw(500, 6).x.clone()
    x[:, 0] = float("nan")
    card = judge(compare(Batch(x=x), corrected=True), [Means(), Histograms()])
    assert card["a"].value is None
    assert card["a"].verdict == "fail"
    assert card["W1 a"].verdict == "fail"
    assert by_name(Means(tolerance={"a^2": 0.1}).rows(compare(Batch(x=x))))["a^2"].verdict == "fail"


def test_some_undefined_are_counted():
    x = draw(500, 6).x.clone()
    x[:7, 0] = float("nan")
    assert "7 of 500" in by_name(Means().rows(compare(Batch(x=x))))["a"].note


def defined_in(n, seed, rows):
    x = draw(n, seed).x.clone()
    x[rows:, 0] = float("nan")
    return Batch(x=x)


@pytest.mark.parametrize(("ours", "truth"), [(3, 1), (1, 3), (0, 1), (1, 0), (0, 0)])
def test_a_mean_whose_error_is_unknown_is_not_judged(ours, truth):
    samples = defined_in(500, 6, ours), defined_in(500, 1, truth), draw(500, 2)
    comparison = Comparison(Normal(known=False), *samples)
    row = by_name(judge(comparison, [Means()], tested=True).rows)["a"]
    assert (row.p_value, row.pull, row.verdict) == (None, None, "info")
    assert "not judged: the error is not known: defined in " in row.note
    profile = next(r for r in Means().rows(comparison) if r.name.startswith("both"))
    assert profile.name == "both, bin 2 of 2"
    assert profile.p_value > 0.01
    assert "not judged" in profile.note or truth == 0
    limited = by_name(Means(tolerance={"a": 1e9, "both": 1e9}).rows(comparison))
    assert limited["a"].verdict == ("fail" if ours == 0 else "info")
    if ours and truth:
        assert "the error is not known" in limited["a"].warning
        assert limited["both, bin 2 of 2"].verdict == "pass"


def test_a_bias_whose_error_is_nothing_is_impossible():
    assert pull(1e-3, 0.0) == (math.inf, 0.0)
    assert pull(0.0, 0.0) == (0.0, 1.0)
    assert all(map(math.isnan, pull(1e-3, math.nan)))
    x = draw(500, 6).x.clone()
    x[:, 0] = 1.0
    card = judge(
        Comparison(Normal(known=False), Batch(x=x), Batch(x=x + 1)), [Means()], tested=True
    )
    assert (card["a"].p_value, card["a"].verdict) == (0.0, "fail")


def test_correlations():
    values = draw(20_000, 7).x.numpy()
    matrix = correlation_matrix(values, np.ones(len(values)))
    np.testing.assert_allclose(matrix, np.corrcoef(values.T), atol=1e-12)
    rows = Correlations(tolerance=0.2).rows(compare(draw(4000, 8, rho=0.0)))
    assert rows[0].value == pytest.approx(0.5, abs=0.08)
    assert rows[0].verdict == "fail"
    assert rows[0].floor < 0.1
    assert 0 < rows[0].error < 0.1


def test_correlations_of_a_pair_are_those_of_the_rows_that_define_both():
    generator = np.random.default_rng(3)
    values = generator.normal(size=(500, 3))
    values[:, 1] += values[:, 0]
    values[generator.random((500, 3)) < 0.3] = np.nan
    weight = generator.uniform(0.5, 2, 500)
    matrix = correlation_matrix(values + 1000, weight)
    for i in range(3):
        for j in range(3):
            both = np.isfinite(values[:, i]) & np.isfinite(values[:, j])
            cov = np.cov(values[both][:, [i, j]].T, aweights=weight[both])
            assert matrix[i, j] == pytest.approx(cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1]))


def test_no_row_needs_to_define_all_observables():
    """As columns of a fourth muon, which hardly any event has."""
    batch = draw(4000, 8)
    x = batch.x.clone()
    x[::2, 0] = float("nan")
    x[1::2, 1] = float("nan")
    worst, mean = Correlations().rows(compare(batch.replace(x=x)))
    assert worst.note == "a with a^2"
    assert mean.note == "over 1 pairs; 2 that fewer than 30 rows define are left out"
    x[:60, 0] = batch.x[:60, 0]
    assert Correlations().rows(compare(batch.replace(x=x)))[1].note == "over 3 pairs"
    assert Correlations().rows(compare(batch.replace(x=x * float("nan")))) == []


def test_mmd_and_classifier_see_a_shift_and_nothing_else():
    shifted, same = compare(draw(1500, 9, shift=1.0)), compare(draw(1500, 9))
    mmd = MaximumMeanDiscrepancy(n=500)
    assert mmd.rows(shifted)[0].p_value < 1e-4
    assert mmd.rows(same)[0].p_value > 1e-3
    test = ClassifierTest(model="boosted", maximum=0.6, calibrate=True)
    auc, accuracy, jsd, *_ = test.rows(
        compare(draw(1500, 9, shift=1.0), baseline=draw(1500, 10, shift=3.0))
    )
    assert auc.verdict == "fail"
    assert auc.baseline > auc.value > auc.floor
    assert "trained on 900 + 900" in auc.note
    assert "boosted classifier, low level" in auc.name
    assert set(auc.curves) == {"ROC generated", "ROC floor", "ROC baseline"}
    assert 0.6 < accuracy.value < auc.value
    assert jsd.value > 0.1
    assert test.rows(same)[0].verdict == "pass"


def test_a_chain_by_itself():
    generator = np.random.default_rng(11)
    n, a = 20_000, 0.8
    x = np.zeros((n, 2))
    noise = generator.standard_normal((n, 2)) * math.sqrt(1 - a * a)
    for i in range(1, n):
        x[i] = a * x[i - 1] + noise[i]
    comparison, card = analyse(
        Normal(), [Batch(x=torch.from_numpy(x))], n, provenance={"file": "x"}
    )
    assert card["tau_int a"].value == pytest.approx(4.5, rel=0.2)
    assert card["a"].verdict == "pass"
    assert card["b"].verdict == "info"
    assert card.provenance["chains"] == 1
    assert comparison.generated.chain is not None
    _, biased = analyse(Normal(), [Batch(x=torch.from_numpy(x + 1))], n)
    assert biased.verdict == "fail"
    (warning,) = biased.warnings
    assert "Normal(known=True): were the samples made with these parameters?" in warning


def frozen(n_chains, length, seed=3):
    """Chains each of which stays in one of two wells of `a`, at -1 and +1."""
    x = draw(n_chains * length, seed).x * 0.1
    chain = torch.arange(n_chains).repeat_interleave(length)
    x[:, 0] += torch.where(chain % 2 == 0, 1.0, -1.0)
    return Batch(x=x, chain=chain)


def test_chains_that_do_not_mix_pass_nothing_and_say_so():
    """The mean of `a` happens to be right, 0 within its error, in chains that never left a well."""
    _, card = analyse(Normal(), [frozen(64, 200)], 64 * 200)
    assert abs(card["a"].pull) < 1
    assert card["a"].verdict == "info"
    assert card["mixing"].verdict == "fail"
    assert "do not mix: the means of 'a'" in card["mixing"].warning
    assert card.verdict == "fail"
    assert len(card.warnings) == 1
    assert "do not mix" in card["tau_int a"].note


def test_a_tolerance_is_not_met_by_chains_that_do_not_mix():
    claims = Means(tolerance={"a^2": 0.5})
    card = judge(compare(frozen(64, 200)), [claims])
    assert card["a^2"].value == pytest.approx(1, abs=0.05)
    good = draw(64 * 200, 3)
    mixed = good.replace(chain=torch.arange(64).repeat_interleave(200))
    assert judge(compare(mixed), [claims])["a^2"].verdict == "pass"
    stuck = frozen(64, 200)
    stuck.x[:, 0] *= torch.where(stuck.chain % 2 == 0, 0.9, 1.1)
    card = judge(compare(stuck), [claims])
    assert card["a^2"].verdict == "info"
    assert card.warnings


def test_a_truth_that_does_not_mix_backs_nothing():
    truth = frozen(64, 200)
    ours = draw(len(truth), 8)
    comparison = Comparison(Normal(known=False), ours, truth, corrected=True)
    card = judge(comparison, [Means()])
    assert card["a"].verdict == "info"
    assert "do not mix" in card["mixing of the truth"].warning
    assert card["mixing of the truth"].verdict == "info"


@pytest.mark.parametrize("n_chains", [1, 4])
def test_a_chain_shorter_than_fifty_autocorrelation_times_meets_no_limit(n_chains):
    """2000 steps of tau_int 50: a mean that is right, with an error that is not known."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(n_chains, 2000 // n_chains, 2, generator=generator).double()
    x = noise.clone()
    for step in range(1, x.shape[1]):
        x[:, step] = 0.98 * x[:, step - 1] + (1 - 0.98**2) ** 0.5 * noise[:, step]
    chain = torch.arange(n_chains).repeat_interleave(2000 // n_chains)
    batch = Batch(x=x.reshape(-1, 2) * 0.3 + 1, chain=chain)

    class Shifted(Normal):
        def exact(self):
            return {"a": 1.0}

    card = judge(Comparison(Shifted(), batch), [Means(tolerance={"a": 1.0})])
    assert card["a"].verdict == "info"
    assert "too short to know their errors" in card["a"].warning
    assert card.verdict == "info"


def test_a_chain_too_short_is_not_judged():
    x = torch.arange(40.0).reshape(20, 2).double()
    _, card = analyse(Normal(), [Batch(x=x)], len(x))
    assert card["a"].verdict == "info"
    assert "too short to show that they mix" in card["mixing"].warning


def test_blocks_do_not_change_observables(monkeypatch):
    batch = draw(100, 12)
    whole = measure(Normal(), batch).values["a"]
    monkeypatch.setattr("physgen.validation.comparison.BLOCK", 7)
    np.testing.assert_array_equal(whole, measure(Normal(), batch).values["a"])


def test_faults():
    comparison = compare(draw(100, 1))
    with pytest.raises(RecipeError, match="did you mean 'variance'"):
        Means(tolerance={"varianse": 0.1}).rows(comparison)
    with pytest.raises(RecipeError, match="did you mean 'W1 a'"):
        Histograms(tolerance={"W2 a": 0.1}).rows(comparison)
    alone = Comparison(Normal(known=False), draw(100, 1))
    with pytest.raises(RecipeError, match="nobody knows"):
        Means(tolerance={"a": 0.1}).rows(alone)
    for metric in (Histograms(), Correlations(), MaximumMeanDiscrepancy(), ClassifierTest()):
        with pytest.raises(InputError, match="truth"):
            metric.rows(alone)
    with pytest.raises(InputError, match="log-weights"):
        Importance().rows(comparison)
    with pytest.raises(InputError, match="empty"):
        measure(Normal(), Batch(x=torch.empty(0, 2)))
