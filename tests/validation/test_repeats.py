"""Values that cannot be: counts with fractions, codes that nobody uses."""

import numpy as np
import pytest
import torch

from physgen.batch import Batch, Schema, Variable
from physgen.validation.comparison import Comparison
from physgen.validation.judging import judge
from physgen.validation.repeats import repeats

CODES = np.random.default_rng(0).integers(-(10**6), 10**6, 400)


class Table:
    """One column."""

    schema = Schema((1,), (Variable("a"),))
    derived = {}  # noqa: RUF012

    def observables(self, batch):
        return {"a": batch.x[:, 0]}


def counts(rng, n):
    return np.round(rng.normal(1000, 200, n))


def decimals(rng, n):
    return np.round(rng.normal(0, 20, n), 1)


def codes(rng, n):
    return rng.choice(CODES, n).astype(float)


def real(rng, n):
    return rng.normal(0, 1, n)


def zeros(rng, n):
    return np.where(rng.random(n) < 0.3, 0.0, rng.exponential(1, n))


def row(make, spoil=None, seed=0, n=4000, dtype="f4"):
    truth, floor, ours = (make(np.random.default_rng([seed, i]), n).astype(dtype) for i in range(3))
    if spoil is not None:
        ours = spoil(ours, np.random.default_rng([seed, 3])).astype(dtype)
    batches = (Batch(torch.from_numpy(x[:, None])) for x in (ours, truth, floor))
    found = repeats(Comparison(Table(), *batches))
    return found[0] if found else None


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("make", [counts, decimals, codes])
def test_values_beside_those_that_there_can_be_are_an_alarm(make, dtype):
    size = 20 if make is codes else 0.3  # Codes of a million are rounded to a quarter.
    found = row(make, lambda x, rng: x + size * rng.random(len(x)), dtype=dtype)
    assert found.value > 0.9
    assert "of a" in found.warning
    few = row(
        make, lambda x, rng: np.where(rng.random(len(x)) < 0.02, x + size * 0.13, x), dtype=dtype
    )
    assert few.value == pytest.approx(0.02, abs=0.01)
    assert few.warning


@pytest.mark.parametrize("make", [counts, decimals, codes, real, zeros])
def test_truth_against_truth_is_no_alarm(make):
    for seed in range(40):
        found = row(make, seed=seed, n=1000)
        assert found is None or not found.warning, (seed, found)


def test_a_count_that_was_never_seen_is_no_alarm():
    assert not row(counts, lambda x, rng: x + 300).warning


def test_real_columns_have_no_such_row():
    assert row(real) is None


def test_files_with_such_values_fail():
    x = [counts(np.random.default_rng(i), 4000) for i in range(3)]
    x[2] += np.random.default_rng(9).uniform(-0.4, 0.4, 4000)
    truth, floor, ours = (Batch(torch.from_numpy(values[:, None])) for values in x)
    card = judge(Comparison(Table(), ours, truth, floor), [], tested=True)
    assert card["values that cannot be"].verdict == "fail"
