"""One rule of drawing samples: seeds, generators, and pieces that bound the memory."""

import pytest
import torch

from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError, InputError
from physgen.surrogates.base import Surrogate

SCHEMA = Schema((2,), (Variable("x"), Variable("y")), (Variable("t"),))


class Noise(Surrogate):
    """Adds the condition to noise, and says how many it was asked for."""

    at_once = 10
    noise_shape = (2,)

    def __init__(self, schema=SCHEMA):
        super().__init__(schema)
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.asked = []

    def from_noise(self, noise, condition=None):
        self.asked.append(len(noise))
        return self.weight * noise + (0 if condition is None else condition)


def made(schema=SCHEMA):
    surrogate = Noise(schema)
    if schema.condition:
        surrogate.conditions.fit(torch.tensor([[0.0], [9.0]]))
    return surrogate


def test_memory_is_bounded_and_conditions_keep_their_rows():
    surrogate, condition = made(), torch.arange(25.0)[:, None] / 3
    batch = surrogate.sample(25, condition, seed=4)
    assert surrogate.asked == [10, 10, 5]
    assert torch.equal(batch.condition, condition)
    generator = torch.Generator().manual_seed(4)
    noise = torch.cat([torch.randn(n, 2, generator=generator) for n in (10, 10, 5)])
    torch.testing.assert_close(batch.x, noise + condition)
    assert not batch.x.requires_grad
    surrogate.at_once = None
    surrogate.sample(25, condition, seed=4)
    assert surrogate.asked[-1] == 25


def test_a_seed_is_a_generator_of_that_seed():
    first = made().sample(7, seed=3).x
    again = made().sample(7, generator=torch.Generator().manual_seed(3)).x
    assert torch.equal(first, again)
    assert not torch.equal(first, made().sample(7, seed=5).x)
    assert len(made().sample(0, seed=1)) == 0


def test_what_is_random_must_be_said_once():
    for options in ({}, {"seed": 1, "generator": torch.Generator()}):
        with pytest.raises(InputError, match="either a seed or a generator"):
            made().sample(3, **options)
    with pytest.raises(InputError, match="seed"):
        made().sample(3, seed=1.5)


def test_conditions_are_refused_where_there_are_none_and_outside_of_the_domain():
    plain = made(Schema(SCHEMA.shape, SCHEMA.variables))
    with pytest.raises(DomainError, match="trained without conditions"):
        plain.sample(3, torch.ones(3, 1), seed=1)
    with pytest.raises(DomainError, match=r"t = 99 \(row 1\) is outside the trained domain"):
        made().sample(2, torch.tensor([[1.0], [99.0]]), seed=1)
    assert isinstance(plain.sample(3, seed=1), Batch)
