"""Standardisation: moments, logarithms, densities, conditions."""

import math

import pytest
import torch

from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError, RecipeError
from physgen.transforms.affine import Standardise
from physgen.transforms.base import Chain

SCHEMA = Schema(
    (2,), (Variable("e", "GeV"), Variable("eta")), (Variable("energy", "GeV"), Variable("angle"))
)


def sample(n=500, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 2, generator=generator, dtype=dtype)
    c = torch.randn(n, 2, generator=generator, dtype=dtype)
    x[:, 0], c[:, 0] = (3 + 2 * x[:, 0]).exp(), (1 + c[:, 0]).exp()
    return Batch(x, c)


def test_weighted_moments_round_trip_and_log_det():
    batch = sample()
    weight = torch.rand(500, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    transform = Standardise(SCHEMA, log=("e", "energy")).double()
    transform.fit(batch.replace(weight=weight))
    y, log_det = transform(batch)
    for value in (y.x, y.condition):
        mean = weight @ value / weight.sum()
        assert mean.abs().max() < 1e-9
        assert ((weight @ value.square() / weight.sum()) - 1).abs().max() < 1e-9
    back = transform.inverse(y)
    torch.testing.assert_close(back.x, batch.x)
    torch.testing.assert_close(back.condition, batch.condition)
    torch.testing.assert_close(transform.map_condition(batch.condition), y.condition)
    jacobian = torch.autograd.functional.jacobian(
        lambda v: transform(Batch(v[None]))[0].x, batch.x[0]
    )
    torch.testing.assert_close(jacobian[0].slogdet()[1], log_det[0])


def test_a_grid_has_one_mean_and_counts_every_entry():
    schema = Schema((3, 4), (Variable("phi"),))
    x = 5 + 2 * torch.randn(100, 3, 4, generator=torch.Generator().manual_seed(0))
    transform = Standardise(schema)
    transform.fit(Batch(x))
    y, log_det = transform(Batch(x))
    assert y.x.mean().abs() < 1e-5
    torch.testing.assert_close(
        log_det[0], -12 * x.double().std(correction=0).log(), rtol=1e-4, atol=1e-4
    )


def test_chained_twice_is_still_the_identity_there_and_back():
    batch = sample()
    chain = Chain([Standardise(SCHEMA, log=("e",)), Standardise(SCHEMA)]).double()
    chain.fit(batch)
    y, _ = chain(batch)
    torch.testing.assert_close(chain.inverse(y).x, batch.x)
    torch.testing.assert_close(chain.map_condition(batch.condition), y.condition)


def test_faults():
    with pytest.raises(RecipeError, match="did you mean 'energy'"):
        Standardise(SCHEMA, log=("enrgy",))
    batch = sample()
    batch.x[7, 0] = 0.0
    with pytest.raises(DomainError, match=r"e = 0 \(row 7\)"):
        Standardise(SCHEMA, log=("e",)).fit(batch)


def test_times_that_single_precision_does_not_hold():
    schema = Schema((1,), (Variable("time", "s", dtype="float64"),))
    noise = torch.randn(2000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = 1.7e9 + 5 * noise
    chain = Chain([Standardise(schema)], schema).float()
    chain.fit(Batch(x))
    y, log_det = chain(Batch(x))
    assert y.x.dtype == log_det.dtype == torch.float32
    assert (y.x.std() - 1).abs() < 1e-3
    torch.testing.assert_close(chain.inverse(y).x, x, rtol=0, atol=1e-5)


def test_derivatives_of_values_beyond_the_range_of_the_exponential_are_finite():
    transform = Standardise(Schema((2,), (Variable("x"), Variable("E"))), log=("E",))
    transform.fit(Batch(torch.tensor([[700.0, 1.0], [900.0, 10.0]])))
    z = torch.full((1, 2), 2.0, dtype=torch.double, requires_grad=True)
    x = transform.inverse(Batch(z)).x
    assert x[0, 0].item() == pytest.approx(1000)
    slope = torch.autograd.grad(x.sum(), z)[0]
    assert slope[0].tolist() == pytest.approx([100.0, x[0, 1].item() * math.log(10) / 2], rel=1e-5)
