"""Verdicts that reassure only where they may: limits, power, alarms, files against files."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy import Normal, compare, draw

from physgen.batch import Batch, Schema, Variable
from physgen.systems.jets import Jets
from physgen.validation.comparison import Comparison
from physgen.validation.judging import holm, judge, judge_family
from physgen.validation.metrics import ClassifierTest, Histograms, Means
from physgen.validation.scorecard import Row, Scorecard, at_least, verdict_within


class Profile(Normal):
    @property
    def derived(self):
        return {}

    def observables(self, batch):
        return {"profile": batch.x}

    def exact(self):
        return {}


def profiles(limits):
    """Bin 1 is 1% off and precisely known, bin 2 is 15% off."""
    generator = np.random.default_rng(0)
    truth = generator.normal(1, [0.02, 2.0], (10_000, 2))
    ours = generator.normal([1.01, 1.15], [0.02, 2.0], (10_000, 2))
    samples = (Batch(torch.from_numpy(x)) for x in (ours, truth))
    return judge(Comparison(Profile(), *samples), limits).rows[0]


def test_a_limit_holds_for_all_bins_of_a_profile():
    row = profiles([Means(tolerance={"profile": 0.05})])
    assert (row.verdict, row.name) == ("fail", "profile, bin 2 of 2")
    assert profiles([Means()]).name == "profile, bin 1 of 2"
    assert profiles([Means()]).p_value < 1e-20
    assert profiles([Means(tolerance={"profile": 0.3})]).verdict == "pass"


def test_the_p_value_of_a_profile_is_that_of_the_least_of_its_bins():
    samples = (Batch(1 + 0.1 * draw(4000, seed).x) for seed in (11, 12))
    row = Means().rows(Comparison(Profile(), *samples))[0]
    single = math.erfc(abs(row.pull) / math.sqrt(2))
    assert row.p_value == pytest.approx(1 - (1 - single) ** 2, rel=0.01)


class Rare(Normal):
    @property
    def derived(self):
        return {}

    def observables(self, batch):
        return {"a": batch.x[:, 0]}

    def exact(self):
        return {}


def test_means_of_a_few_defined_rows_raise_no_warning_by_chance():
    def sample(seed):
        x = draw(200, seed).x
        x[3:] = math.nan
        return Batch(x)

    p_values = [
        Means().rows(Comparison(Rare(), sample(2 * seed), sample(2 * seed + 1)))[0].p_value
        for seed in range(1000)
    ]
    # Welch's test of 3 and 3 normal numbers is a little conservative; normal tails give 5.8%.
    assert np.mean(np.array(p_values) < 0.01) < 0.01 + 3 * math.sqrt(0.01 * 0.99 / 1000)


@pytest.mark.parametrize("role", ["generated", "truth"])
def test_a_profile_of_chains_that_do_not_mix_passes_nothing(role):
    generator = np.random.default_rng(0)
    samples = [generator.normal(1, 0.1, (4000, 2)) for _ in range(2)]
    mixed, stuck = (torch.from_numpy(x) for x in samples)
    chain = torch.arange(8).repeat_interleave(500)
    # Each chain stays at its own place, and their mean is right.
    stuck[:, 1] += 0.05 * (chain - 3.5)
    pair = Batch(stuck, chain=chain), Batch(mixed, chain=chain)
    comparison = Comparison(Profile(), *(pair if role == "generated" else pair[::-1]))
    row, mixing = judge(comparison, [Means(tolerance={"profile": 0.5})]).rows[:2]
    assert (row.verdict, row.p_value) == ("info", None)
    assert "chains do not mix: the means of 'profile'" in mixing.warning
    assert judge(comparison, [Means()], tested=True).rows[0].verdict == "info"


def test_a_profile_of_unusable_weights_has_no_numbers():
    weight = torch.ones(4000, dtype=torch.float64)
    weight[:3] = 1e6
    ours = Batch(torch.ones(4000, 2).double() + 0.1 * draw(4000, 4).x, weight=weight)
    row = judge(Comparison(Profile(), ours, draw(4000, 5)), [Means()]).rows[0]
    assert row.value is None
    assert "no usable weights" in row.note


@pytest.mark.parametrize("kind", ["W1", "KS", "separation"])
def test_limits_on_distances_of_profiles_honour_their_error_and_the_worst_bin(kind):
    row = next(
        r for r in Histograms().rows(compare(draw(2000, 3, shift=0.2))) if r.name == f"{kind} both"
    )
    assert row.note.startswith("bin 1, the worst of 2")
    assert row.error > 0
    assert row.p_value < 1e-3

    def verdict(limit):
        rows = Histograms(tolerance={f"{kind} both": limit}).rows(compare(draw(2000, 3, shift=0.2)))
        return next(r.verdict for r in rows if r.name == f"{kind} both")

    # The truth's standard deviation is 1 to 2%.
    assert verdict(row.value + 1.5 * row.error) == "fail"
    assert verdict(row.value + 2.5 * row.error) == "pass"


def test_a_limit_that_the_error_cannot_resolve_is_neither_passed_nor_failed():
    assert verdict_within(0.0, 0.6, 1.0) == "info"
    assert verdict_within(1.5, 0.6, 1.0) == "info"
    assert verdict_within(2.5, 0.6, 1.0) == "fail"
    assert verdict_within(0.05, 0.001, 0.04, floor=0.045) == "info"
    assert verdict_within(0.2, 0.001, 0.04, floor=0.045) == "fail"
    assert verdict_within(0.5, 0.3, 1.0) == "fail"
    assert at_least(0.98, 0.002, 0.97) == "pass"
    assert at_least(0.98, 0.02, 0.97) == "fail"
    assert at_least(float("nan"), 0.02, 0.97) == "fail"
    card = judge(compare(draw(60, 3)), [Means(tolerance={"a^2": 0.1})])
    assert card["a^2"].verdict == "info"
    assert "neither passed nor failed" in card["a^2"].warning
    assert card.headline == "info, 1 warning"


def test_a_handful_of_rows_passes_nothing():
    card = judge(compare(draw(30, 3)), [Means(tolerance={"a^2": 9.0})])
    assert card["a^2"].verdict == "info"
    assert "30 rows are too few" in card["a^2"].warning


def test_a_classifier_has_two_sigma_to_its_limit():
    test = ClassifierTest(model="boosted")
    found = test.rows(compare(draw(2000, 9, shift=0.3)))[0]

    def verdict(sigmas):
        limited = replace(test, maximum=found.value + sigmas * found.error)
        return limited.rows(compare(draw(2000, 9, shift=0.3)))[0].verdict

    assert (verdict(1.5), verdict(2.5)) == ("fail", "pass")


def test_61_test_rows_cannot_pass():
    card = judge(compare(draw(305, 9)), [ClassifierTest(model="boosted", maximum=0.7)])
    row = card["AUC, boosted classifier, low level"]
    assert "tested on 61" in row.note
    assert row.verdict == "info"
    assert "neither passed nor failed" in row.warning


def test_the_badge_stands_beside_what_differs():
    sample = draw(4000, 3, shift=0.3)
    card = judge(compare(sample), [Means(tolerance={"variance": 0.2}), Histograms()])
    assert card.verdict == "pass"
    assert card["a"].alarming
    assert card["KS a"].alarming
    assert card.headline.startswith("pass, ")
    assert "differ beyond chance" in card.warnings[-1]
    assert json.loads(card.to_json())["warnings"] == card.warnings
    assert Scorecard.from_json(card.to_json()) == card
    text = str(card)
    assert "KS a" in text, "histograms reach the terminal"
    assert "info !" in text
    good = judge(compare(draw(4000, 3)), [Means(tolerance={"variance": 0.2}), Histograms()])
    assert (good.headline, good.warnings) == ("pass", [])


def test_one_row_that_looks_at_everything_is_not_outvoted():
    many = [Row(name=str(i), metric="histograms", value=1.0, p_value=0.5) for i in range(300)]
    one = Row(name="all", metric="mmd", value=1.0, p_value=1e-4)
    assert [row.verdict for row in judge_family([*many, one])][-1] == "fail"
    assert holm([1e-4, 0.5], 0.0027, [0.01, 0.99]) == [False, False]
    # Sorted by p / w: 0.01 / 2 <= 0.05 / 4, then 0.03 > 0.05 / 2.
    assert holm([0.01, 0.03, 0.04], 0.05, [2, 1, 1]) == [True, False, False]


def test_unresolved_rows_are_no_part_of_the_family():
    rows = [Row(name="a", metric="m", value=1.0, p_value=1e-9, tolerance=2.0)]
    assert judge_family(rows)[0].verdict == "info"


class Showers(Normal):
    energy = "MeV"

    @property
    def units(self):
        return {"b": self.energy}

    @property
    def plausible(self):
        return {"a": (0.005, 5.0)}

    def observables(self, batch):
        return {"a": batch.x[:, 0], "b": batch.x[:, 1]}


def energies(seed, scale=1.0, n=500):
    x = np.random.default_rng(seed).lognormal(sigma=0.3, size=(n, 2))
    return Batch(torch.from_numpy(scale * x))


@pytest.mark.parametrize(("truth", "ours"), [(1.0, 1e-3), (1.0, 1e3), (1e-3, 1e-3)])
def test_units_that_are_mixed_up_raise_an_alarm(truth, ours):
    card = judge(Comparison(Showers(), energies(1, ours), energies(2, truth)), [])
    assert "unit" in " ".join(card.warnings)
    assert "MeV" in " ".join(card.warnings) or truth == ours


@pytest.mark.parametrize(
    ("unit", "question"),
    [
        ("GeV", "are the units of both samples the same (MeV and GeV)?"),
        ("mm", "are the units of both samples the same?"),
        ("1", "is one of the samples scaled, or normalised otherwise?"),
    ],
)
def test_energies_are_spoken_of_only_where_there_are_some(monkeypatch, unit, question):
    """A lattice field has no units."""
    monkeypatch.setattr(Showers, "energy", unit)
    (said, *_) = judge(Comparison(Showers(), energies(1, 1e-3), energies(2)), []).warnings
    assert question in said
    assert ("MeV" in said) == ("MeV" in question)


def test_units_that_agree_do_not():
    card = judge(Comparison(Showers(), energies(1, 1.5), energies(2), energies(3)), [])
    assert card.warnings == []


def test_a_sample_against_itself_raises_an_alarm():
    truth, floor = energies(1), energies(2)
    for same in (truth, floor, Batch(torch.cat([truth.x[:40], energies(3).x[40:]]))):
        card = judge(Comparison(Showers(), same, truth, floor), [], tested=True)
        assert card["rows that are in the truth"].verdict == "fail"
        assert "copies of true ones" in card.warnings[0]


def test_rows_that_repeat_raise_an_alarm():
    x = energies(3).x
    x[:30] = x[30:60]
    card = judge(Comparison(Showers(), Batch(x), energies(1), energies(2)), [])
    assert "30 of 500 rows repeat" in card.warnings[0]


def test_copies_that_are_natural_are_none():
    def spins(seed):
        x = np.random.default_rng(seed).integers(0, 2, (2000, 12)).astype(np.float32)
        x[:300] = 0  # Events without the object.
        return Batch(torch.from_numpy(x))

    for seed in range(30):
        samples = (spins(3 * seed + role) for role in range(3))
        assert judge(Comparison(Normal(known=False), *samples), []).warnings == []


def test_samples_that_are_not_defined_fail():
    """Half of the generated samples lack a number that all true ones have."""
    x = draw(2000, 3).x
    x[::2, 0] = torch.nan
    sample = Comparison(Normal(known=False), Batch(x), draw(2000, 1), draw(2000, 2))
    card = judge(sample, [Means()], tested=True)
    row = card["a is defined"]
    assert (row.value, row.exact, row.verdict) == (0.5, 1.0, "fail")
    assert "a^2" in row.note
    assert card["a"].verdict == card["b"].verdict == "pass"


def test_as_many_undefined_samples_pass():
    samples = []
    for seed in (1, 2, 3):
        x = draw(2000, seed).x
        x[np.random.default_rng(seed).random(2000) < 0.1, 0] = torch.nan
        samples.append(Batch(x))
    card = judge(Comparison(Normal(known=False), *samples), [Means()], tested=True)
    assert abs(card["a is defined"].pull) < 4
    assert card.verdict == "pass"


def test_rows_of_zeros_are_called_empty_and_not_copies():
    truth, floor, generated = draw(400, 1), draw(400, 2), draw(400, 3)
    x = generated.x.clone()
    x[7:40] = 0
    card = judge(Comparison(Normal(), Batch(x), truth, floor), [])
    assert card["empty rows"].value == 33
    assert "33 of 400 rows hold nothing but zeros, the first being row 7" in card.warnings[0]
    assert card["rows that repeat"].warning == ""
    # As many as the truth has are no alarm.
    y = truth.x.clone()
    y[:30] = 0
    card = judge(Comparison(Normal(), Batch(x), Batch(y), floor), [])
    assert card["empty rows"].warning == ""


def test_negative_values_of_a_column_that_has_none_are_said():
    columns = Variable("pt", domain="non-negative"), Variable("eta")

    class Table(Normal):
        schema = Schema((2,), columns)

    x = draw(400, 3).x
    x[:, 0] = x[:, 0].abs()
    below = x.clone()
    below[5, 0] = -1
    card = judge(Comparison(Table(), Batch(below), Batch(x + 1e-3)), [])
    fault = "'pt' is negative in 1 of 400 generated rows, the first being row 5"
    assert any(fault in warning for warning in card.warnings)
    assert "negative pt, true rows" not in [row.name for row in card.rows]


def test_padding_below_zero_is_no_negative_value():
    jets = Jets(particles=2)
    x = torch.rand(300, 2, 3, generator=torch.Generator().manual_seed(1))
    x[:, 1] = -1e6
    mask = torch.tensor([True, False]).expand(300, 2)
    batch = Batch(x, mask=mask)
    card = judge(Comparison(jets, batch, batch), [])
    assert not any(row.name.startswith("negative") for row in card.rows)
