"""Nothing that stems from a chain, or from one condition, is counted as independent."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from toy import Normal, compare, draw

from physgen.batch import Batch, Schema, Variable
from physgen.errors import NotMeasurable
from physgen.sampling.metropolis import independence_metropolis
from physgen.validation.comparison import Comparison
from physgen.validation.independence import LENGTH, select
from physgen.validation.judging import judge
from physgen.validation.metrics import (
    ClassifierTest,
    CombinedTest,
    Coverage,
    Frechet,
    Means,
    NearestNeighbour,
)


@dataclass(frozen=True)
class Independent:
    """Independent standard normal numbers."""

    dimension: int = 4

    @property
    def schema(self):
        return Schema((self.dimension,), (Variable("x"),))

    @property
    def derived(self):
        return {}

    def observables(self, batch):
        return {f"x{i}": batch.x[:, i] for i in range(self.dimension)}

    def features(self, batch, level):
        return batch.x


def normal(n, generator, dimension=4):
    return Batch(torch.randn(n, dimension, generator=generator, dtype=torch.float64))


def metropolis(n, generator, width=1.5):
    """Exact samples of the system: a chain of which half the steps stand still."""
    x = width * normal(n, generator).x
    log_weight = (0.5 * (x / width) ** 2 - 0.5 * x**2).sum(1)
    return independence_metropolis(Batch(x, log_weight=log_weight), generator=generator).batch


def test_rows_that_follow_one_another_and_are_too_few_pass_nothing():
    truth, ours, floor = (autoregressive(800, 0.5, seed).replace() for seed in range(3))
    comparison = Comparison(Independent(2), ours, truth, floor)
    card = judge(comparison, [CombinedTest(), Means()], tested=True)
    row = card["combined-test"]
    assert (row.metric, row.p_value, row.verdict) == ("combined-test", None, "info")
    for words in (
        "taken for a Markov chain: 800 rows of the truth sample (tau_int 1.",
        "and 800 rows of the generated sample (tau_int 1.",
        "stretches of 10 tau_int, and a test needs 200",
        "shuffle a file that is only sorted; name what rows of one event have in common (data.g",
        "without this test nothing passes",
    ):
        assert words in row.warning
    assert card["x0"].p_value > 0.001
    assert card.verdict == "info"
    limited = judge(comparison, [CombinedTest(), Means(tolerance={"x0": 1e9})], tested=True)
    assert limited["x0"].verdict != "fail"
    x = autoregressive(800, 0.5, 3).x + 5
    moved = Comparison(Independent(2), autoregressive(800, 0.5, 3).replace(x=x), truth, floor)
    assert judge(moved, [CombinedTest(), Means()], tested=True).verdict == "fail"
    weighted = ours.replace(chain=None, weight=torch.rand(800).double() ** 8)
    few = Comparison(Independent(2), weighted, truth.replace(chain=None))
    assert (
        "weighted rows, or rows in groups" in judge(few, [CombinedTest()])["combined-test"].warning
    )


def autoregressive(n, a, seed, n_chains=1):
    """Stationary chains of independent components with tau_int = (1 + a) / 2(1 - a)."""
    noise = np.random.default_rng(seed).standard_normal((n_chains, n, 2))
    x = noise.copy()
    for t in range(1, n):
        x[:, t] = a * x[:, t - 1] + np.sqrt(1 - a**2) * noise[:, t]
    return Batch(
        torch.from_numpy(x.reshape(-1, 2)), chain=torch.arange(n_chains).repeat_interleave(n)
    )


def chained(seed, n=3000):
    generator = torch.Generator().manual_seed(seed)
    made = metropolis(n, generator)
    truth, floor = normal(n, generator), normal(n, generator)
    return Comparison(Independent(), made, truth, floor, corrected=True, seed=seed)


def test_a_judge_does_not_recognise_what_a_chain_repeats():
    comparison = chained(0, n=1500)
    row = ClassifierTest(model="boosted").rows(comparison)[0]
    assert abs(row.value - 0.5) < 4 * row.error
    unaware = Comparison(
        comparison.system,
        comparison.generated.replace(chain=None),
        comparison.truth,
    )
    assert ClassifierTest(model="boosted").rows(unaware)[0].value > 0.6


def test_what_a_chain_repeats_is_no_neighbour():
    row = NearestNeighbour().rows(chained(1))[0]
    assert abs(row.value - 0.5) < 4 * row.error
    assert row.p_value is None


def test_a_chain_is_thinned_and_cut_into_units_that_are_apart():
    n, tau = 20_000, 4.5
    batch = autoregressive(n, 0.8, seed=1)
    selected = Comparison(Normal(), batch).once(select)["generated"]
    step = int(np.diff(selected.rows).min())
    assert step == pytest.approx(2 * tau, abs=1.5)
    counts = np.bincount(selected.unit)
    assert set(counts[1:-1]) == {LENGTH - 1}
    begins = np.flatnonzero(np.diff(selected.unit)) + 1
    assert (np.diff(selected.rows)[begins - 1] == 2 * step).all()
    assert not selected.alone


def test_chains_shorter_than_their_memory_are_units():
    batch = autoregressive(20, 0.9, seed=2, n_chains=60)
    shuffled = np.random.default_rng(0).permutation(len(batch.x))
    batch = batch[torch.from_numpy(shuffled[np.argsort(shuffled % 20, kind="stable")])]
    selected = Comparison(Normal(), batch).once(select)["generated"]
    labels = batch.chain.numpy()[selected.rows]
    assert len(np.unique(selected.unit)) == 60
    assert len(set(zip(labels.tolist(), selected.unit.tolist(), strict=True))) == 60


def test_frozen_chains_are_units_however_long_they_are():
    modes = 3 * torch.from_numpy(np.random.default_rng(0).choice([-1.0, 1.0], 40))
    x = modes.repeat_interleave(100)[:, None] + draw(4000, 1).x
    frozen = Batch(x, chain=torch.arange(40).repeat_interleave(100))
    comparison = compare(frozen)
    selected = comparison.once(select)["generated"]
    assert len(np.unique(selected.unit)) == 40
    card = judge(comparison, [Means()])
    assert any("do not mix" in warning for warning in card.warnings)


def test_too_short_chains_get_no_score_and_the_card_says_so():
    metrics = [ClassifierTest(maximum=0.9), NearestNeighbour(), Frechet(), Coverage(), Means()]
    card = judge(compare(autoregressive(400, 0.98, seed=3)), metrics)
    unscored = [row for row in card.rows if "independent samples" in row.warning]
    assert len(unscored) == 4
    assert {(row.value, row.verdict) for row in unscored} == {(None, "info")}
    with pytest.raises(NotMeasurable, match=r"400 rows in 1, tau_int .* run longer chains"):
        _ = compare(autoregressive(400, 0.98, seed=3)).once(select)


def test_samples_do_not_share_units_unless_they_are_paired():
    comparison = compare(draw(50, 3))
    units = [selected.unit for selected in comparison.once(select).values()]
    assert len(np.unique(np.concatenate(units))) == 150
    paired = compare(draw(50, 3), paired=frozenset({"generated"})).once(select)
    np.testing.assert_array_equal(paired["generated"].unit, paired["truth"].unit)
    assert not set(paired["floor"].unit) & set(paired["truth"].unit)


@pytest.mark.slow
def test_scores_of_exact_chains_are_calibrated():
    """Pulls of AUC and of the nearest neighbours' accuracy over 200 exact chains."""
    metrics = [ClassifierTest(model="boosted"), NearestNeighbour(n=1000)]
    pulls = {metric: [] for metric in metrics}
    for seed in range(200):
        comparison = chained(seed)
        for metric, found in pulls.items():
            row = metric.rows(comparison)[0]
            found.append((row.value - 0.5) / row.error)
    for found in pulls.values():
        # Errors of ten halves, or of few units, are known to 25%: the pulls are a little wider.
        assert abs(np.mean(found)) < 4 / np.sqrt(200)
        assert np.std(found) == pytest.approx(1.0, abs=0.25)
