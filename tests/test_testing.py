"""Components that are wrong are found by `physgen.testing`, which says what is wrong."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError
from physgen.surrogates.flows.bijection import Bijection
from physgen.surrogates.flows.stack import CouplingStack
from physgen.systems.base import Derived
from physgen.testing import check_bijection, check_system


class Scale(Bijection):
    """x exp(s + c), which may be wrong in one way."""

    def __init__(self, features, n_condition=0, *, fault=""):
        super().__init__(features, n_condition)
        self.s, self.fault = nn.Parameter(torch.zeros(features)), fault

    def forward(self, x, condition=None):
        s = self.s + (0 if condition is None or self.fault == "condition" else condition[:, :1])
        s = s.expand(len(x), -1)
        z = x * s.exp()
        z = z + (x.mean(0) if self.fault == "mix" else 0)
        return z, s.sum(-1) * (2 if self.fault == "log-determinant" else 1)

    def inverse(self, z, condition=None):
        s = self.s + (0 if condition is None or self.fault == "condition" else condition[:, :1])
        s = s.expand(len(z), -1) * (0.9 if self.fault == "inverse" else 1)
        x = z * (-s).exp()
        if self.fault == "mix":
            x = z @ torch.zeros_like(z.T @ z) + x
        return x, -s.sum(-1) * (2 if self.fault == "log-determinant" else 1)


def test_what_is_right_passes_and_is_left_as_it_was():
    bijection = CouplingStack(3, 2)
    before = [parameter.clone() for parameter in bijection.parameters()]
    check_bijection(bijection)
    check_bijection(Scale(2, 1))
    assert all(map(torch.equal, before, bijection.parameters()))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("inverse", "does not undo"),
        ("log-determinant", "not that of the map"),
        ("condition", "no difference"),
        ("mix", "does not undo|mix"),
    ],
)
def test_a_bijection_that_is_wrong_is_found(fault, said):
    with pytest.raises(AssertionError, match=said):
        check_bijection(Scale(2, 1, fault=fault))


@dataclass(frozen=True, kw_only=True)
class Normal:
    fault: str = ""

    @property
    def schema(self):
        return Schema((2,), (Variable("x", low=-50.0, high=50.0),))

    @property
    def derived(self):
        return {"width": Derived(("square",), lambda m: m[0])} if self.fault == "derived" else {}

    @property
    def units(self):
        return {"sum": "GeV"} | ({"some": "GeV"} if self.fault == "unit" else {})

    def observables(self, batch):
        return {"sum": batch.x.sum() if self.fault == "observable" else batch.x.sum(-1)}

    def features(self, batch, level):
        return batch.x / 0 if self.fault == "feature" else batch.x

    def simulate(self, n, seed, condition=None):
        generator = torch.Generator().manual_seed(0 if self.fault == "seed" else seed)
        x = torch.randn(n, 2, generator=generator)
        return Batch(100 * x if self.fault == "domain" else x)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("derived", r"'width' is made of \['square'\]"),
        ("unit", r"units of \['some'\]"),
        ("observable", "observable 'sum' is of shape"),
        ("feature", "features 'low' are not finite"),
        ("seed", "another seed gives the same samples"),
        ("domain", "declared to have"),
    ],
)
def test_a_system_that_is_wrong_is_found(fault, said):
    check_system(Normal())
    with pytest.raises((AssertionError, DomainError), match=said):
        check_system(Normal(fault=fault))
