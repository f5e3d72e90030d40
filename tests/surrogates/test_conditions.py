"""Conditions of the training data: drawn from, and others refused by name."""

import pytest
import torch

from physgen.batch import Schema, Variable
from physgen.errors import DomainError
from physgen.surrogates.conditions import ConditionPrior

ENERGY = Variable("energy", "GeV", low=0.0)
LABEL = Variable("label", domain="integer", low=0, high=9)


def prior(values):
    found = ConditionPrior(Schema((1,), (Variable("x"),), (ENERGY, LABEL)), size=64)
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
        ([1.5, 8.0], r"label = 8 .* is outside"),
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


def test_labels_come_back_with_the_weights():
    found, other = prior([[1.0, 3.0], [2.0, 7.0]]), prior([[0.0, 0.0], [9.0, 9.0]])
    other.load_state_dict(found.state_dict())
    with pytest.raises(DomainError, match="is not a label"):
        other.check(torch.tensor([[1.0, 5.0]]))


def test_labels_beyond_what_is_said_of_them_are_refused():
    with pytest.raises(DomainError, match=r"label runs from 3 to 12"):
        prior([[1.0, 3.0], [2.0, 12.0]])
