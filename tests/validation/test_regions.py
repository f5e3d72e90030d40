"""Regions are named where a half that had no part in the choice confirms them, and nowhere else."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, norm

from physgen.batch import Batch, Schema, Variable
from physgen.validation.boxes import Box, Side
from physgen.validation.comparison import Comparison
from physgen.validation.judging import judge
from physgen.validation.regions import Regions, _Half, _of_counts, _of_sums


class Layers:
    """Two energies and a count, at an energy."""

    schema = Schema((3,), (Variable("x"),), (Variable("E_inc", "MeV"),))
    derived = {}  # noqa: RUF012
    units = {"E_1": "MeV", "E_2": "MeV"}  # noqa: RUF012

    def observables(self, batch):
        e_1, e_2, n = batch.x.T
        return {"E_1": e_1, "E_1^2": e_1**2, "E_2": e_2, "n": n}


def showers(n, seed):
    """A layer that is empty in a quarter, and a count: (n, 3), and (n,) energies."""
    rng = np.random.default_rng(seed)
    energy = rng.uniform(0, 10_000, n)
    first = np.where(rng.random(n) < 0.25, 0.0, rng.exponential(100, n))
    return np.stack([first, rng.exponential(50, n), rng.poisson(5, n)], 1), energy


def batch(x, energy, weight=None):
    weight = None if weight is None else torch.from_numpy(weight)
    return Batch(torch.from_numpy(x), condition=torch.from_numpy(energy)[:, None], weight=weight)


def found(spoil=None, n=4000, seed=0, groups=None, **changes):
    """Set a sample that is spoilt beside one that is not."""
    truth, ours = batch(*showers(n, [seed, 1])), showers(n, [seed, 2])
    ours = batch(*(ours if spoil is None else spoil(*ours, np.random.default_rng([seed, 3]))))
    comparison = Comparison(Layers(), ours, truth, groups=groups or {}, seed=seed, **changes)
    return Regions().rows(comparison)


def tripled(x, energy, rng):
    """Three times as many showers of 20 to 30 MeV in the second layer below 2 GeV."""
    inside = (x[:, 1] > 20) & (x[:, 1] < 30) & (energy < 2000)
    rows = np.concatenate([np.arange(len(x)), *2 * [np.flatnonzero(inside)]])
    rows = rng.choice(rows, len(x), replace=False)
    return x[rows], energy[rows]


def test_a_region_is_named_with_its_ratio():
    rows = found(tripled, n=8000)
    assert [row.name.partition(" between ")[0] for row in rows] == ["region: E_2"]
    row = rows[0]
    assert "E_inc below " in row.name
    assert "MeV" in row.name
    low, high = (float(x) for x in row.note.split("(")[1].split(")")[0].split(" to "))
    # The others are fewer by the share of what was added, and the ends of the range are not exact.
    assert low < 3 / (1 + 2 * 0.2 * (math.exp(-0.4) - math.exp(-0.6))) < high + 0.2
    assert low < row.value < high
    assert "x too many" in row.note
    assert row.p_value < 1e-6
    assert abs(row.floor - 1) < 4 * row.floor_error


def test_a_missing_mode_of_one_percent_is_named():
    def missing(x, energy, rng):
        keep = ~((x[:, 0] > 250) & (x[:, 1] < 15))
        return x[keep], energy[keep]

    rows = found(missing, n=20_000)
    assert len(rows) == 1
    assert "E_1 above" in rows[0].name
    assert "E_2 below" in rows[0].name
    assert rows[0].value < 0.03
    ends = [float(word) for word in rows[0].name.split() if word.replace(".", "").isdigit()]
    assert ends == pytest.approx([250, 15], rel=0.03)


def test_values_of_their_own_are_told_from_those_beside_them():
    def empty(x, energy, rng):
        x[:, 0] = np.where((x[:, 0] > 0) & (x[:, 0] < 10), 0.0, x[:, 0])
        return x, energy

    row = found(empty)[0]
    assert row.name.startswith("region: E_1 above 0 and below ")
    assert float(row.name.split()[-2]) == pytest.approx(10, rel=0.06)
    assert row.note.startswith("none of the ")

    def few(x, energy, rng):
        return np.where((x == 7) & (rng.random(x.shape) < 0.9), 6, x), energy

    assert "n between 6.5 and 7.5" in [row.name.removeprefix("region: ") for row in found(few)]


def test_samples_that_agree_have_no_region():
    named = [found(seed=seed, n=600)[0] for seed in range(25)]
    assert {row.name for row in named} == {"regions"}
    assert all(row.value == 0 and row.verdict == "info" for row in named)


def test_rows_of_one_group_are_counted_as_one():
    """Of ten rows each, an excess of a few groups is none."""

    def repeated(x, energy, rng):
        return np.repeat(x[:400], 10, 0), np.repeat(energy[:400], 10)

    groups = {"generated": -1 - np.arange(400).repeat(10)}
    named = [found(repeated, seed=s, groups=groups)[0].name for s in range(3)]
    assert set(named) == {"regions"}
    assert found(repeated, seed=0)[0].name != "regions"


def test_weights_of_either_sign_are_honoured():
    """Rows that weights take away again are no excess; weights of 3 are one."""

    def cancelled(x, energy, rng):
        extra = rng.choice(np.flatnonzero(energy < 2000), 600)
        rows = np.concatenate([np.arange(len(x)), extra, extra])
        weight = np.repeat([1.0, 1.0, -1.0], [len(x), 600, 600])
        return x[rows], energy[rows], weight

    named = [found(cancelled, seed=s)[0].name for s in range(6)]
    assert set(named) == {"regions"}

    def weighted(x, energy, rng):
        return x, energy, np.where((x[:, 0] > 200) & (energy < 2000), 3.0, 1.0)

    row = found(weighted, n=20_000)[0]
    assert "E_1" in row.name
    assert row.value == pytest.approx(3.0, abs=4 * row.error)


def test_pairs_stay_in_one_half_and_the_verdict_counts_the_region():
    truth = batch(*showers(4000, 5))
    x, _ = showers(4000, 6)
    x[:, 1] = np.where(truth.condition[:, 0] < 2000, 2 * x[:, 1], x[:, 1])
    ours = batch(x, truth.condition[:, 0].numpy())
    comparison = Comparison(Layers(), ours, truth, paired=frozenset({"generated"}))
    card = judge(comparison, [Regions()], tested=True)
    assert card.verdict == "fail"
    assert any("E_inc below" in row.name and "E_2" in row.name for row in card.rows)


@pytest.mark.parametrize(("k", "rest"), [(30, 10), (3, 40), (0, 25), (25, 0)])
def test_ratio_interval_and_p_value_are_exact(k, rest):
    ratio = _of_counts((k, 1000), (rest, 500))
    test = binomtest(k, k + rest, 2 / 3)
    low, high = test.proportion_ci(method="exact")
    assert ratio.low == pytest.approx(low / (1 - low) / 2)
    assert ratio.high == (pytest.approx(high / (1 - high) / 2) if high < 1 else math.inf)
    one_sided = min(
        binomtest(k, k + rest, 2 / 3, alternative=side).pvalue for side in ("less", "greater")
    )
    assert ratio.p_value == pytest.approx(min(1, 2 * one_sided))
    if rest:
        assert ratio.value == pytest.approx(k / rest / 2)


def test_ranges_hold_what_they_say():
    values = {"E": np.array([0.0, 5e-324, 9.0, 10.0, np.nan])}
    for low, high, expected, text in (
        (0.0, math.nextafter(0, 1), [1, 0, 0, 0, 0], "E = 0 MeV"),
        (math.nextafter(0, 1), 10.0, [0, 1, 1, 0, 0], "E above 0 and below 10 MeV"),
        (10.0, math.inf, [0, 0, 0, 1, 0], "E above 10 MeV"),
        (-math.inf, math.inf, [1, 1, 1, 1, 0], "E defined"),
        (math.nan, math.nan, [0, 0, 0, 0, 1], "E not defined"),
    ):
        box = Box((Side("E", low, high, "MeV"),))
        assert box.holds(values).tolist() == [bool(x) for x in expected]
        assert str(box) == text


@pytest.mark.slow
def test_no_region_is_named_in_more_than_three_of_a_thousand():
    named = [found(seed=seed, n=1000)[0].name for seed in range(400)]
    # Bonferroni's level is .0027 a repetition: 1.1 of 400, and 6 with less than .1%.
    assert sum(name != "regions" for name in named) <= 6


@pytest.mark.slow
def test_intervals_cover_though_the_region_was_chosen():
    """The chosen box is anything that departs; its true ratio is that of many showers."""
    reference = {
        "truth": showers(400_000, 77),
        "ours": tripled(*showers(400_000, 78), np.random.default_rng(1)),
    }
    columns = {
        k: {"E_1": x[:, 0], "E_2": x[:, 1], "n": x[:, 2], "E_inc": e}
        for k, (x, e) in reference.items()
    }
    covered = []
    for seed in range(100):
        for row in found(tripled, n=5000, seed=seed):
            if row.name == "regions":
                continue
            box = _parsed(row.name.removeprefix("region: "))
            true = box.holds(columns["ours"]).mean() / box.holds(columns["truth"]).mean()
            low, high = (float(x) for x in row.note.split("(")[1].split(")")[0].split(" to "))
            covered.append(low <= true <= high)
    # Named only where it is confirmed, which favours large ratios: 95% less a few per cent.
    assert len(covered) > 80
    assert np.mean(covered) > 0.88


def _parsed(text):
    sides = []
    for part in text.split(", "):
        words = part.split()
        numbers = [float(w) for w in words if w.replace(".", "").replace("e-", "").isdigit()]
        bounds = {
            "below": (-math.inf, numbers[-1]),
            "above": (numbers[0], math.inf),
            "between": (numbers[0], numbers[-1]),
        }[words[1]]
        if words[1] == "above" and "below" in words:
            bounds = (math.nextafter(numbers[0], math.inf), numbers[1])
        sides.append(Side(words[0], *bounds))
    return Box(tuple(sides))


class Normals:
    """Three normal columns."""

    schema = Schema((3,), (Variable("x"),))
    derived = {}  # noqa: RUF012

    def observables(self, batch):
        return dict(zip("abc", batch.x.unbind(1), strict=True))


def rows_with_weights(n, inside):
    """Return rows, and that the first `inside` of them lie in a box."""
    generator = np.random.default_rng(n)
    half = _Half({}, generator.uniform(0.5, 1.5, n), np.arange(n), counted=False)
    return half, np.arange(n) < inside


@pytest.mark.parametrize(("inside", "surprising"), [(60, False), (400, True)])
def test_variances_of_weighted_rows_in_a_box_are_those_of_the_hypothesis(inside, surprising):
    """Of 5000 rows 1.2% or 8% lie in it, none of the true: 3.6 or 24 are expected of 300."""
    ratio = _of_sums(rows_with_weights(5000, inside), rows_with_weights(300, 0))
    assert ratio.value == math.inf if surprising else ratio.p_value == 1.0
    if surprising:
        pooled, worth = 400 / 5300, 12 / 13  # Of a weighted row: (sum w)^2 / (n sum w^2).
        error = np.sqrt(pooled * (1 - pooled) * (1 / 5000 + 1 / 300) / worth)
        assert norm.isf(ratio.p_value / 2) == pytest.approx(400 / 5000 / error, rel=0.03)


@pytest.mark.slow
def test_a_region_without_weighted_true_rows_by_chance_is_not_named():
    """A few hundred weighted true rows: boxes of 1% hold none in a fifth of the cases."""
    named = 0
    for seed in range(40):
        ours, truth = (np.random.default_rng([seed, i]) for i in (1, 2))
        weighted = Batch(
            torch.from_numpy(truth.normal(size=(300, 3))),
            weight=torch.from_numpy(truth.uniform(0.5, 1.5, 300)),
        )
        made = Batch(torch.from_numpy(ours.normal(size=(5000, 3))))
        rows = Regions().rows(Comparison(Normals(), made, weighted, seed=seed))
        named += rows[0].name != "regions"
    assert named <= 1  # Two of 40 have a probability of .005.
