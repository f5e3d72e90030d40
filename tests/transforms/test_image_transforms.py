"""Images and lattices: there and back, bounds, labels, what is refused."""

import math

import pytest
import torch

from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError, RecipeError
from physgen.transforms.base import Chain
from physgen.transforms.images import Dequantise, Logit, OneHot, Rescale

LABELS = (Variable("energy"), Variable("label", domain="integer", low=2, high=5))
GREY = Schema((3, 4), (Variable("intensity", low=0, high=1),), LABELS)
SPINS = Schema((3, 4), (Variable("spin", domain="spin", low=-1, high=1),))
BITS = Schema((3, 4), (Variable("bit", domain="binary"),))
COUNTS = Schema(
    (2,),
    (
        Variable("a", domain="integer", low=0, high=6),
        Variable("b", domain="integer", low=-3, high=5),
    ),
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def levels(n, size=200, *, low=0, dtype=torch.float32):
    """Random images on `n` evenly spaced levels from `low` to 1."""
    k = torch.randint(n, (size, 3, 4), generator=generator())
    return low + k.to(dtype) * (1 - low) / (n - 1)


# A transform, the number of levels, and the lowest.
ROUND_TRIPS = {
    "rescaled grey": (Rescale(GREY), 17, 0),
    "rescaled spins": (Rescale(SPINS), 2, -1),
    "rescaled bits": (Rescale(BITS), 2, 0),
    "17 levels": (Dequantise(GREY, levels=17), 17, 0),
    "256 levels": (Dequantise(GREY, levels=256), 256, 0),
    "levels of spins": (Dequantise(SPINS), 2, -1),
    "levels of bits": (Dequantise(BITS), 2, 0),
    "logit": (Logit(GREY), 17, 0),
    "logit of levels": (Chain([Dequantise(GREY, levels=256), Logit(GREY, alpha=1e-5)]), 256, 0),
    "rescaled levels": (Chain([Dequantise(GREY, levels=17), Rescale(GREY)]), 17, 0),
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_there_and_back(name, dtype):
    transform, n, low = ROUND_TRIPS[name]
    x = levels(n, low=low, dtype=dtype)
    transform.to(dtype).fit(Batch(x))
    y, log_det = transform(Batch(x), generator())
    assert y.x.dtype == dtype
    assert (log_det is None) != transform.exact
    back = transform.inverse(y).x
    assert back.dtype == dtype
    tolerance = 1e-6 if name in ("logit", "rescaled grey") else 0.0
    torch.testing.assert_close(back, x, rtol=0, atol=tolerance)
    assert not torch.allclose(y.x, x) or name == "rescaled spins"


def test_rescaled_values_come_back_into_their_range_and_to_their_levels():
    y = torch.linspace(-2, 2, 12).reshape(1, 3, 4)
    assert Rescale(GREY).inverse(Batch(y)).x.aminmax() == (0, 1)
    assert set(Rescale(SPINS).inverse(Batch(y)).x.unique().tolist()) == {-1, 1}
    assert set(Rescale(BITS).inverse(Batch(y)).x.unique().tolist()) == {0, 1}
    assert torch.equal(Rescale(SPINS).inverse(Batch(y)).x.sign(), y.sign())
    columns = Rescale(COUNTS).inverse(Batch(torch.tensor([[0.3, 0.3], [-9.0, 9.0]]))).x
    torch.testing.assert_close(columns, torch.tensor([[4.0, 2.0], [0.0, 5.0]]))
    assert not Rescale(COUNTS).exact


def test_the_bound_of_dequantisation_lies_below_the_probability_and_is_tight_for_the_noise():
    schema = Schema((1,), (Variable("k", domain="integer", low=0, high=3),))
    transform = Dequantise(schema)
    x = torch.arange(4.0)[:, None]

    def bound(log_density, n=4000):
        mapped, volume = transform.bound(Batch(x.repeat(n, 1)), generator())
        return (log_density(mapped.x[:, 0]) + volume).reshape(n, 4).mean(0)

    # A density that is flat on every cell is tight: P(k) = height / 4.
    heights = torch.tensor([0.4, 2.0, 1.2, 0.4])
    flat = bound(lambda y: heights[(4 * y).long()].log())
    torch.testing.assert_close(flat, (heights / 4).log())
    # q(y) = 2 y has P(k) = (2 k + 1) / 16, and the bound misses by what Jensen's inequality says.
    probability = ((2 * torch.arange(4) + 1) / 16).log()
    gap = probability - bound(lambda y: (2 * y).log())
    a, b = torch.arange(4) / 4, torch.arange(1, 5) / 4
    mean = 4 * (torch.xlogy(b, b) - torch.xlogy(a, a)) - 1 + math.log(2)
    torch.testing.assert_close(gap, probability - (mean - math.log(4)), atol=0.05, rtol=0)
    assert (gap > 0).all()


def test_noise_is_uniform_on_every_level_and_follows_the_generator():
    x = levels(17, 3000)
    transform = Dequantise(GREY, levels=17)
    y = transform(Batch(x), generator(1))[0].x
    assert torch.equal(y, transform(Batch(x), generator(1))[0].x)
    assert not torch.equal(y, transform(Batch(x), generator(2))[0].x)
    noise = (17 * y).remainder(1)
    assert (noise.histc(10, 0, 1) / noise.numel() - 0.1).abs().max() < 0.01


def test_labels_become_columns_and_come_back():
    transform = OneHot(GREY)
    condition = torch.tensor([[7.5, 2.0], [8.5, 5.0], [9.5, 3.0]])
    mapped, log_det = transform(Batch(torch.zeros(3, 3, 4), condition))
    assert transform.latent_condition(2) == 5
    expected = torch.tensor([[7.5, 1, 0, 0, 0], [8.5, 0, 0, 0, 1], [9.5, 0, 1, 0, 0]])
    torch.testing.assert_close(mapped.condition, expected)
    torch.testing.assert_close(transform.map_condition(condition), expected)
    torch.testing.assert_close(transform.inverse(mapped).condition, condition)
    assert torch.equal(log_det, torch.zeros(3))


def test_recipes_that_do_not_fit_are_refused():
    unbounded = Schema((2, 2), (Variable("phi"),))
    table = Schema((2,), (Variable("a", low=0, high=1), Variable("b", low=0, high=1)))
    with pytest.raises(RecipeError, match="phi has no range"):
        Rescale(unbounded)
    with pytest.raises(RecipeError, match="intensity is real: say how many `levels`"):
        Dequantise(GREY)
    with pytest.raises(RecipeError, match="not on tables"):
        Dequantise(table, levels=3)
    with pytest.raises(RecipeError, match="between 0 and 1/2"):
        Logit(GREY, alpha=0.5)
    with pytest.raises(RecipeError, match=r"system\.labels=true"):
        OneHot(SPINS)


def test_values_that_do_not_fit_are_refused_with_their_row():
    x = levels(17, 9)
    x[4, 1, 2] = 1.5
    for transform in (Rescale(GREY), Logit(GREY)):
        with pytest.raises(DomainError, match=r"value 1\.5 \(row 4\) is outside the range"):
            transform.fit(Batch(x))
    x[4, 1, 2] = 0.6
    with pytest.raises(DomainError, match=r"value 0\.6 \(row 4\) is none of the 17 levels"):
        Dequantise(GREY, levels=17).fit(Batch(x))
    with pytest.raises(DomainError, match=r"transform\.0\.levels=256 surrogate\.counts=255"):
        Dequantise(GREY, levels=17).fit(Batch(levels(256, 9)))
    spins = torch.ones(5, 3, 3)
    spins[2, 0, 1] = 0.25
    with pytest.raises(
        DomainError, match=r"value 0\.25 \(row 2\) is between the levels .* rescale"
    ):
        Rescale(SPINS).fit(Batch(spins))
    x[4, 1, 2] = float("nan")
    with pytest.raises(DomainError, match=r"value nan \(row 4\)"):
        Dequantise(GREY, levels=17).fit(Batch(x))
    condition = torch.tensor([[0.0, 2.0], [0.0, 6.0]])
    with pytest.raises(DomainError, match=r"value 6 \(row 1\) is not a label from 2 to 5"):
        OneHot(GREY).fit(Batch(x[:2], condition))
