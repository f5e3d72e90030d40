"""Rows of held-out likelihoods, their errors, and the Kullback-Leibler divergence."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from toy import Normal, draw

from physgen.systems.ising import Ising
from physgen.validation.comparison import Comparison, HeldOut, evenly_spaced
from physgen.validation.likelihood import Likelihood

N = 4000


@dataclass(frozen=True)
class WithAction(Normal):
    """The action of two normal numbers with correlation 1/2, and its ln Z."""

    def action(self, x, condition=None):
        a, b = x[:, 0], x[:, 1]
        return (a**2 - a * b + b**2) / 1.5

    def exact(self):
        return {"ln Z": math.log(2 * math.pi * math.sqrt(0.75))}


def independent(batch, width=1.0):
    """Log-density of two independent normal numbers."""
    x = batch.x.numpy()
    return (-0.5 * (x / width) ** 2 - math.log(width) - 0.5 * math.log(2 * math.pi)).sum(1)


def comparison(system, n=N, **facts):
    truth, floor = draw(N, 1), draw(N, 2)
    rows = evenly_spaced(N, n)
    known = HeldOut(independent(truth)[rows], independent(floor)[rows], **facts)
    return Comparison(system, draw(10, 3), truth, floor, held_out={"exact": known})


def rows_of(comparison):
    return {row.name: row for row in Likelihood().rows(comparison)}


def test_nats_and_bits_of_a_known_density():
    rows = rows_of(comparison(Normal(known=False)))
    assert set(rows) == {"log-likelihood", "bits/dim"}
    nats, bits = rows.values()
    # Both columns have unit variance whatever their correlation.
    assert abs(nats.value + 1 + math.log(2 * math.pi)) < 4 * nats.error
    # The variance of (a^2 + b^2) / 2 is 1 + rho^2.
    assert nats.error == pytest.approx(math.sqrt(1.25 / N), rel=0.1)
    assert bits.value == pytest.approx(-nats.value / (2 * math.log(2)))
    assert bits.error == pytest.approx(nats.error / (2 * math.log(2)))
    assert nats.floor < 4 * nats.floor_error
    assert nats.floor_error == pytest.approx(math.sqrt(2) * nats.error, rel=0.1)
    assert (nats.unit, bits.unit) == ("nat", "bit")
    assert "densities in the unit" in nats.note
    assert nats.note.startswith("exact; ")


def test_all_but_the_closest_say_what_they_are():
    closest = comparison(Normal(known=False))
    two = {"bound of 9 draws": closest.held_out["exact"], "bound": closest.held_out["exact"]}
    rows = rows_of(replace(closest, held_out=two))
    assert list(rows) == ["log-likelihood", "bits/dim", "log-likelihood, bound", "bits/dim, bound"]
    assert rows["log-likelihood"].note.startswith("bound of 9 draws")


@pytest.mark.parametrize("n", [N, 1000])
def test_divergence_from_a_known_action(n):
    """KL of correlated from independent normal numbers: the mutual information."""
    row = rows_of(comparison(WithAction(), n))["KL(truth || model)"]
    assert abs(row.value + 0.5 * math.log(0.75)) < 4 * row.error
    assert row.error < 0.02 * math.sqrt(N / n)
    # Another sample of truth has the same divergence, but for its own error.
    assert row.floor < 4 * row.floor_error
    assert row.floor_error == pytest.approx(math.sqrt(2) * row.error, rel=0.15)
    bound = rows_of(comparison(WithAction(), exact=False))["KL(truth || model)"]
    assert "at most" in bound.note


def test_divergence_of_ising_spins_from_coins():
    """KL = N ln 2 - S, and S = ln Z + <E> / T."""
    ising = Ising(shape=(4, 4), temperature=3.0)
    truth = ising.simulate(2000, 1)
    coins = {"exact": HeldOut(np.full(2000, -16 * math.log(2)), discrete=True)}
    row = rows_of(Comparison(ising, truth, truth, held_out=coins))["KL(truth || model)"]
    exact = ising.exact()
    entropy = exact["ln Z"] + 16 * exact["E/N"] / 3.0
    assert abs(row.value - (16 * math.log(2) - entropy)) < 4 * row.error
    assert 0 < row.error < 0.1 * row.value


def test_an_estimated_constant_adds_its_error():
    plain, wide = (rows_of(comparison(WithAction(), error=e)) for e in (0.0, 0.5))
    for name in ("log-likelihood", "KL(truth || model)"):
        assert wide[name].error == pytest.approx(math.hypot(0.5, plain[name].error))


def test_repeated_rows_do_not_make_it_more_certain():
    truth = draw(N, 1)
    repeated = truth[torch.arange(N // 10).repeat_interleave(10)]
    held_out = {"exact": HeldOut(independent(repeated), discrete=True)}
    plain = Comparison(Normal(known=False), draw(10, 3), repeated, held_out=held_out)
    keys = np.arange(N) // 10
    grouped = Comparison(
        Normal(known=False), draw(10, 3), repeated, held_out=held_out, groups={"truth": keys}
    )
    name = "log-likelihood"
    ratio = rows_of(grouped)[name].error / rows_of(plain)[name].error
    assert ratio == pytest.approx(math.sqrt(10), rel=0.02)
    assert rows_of(grouped)[name].value == pytest.approx(rows_of(plain)[name].value)
    assert rows_of(grouped)[name].floor is None
    assert "probabilities" in rows_of(grouped)[name].note


def test_weights_belong_to_the_rows_that_were_used():
    truth = draw(N, 1)
    truth = truth.replace(weight=torch.linspace(0.1, 2.0, N) ** 2)
    rows = evenly_spaced(N, 500)
    values = independent(truth)[rows]
    known = {"exact": HeldOut(values)}
    row = rows_of(Comparison(Normal(known=False), draw(10, 3), truth, held_out=known))
    weight = truth.weight.numpy()[rows]
    assert row["log-likelihood"].value == pytest.approx(weight @ values / weight.sum(), rel=1e-5)


def test_a_normalisation_that_is_not_known_leaves_no_number():
    known = HeldOut(np.full(N, np.nan), exact=False, warning="the bracket of ln Z is inverted")
    made = replace(comparison(Normal()), held_out={"estimated": known})
    rows = rows_of(made)
    assert rows["log-likelihood"].value is None
    assert rows["bits/dim"].value is None
    assert [row.warning for row in rows.values() if row.warning] == [known.warning]


def test_impossible_samples_are_said():
    values = np.array([-1.0, -np.inf, -2.0])
    truth = draw(3, 1)
    known = {"exact": HeldOut(values)}
    row = rows_of(Comparison(WithAction(), truth, truth, held_out=known))["log-likelihood"]
    assert row.value is None
    assert "no finite value for 1 of them" in row.note


def test_models_without_likelihood_and_systems_without_truth():
    (row,) = Likelihood().rows(Comparison(Normal(), draw(10, 3), draw(10, 1)))
    assert (row.value, row.note) == (None, "the model knows neither its density nor a bound on it")
    (row,) = Likelihood().rows(Comparison(Normal(), draw(10, 3)))
    assert "no held-out samples" in row.note
