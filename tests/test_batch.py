"""Schemas: what a variable may be, and data that are something else."""

import math

import pytest
import torch

from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError
from physgen.surrogates.flows.flow import Flow
from physgen.transforms.base import Chain


def test_ranges_follow_from_domain_type_and_what_is_said():
    assert Variable("a").range == (-math.inf, math.inf)
    assert Variable("a", domain="non-negative", high=5.0).range == (0, 5)
    assert Variable("a", domain="non-negative", low=-5.0).range == (0, math.inf)
    assert Variable("a", domain="integer", dtype="uint8").range == (0, 255)
    assert Variable("a", domain="integer", dtype="uint8", low=3.0).range == (3, 255)
    assert Variable("a", domain="angle").range == (-math.pi, math.pi)


@pytest.mark.parametrize(("low", "high"), [(0.5, None), (None, 8.5), (20.0, 30.0)])
def test_data_beyond_what_is_said_of_them_are_refused_before_training(low, high):
    schema = Schema((2,), (Variable("b"), Variable("a", low=low, high=high)))
    x = torch.arange(20.0).reshape(10, 2) % 11
    with pytest.raises(
        DomainError, match=r"a is declared to have .*, and the data hold .* correct"
    ):
        Flow(schema, Chain()).initialise(Batch(x))


def test_absent_columns_and_rounded_bounds_are_let_pass():
    x = torch.tensor([[1.0, 0.0, math.pi], [2.0, 30.0, -math.pi]])
    second = Variable("b", low=25.0, present="n >= 2")
    angle = Variable("phi", low=-3.1415927, high=3.1415927)
    Schema((3,), (Variable("n"), second, angle)).check(x)
