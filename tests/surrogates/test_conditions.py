"""Conditions of the training data: drawn from, and others refused by name."""

import pytest
import torch

from physgen.batch import Schema, Variable
from physgen.errors import DomainError
from physgen.surrogates.conditions import ConditionPrior

ENERGY = Variable("energy", "GeV", low=0.0)
LABEL = Variable("label", domain="integer", low=0, high=9)


def prior(values):
    found = ConditionPrior(Schema((1,), (Variable("x"),), (ENERGY, LABEL)))
    found.fit(torch.tensor(values))
    return found


def test_drawn_are_the_conditions_seen_and_the_seed_decides():
    found = prior([[1.0, 3.0], [2.0, 7.0]])
    drawn = found.draw(500, torch.Generator().manual_seed(1))
    assert {tuple(row) for row in drawn.tolist()} == {(1.0, 3.0), (2.0, 7.0)}
    assert torch.equal(drawn, found.draw(500, torch.Generator().manual_seed(1)))
    found.check(drawn)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ([2.5, 3.0], "energy = 2.5 GeV .row 1. is outside"),
        ([float("nan"), 3.0], "energy = nan"),
        ([1.5, 8.0], r"label = 8 .row 1. is not a label of the training data"),
        ([1.5, 5.0], r"label = 5 .row 1. is not a label of the training data, which had \[3, 7\]"),
        ([1.5, 3.4], r"label = 3\.4 .row 1. is not a label"),
    ],
)
def test_what_was_not_seen_is_refused_with_its_row(row, said):
    found = prior([[1.0, 3.0], [2.0, 7.0]])
    with pytest.raises(DomainError, match=said):
        found.check(torch.tensor([[1.0, 7.0], row]))


@pytest.mark.parametrize(
    ("variable", "values", "domain"),
    [
        (Variable("x"), (-10.0, 90.0), (-15.0, 95.0)),
        (Variable("x", low=-11.0, high=200.0), (-10.0, 90.0), (-11.0, 95.0)),
        (Variable("x", domain="non-negative"), (1.05, 100.0), (1.0, 105.0)),
        (Variable("x", domain="non-negative", low=0.0, high=50.0), (0.0, 100.0), (0.0, 100.0)),
        (Variable("x", domain="integer"), (2.0, 7.0), (2.0, 7.0)),
    ],
)
def test_the_domain_goes_a_little_further_than_the_data(variable, values, domain):
    found = ConditionPrior(Schema((1,), (Variable("y"),), (variable,)))
    found.fit(torch.tensor(values)[:, None])
    torch.testing.assert_close((found.low.item(), found.high.item()), domain)


def test_what_single_precision_does_not_resolve_is_refused():
    """Seconds since 1970, of which neighbouring numbers in single precision are 128 apart."""
    found = ConditionPrior(Schema((1,), (Variable("x"),), (Variable("time", "s"),)))
    time = 1.7e9 + torch.linspace(0, 5, 20, dtype=torch.float64)[:, None]
    with pytest.raises(DomainError, match=r"condition time varies by 5 .*subtract an offset"):
        found.fit(time)
    found.fit(time - 1.7e9)
    found.fit(torch.full((20, 1), 1.7e9 + 3, dtype=torch.float64))


def test_labels_come_back_with_the_weights():
    found, other = prior([[1.0, 3.0], [2.0, 7.0]]), prior([[0.0, 0.0], [9.0, 9.0]])
    other.load_state_dict(found.state_dict())
    with pytest.raises(DomainError, match="is not a label"):
        other.check(torch.tensor([[1.0, 5.0]]))


def test_labels_beyond_what_is_said_of_them_are_refused():
    with pytest.raises(DomainError, match=r"label runs from 3 to 12"):
        prior([[1.0, 3.0], [2.0, 12.0]])


def energies(n, seed=0):
    return 1000 * torch.randn(n, 1, generator=torch.Generator().manual_seed(seed)).exp()


def one(variable=ENERGY):
    return ConditionPrior(Schema((1,), (Variable("x"),), (variable,)))


def test_as_many_distinct_energies_are_drawn_as_are_asked_for_with_the_distribution_of_the_rows():
    rows = energies(3000)
    found = one()
    found.fit(rows)
    drawn = found.draw(35_000, torch.Generator().manual_seed(1))
    # But for the two at the ends, and what float32 cannot tell apart: one in a hundred.
    assert len(drawn.unique()) > 0.99 * 35_000
    found.check(drawn)
    level = torch.searchsorted(rows[:, 0].sort().values, drawn[:, 0].sort().values) / 3000
    off = (level - torch.arange(35_000) / 35_000).abs().max()
    # Kolmogorov's distance of 35,000 draws is below 1.95 / sqrt(n) in 999 of 1000 cases.
    assert off < 1.95 / 35_000**0.5 + 1 / 3000


def test_nothing_is_drawn_from_a_gap():
    rows = torch.cat([torch.rand(500, 1), 100 + torch.rand(500, 1)])
    found = one()
    found.fit(rows)
    drawn = found.draw(50_000, torch.Generator().manual_seed(2))
    assert not ((drawn > rows[:500].max() + 0.05) & (drawn < rows[500:].min() - 0.05)).any()


def test_what_rows_share_and_labels_stay_what_they_are():
    values = torch.tensor([[256.0, 3.0], [256.0, 7.0], [512.0, 3.0], [512.0, 7.0]])
    rows = torch.cat([values.repeat(100, 1), torch.tensor([[300.0, 3.0], [301.0, 3.0]])])
    found = prior(rows.tolist())
    drawn = found.draw(20_000, torch.Generator().manual_seed(3))
    assert set(drawn[:, 1].tolist()) == {3.0, 7.0}
    apart = drawn[(drawn[:, 0] != 256) & (drawn[:, 0] != 512), 0]
    assert 0 < len(apart) < 250
    assert ((apart >= 299.5) & (apart <= 301.5)).all()


def test_conditions_are_drawn_in_proportion_to_the_weights():
    found = one()
    rows = torch.cat([1 + torch.rand(1000, 1), 5 + torch.rand(1000, 1)])
    found.fit(rows, torch.tensor([1.8, 0.2]).repeat_interleave(1000))
    drawn = found.draw(20_000, torch.Generator().manual_seed(4))
    # Six binomial errors.
    assert float((drawn < 4).double().mean()) == pytest.approx(0.9, abs=6 * (0.09 / 20_000) ** 0.5)


def test_negative_weights_take_from_the_conditions_beside_them():
    found, rows = one(), torch.rand(20_000, 1, generator=torch.Generator().manual_seed(5))
    sign = torch.where(torch.rand(20_000, generator=torch.Generator().manual_seed(6)) < 0.2, -1, 1)
    weight = torch.where(rows[:, 0] < 0.5, 1.0, sign * 1.0)
    found.fit(rows, weight)
    drawn = found.draw(20_000, torch.Generator().manual_seed(7))
    target = float(weight[rows[:, 0] < 0.5].sum() / weight.sum())
    assert target > 0.6
    assert float((drawn < 0.5).double().mean()) == pytest.approx(target, abs=0.02)


def test_any_number_of_conditions_comes_back_with_the_weights():
    found, other = one(), one()
    found.fit(energies(700))
    other.fit(energies(3, seed=8))
    other.load_state_dict(found.state_dict())
    first, second = (p.draw(100, torch.Generator().manual_seed(9)) for p in (found, other))
    assert torch.equal(first, second)
    with pytest.raises(RuntimeError, match="size mismatch"):
        prior([[1.0, 3.0]]).load_state_dict(found.state_dict())


def test_a_surrogate_remembers_conditions_of_all_rows_in_double_precision_too():
    found = one().double()
    found.fit(energies(100).double())
    assert found.draw(10, torch.Generator().manual_seed(1)).dtype == torch.float64


def test_negative_weights_of_several_columns_leave_nothing_to_draw_from():
    """Conditions in several columns have no order in which one could cancel another."""
    prior = ConditionPrior(Schema((1,), (Variable("x"),), (Variable("a"), Variable("b"))))
    rows = torch.randn(200, 2, generator=torch.Generator().manual_seed(1))
    prior.fit(rows, torch.where(rows[:, 1] > 1, -1.0, 1.0))
    with pytest.raises(DomainError, match="several at once with negative event weights"):
        prior.draw(5, torch.Generator())
    prior.check(rows)
    prior.fit(rows, torch.rand(200) + 0.1)
    assert prior.draw(5, torch.Generator()).shape == (5, 2)


def test_the_domain_covers_rows_that_nothing_is_drawn_from():
    prior = ConditionPrior(Schema((1,), (Variable("x"),), (Variable("a"),)))
    prior.fit(torch.linspace(0, 1, 50)[:, None])
    with pytest.raises(DomainError, match="outside the trained domain"):
        prior.check(torch.tensor([[3.0]]))
    prior.cover(torch.tensor([[3.0], [0.5]]))
    prior.check(torch.tensor([[3.0]]))
    assert prior.draw(1000, torch.Generator().manual_seed(0)).max() <= 1.05


def test_no_extrapolation_leads_to_negative_energies():
    energy = Variable("e", "MeV", "non-negative", low=1.0, high=10.0)
    prior = ConditionPrior(Schema((1,), (Variable("x"),), (energy,)))
    prior.fit(torch.linspace(2, 9, 50)[:, None])
    prior.extrapolate = True
    prior.check(torch.tensor([[0.5], [100.0]]))
    assert "2 of 3 samples are outside" in prior.outside(torch.tensor([[0.5], [100.0], [5.0]]))
    with pytest.raises(DomainError, match=r"e = -5 MeV .*give numbers"):
        prior.check(torch.tensor([[-5.0]]))
