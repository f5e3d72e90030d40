"""Bounded columns: bijective inside their ranges, never at the ends, honest about the density."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError, RecipeError
from physgen.transforms.affine import Standardise
from physgen.transforms.base import Chain
from physgen.transforms.bounded import Bounded
from physgen.transforms.domains import to_domain

COLUMNS = (
    Variable("phi", domain="angle"),
    Variable("mass", "GeV", "non-negative"),
    Variable("debt", high=5.0),
    Variable("free"),
)
SCHEMA = Schema((4,), COLUMNS)


def rows(n=1000):
    noise = torch.Generator().manual_seed(0)
    u = torch.rand(n, 4, generator=noise, dtype=torch.float64)
    return torch.stack(
        [math.pi * (2 * u[:, 0] - 1), -u[:, 1].log(), 5 + u[:, 2].log(), u[:, 3] - 0.5], 1
    )


def test_a_uniform_angle_is_normal():
    phi = Bounded(SCHEMA)(Batch(rows(20_000)))[0].x[:, 0]
    assert phi.mean().abs() < 5 / 20_000**0.5
    assert (phi.square().mean() - 1).abs() < 5 * (2 / 20_000) ** 0.5


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-30, 30), min_size=4, max_size=4))
def test_whatever_is_drawn_lies_inside_in_single_precision_too(drawn):
    transform = Bounded(SCHEMA)
    y = torch.tensor([drawn], dtype=torch.float64, requires_grad=True)
    x = transform.inverse(Batch(y)).x
    (gradient,) = torch.autograd.grad(x.sum(), y)
    assert gradient.isfinite().all()
    x = x[0].float()
    assert x[0].abs() < math.pi
    assert x[1] > 0
    assert x[2] <= 5


def test_faults_are_named():
    with pytest.raises(RecipeError, match="n is integer"):
        Bounded(Schema((1,), (Variable("n", domain="integer"),)))
    x = rows()
    x[7, 1] = 0
    with pytest.raises(DomainError, match=r"mass = 0 \(row 7\) is not inside its range 0 to inf"):
        Bounded(SCHEMA).fit(Batch(x))
    x[7, 1], x[3, 0] = 1, 4
    with pytest.raises(DomainError, match=r"phi = 4 \(row 3\)"):
        Bounded(SCHEMA).fit(Batch(x))


MIXED = Schema(
    (6,),
    (
        Variable("adc", domain="integer", dtype="uint8"),
        Variable("hits", domain="integer", dtype="uint16"),
        Variable("phi", domain="angle"),
        Variable("pt", low=0.0),
        Variable("spin", domain="spin"),
        Variable("second", low=25.0, present="hits >= 2"),
    ),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=6, max_size=6))
def test_whatever_a_network_draws_is_brought_into_the_ranges(drawn):
    chain = Chain([Standardise(MIXED)], MIXED)
    adc, hits, phi, pt, spin, second = chain.inverse(Batch(torch.tensor([drawn]))).x[0].tolist()
    assert adc == round(adc)
    assert 0 <= adc <= 255
    assert hits == round(hits)
    assert 0 <= hits <= 65535
    assert -math.pi <= phi <= math.pi
    assert math.isclose(math.cos(phi), math.cos(drawn[2]), abs_tol=1e-2)
    assert pt >= 0
    assert spin in (-1, 1)
    assert second == pytest.approx(drawn[5], rel=1e-6)


def test_what_is_in_range_is_left_alone():
    x = torch.tensor([[255.0, 0.0, math.pi, 3.25, -1.0, 0.0]], dtype=torch.float64)
    assert torch.equal(to_domain(x, MIXED), x)


def test_without_a_transform_values_stay_in_their_domain_too():
    angle = Variable("phi", "rad", "angle")
    x = Chain([], Schema((2,), (angle,))).inverse(Batch(torch.tensor([[4.0, -7.0]]))).x
    torch.testing.assert_close(x, torch.tensor([[4.0 - 2 * math.pi, -7.0 + 2 * math.pi]]))
    links = Schema((1, 2, 2, 2), (Variable("U", domain="special-unitary"),))
    raw = torch.randn(5, 1, 2, 2, 2, generator=torch.Generator().manual_seed(1))
    u = torch.view_as_complex(Chain([], links).inverse(Batch(raw)).x.contiguous())
    torch.testing.assert_close(u @ u.mH, torch.eye(2, dtype=u.dtype).expand_as(u))
