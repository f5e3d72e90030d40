"""Truth against truth: verdicts are wrong as rarely as stated. Planted faults: they are found."""

import numpy as np
import pytest
import torch
from scipy import stats
from toy import Normal

from physgen.batch import Batch
from physgen.validation.comparison import Comparison
from physgen.validation.judging import judge
from physgen.validation.metrics import (
    ClassifierTest,
    Correlations,
    Frechet,
    Histograms,
    MaximumMeanDiscrepancy,
    Means,
)
from physgen.validation.sample import Sample

METRICS = (Means(), Histograms(), Correlations(), MaximumMeanDiscrepancy(n=300), Frechet())
REPEATS = 200


def normal(seed, n=600):
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((n, 2))
    x[:, 1] = 0.5 * x[:, 0] + np.sqrt(0.75) * x[:, 1]
    return x


def two_modes(seed, n=600, share=0.5):
    generator = np.random.default_rng(seed)
    return normal(seed + 1, n) * 0.3 + np.where(generator.random(n) < share, 2, -2)[:, None]


def card(ours, truth, floor, **judged):
    samples = (Batch(torch.from_numpy(x)) for x in (ours, truth, floor))
    return judge(Comparison(Normal(known=False), *samples), METRICS, tested=True, **judged)


@pytest.fixture(scope="module")
def cards():
    """Files of one distribution against each other, as often as `REPEATS`."""
    return [card(*(normal([REPEATS, seed, role]) for role in range(3))) for seed in range(REPEATS)]


@pytest.mark.slow
def test_files_of_one_distribution_fail_as_rarely_as_stated(cards):
    failed = sum(found.verdict == "fail" for found in cards)
    assert failed <= stats.binom.isf(1e-3, REPEATS, 0.0027)
    assert all(found.verdict in ("pass", "fail") for found in cards)


@pytest.mark.slow
def test_every_row_is_calibrated(cards):
    """Copies are rare, and bins are looked at all together: these may come more rarely."""
    names = [row.name for row in cards[0].rows if row.p_value is not None and "bin" not in row.name]
    for name in names:
        found = np.array([one[name].p_value for one in cards])
        for level in (0.2, 0.05, 0.0027):
            share = 1e-3 / len(names)
            low, high = (
                stats.binom.ppf(share, REPEATS, level),
                stats.binom.isf(share, REPEATS, level),
            )
            rare = name.startswith("rows")
            assert (0 if rare else low) <= (found <= level).sum() <= high, (name, level)
    names = {row.name.split(", bin")[0] for row in cards[0].rows if ", bin" in row.name}
    for name in names:
        found = np.array(
            [r.p_value for c in cards for r in c.rows if r.name.startswith(f"{name}, bin")]
        )
        assert len(found) == REPEATS
        assert (found <= 0.2).sum() <= stats.binom.isf(1e-3, REPEATS, 0.2)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["neural", "boosted"])
def test_classifiers_are_calibrated(model):
    test = ClassifierTest(model=model, epochs=2)
    pulls = []
    for seed in range(REPEATS):
        found = test.test(*(Sample(normal([i, seed], 500)) for i in (1, 2)), seed=seed)
        pulls.append((found.auc.value - 0.5) / found.auc.error)
    off = np.abs(pulls)
    for sigmas in (1, 2, 3):
        level = 2 * stats.norm.sf(sigmas)
        low, high = stats.binom.interval(0.999, REPEATS, level)
        assert low <= (off >= sigmas).sum() <= high, sigmas


@pytest.mark.parametrize("fault", ["a lost mode", "scale", "copies", "width"])
def test_planted_faults_fail(fault):
    truth, floor, ours = (two_modes(seed) for seed in (10, 20, 30))
    if fault == "a lost mode":
        ours = two_modes(30, share=0.02)
    elif fault == "scale":
        ours = ours * 1.15
    elif fault == "copies":
        ours[:60] = ours[60:120]
    else:
        ours += 0.9 * np.random.default_rng(0).standard_normal(ours.shape)
    found = card(ours, truth, floor)
    assert found.verdict == "fail", fault
    assert (fault != "copies") or "repeat others" in found.warnings[0]


def test_what_has_no_fault_passes():
    assert card(*(two_modes(seed) for seed in (30, 10, 20))).verdict == "pass"
