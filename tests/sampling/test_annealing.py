"""Normalisers along paths of Gaussians, where every density is known, and replicas on them."""

import math

import pytest
import torch

from physgen.errors import InputError
from physgen.sampling import tempering
from physgen.sampling.annealing import anneal, bracket


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def precision(beta):
    return 1 + 15 * beta


def log_density(x, beta):
    """An unnormalised Gaussian of width 1 at beta = 0 and 1/4 at beta = 1."""
    return -0.5 * precision(beta) * x.square().sum(1)


def log_ratio(x, before, after):
    return log_density(x, after) - log_density(x, before)


def move(x, beta, generator):
    """Reversible: x' = r x + sqrt(1 - r^2) s xi leaves N(0, s^2) invariant."""
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    return 0.6 * x + 0.8 * noise / math.sqrt(precision(beta))


def samples(n, beta, seed, dimension=3):
    noise = torch.randn(n, dimension, generator=generator(seed), dtype=torch.float64)
    return noise / math.sqrt(precision(beta))


EXACT = -3 * math.log(4)


@pytest.mark.parametrize("n_steps", [1, 4, 50])
def test_the_mean_weight_is_the_ratio_of_normalisers_at_any_number_of_steps(n_steps):
    """At 1 step it is importance sampling; more steps make the weights more equal."""
    betas = [step / n_steps for step in range(n_steps + 1)]
    found = anneal(samples(20_000, 0, 2), log_ratio, move, betas, generator=generator())
    estimate = found.log_ratio
    assert abs(estimate.value - EXACT) < 4 * estimate.error
    assert found.x.shape == (20_000, 3)
    if n_steps == 50:
        assert found.effective_samples > 0.5 * 20_000
        assert found.x.std().item() == pytest.approx(0.25, rel=0.05)
    else:
        assert found.effective_samples < 0.4 * 20_000


def test_both_ends_enclose_it_on_average():
    """Of few chains the logarithm of the mean is too low forwards and too high backwards."""
    forward, reverse = [], []
    for seed in range(60):
        one = bracket(
            samples(10, 0, seed),
            samples(10, 1, 1000 + seed),
            log_ratio,
            move,
            n_steps=2,
            generator=generator(2000 + seed),
        )
        forward.append(one.forward.value)
        reverse.append(one.reverse.value)
    low, high = torch.tensor(forward), torch.tensor(reverse)
    assert low.mean() < EXACT - 2 * low.std() / 60**0.5
    assert high.mean() > EXACT + 2 * high.std() / 60**0.5
    shifted = one.shifted(2.0)
    assert shifted.middle.value == pytest.approx((one.forward.value + one.reverse.value) / 2 + 2)
    assert one.middle.error > abs(one.reverse.value - one.forward.value) / 2


def test_what_cannot_be_annealed_is_refused():
    with pytest.raises(InputError, match="at least two"):
        anneal(samples(4, 0, 1), log_ratio, move, [0.0], generator=generator())
    with pytest.raises(InputError, match="not finite"):
        anneal(samples(4, 0, 1) * math.nan, log_ratio, move, [0.0, 1.0], generator=generator())


def test_exchanges_leave_every_replica_in_its_distribution():
    betas = [0.0, 0.3, 1.0]
    replicas = [samples(40_000, beta, i, 1) for i, beta in enumerate(betas)]
    for turn in range(4):
        replicas, exchanged = tempering.step(
            replicas, log_ratio, move, betas, odd=bool(turn % 2), generator=generator(100 + turn)
        )
        assert exchanged.shape == (1, 40_000)
        assert 0.3 < exchanged.double().mean() < 0.9
    for x, beta in zip(replicas, betas, strict=True):
        scaled = (x * math.sqrt(precision(beta))).flatten()
        assert abs(scaled.square().mean() - 1) < 4.5 * math.sqrt(2 / 40_000)
        assert abs((scaled**4).mean() - 3) < 4.5 * math.sqrt(96 / 40_000)


def test_one_replica_has_nobody_to_exchange_with():
    x = [samples(5, 1, 1)]
    moved, exchanged = tempering.step(x, log_ratio, move, [1.0], odd=False, generator=generator(3))
    assert exchanged.numel() == 0
    assert torch.equal(moved[0], move(x[0], 1.0, generator(3)))
