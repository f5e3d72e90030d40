"""Copies of training rows and near copies are found; other faults are not taken for them."""

import numpy as np
import pytest
import torch
from scipy.stats import hypergeom

from physgen.batch import Batch, Schema, Variable
from physgen.validation.alarms import alarms
from physgen.validation.comparison import Comparison
from physgen.validation.memorisation import Memorisation
from physgen.validation.training_rows import TrainingRows

DIMENSION = 6


class Table:
    """Columns as they are."""

    schema = Schema((DIMENSION,), (Variable("x"),))
    derived = {}  # noqa: RUF012

    def observables(self, batch):
        return {f"x{i}": column for i, column in enumerate(batch.x.T)}


def normal(n, *seed):
    x = np.random.default_rng(seed).standard_normal((n, DIMENSION))
    x[:, 1] += x[:, 0] ** 2
    return x


def batch(x, **fields):
    return Batch(torch.from_numpy(x), **fields)


def found(spoil=lambda ours, trained, rng: ours, *, n=1000, m=2000, seed=0, known=True, **changes):
    """Spoil a sample of `n` rows, given `m` training rows; return the rows by name."""
    truth, trained = normal(n, seed, 1), normal(m, seed, 2)
    ours = spoil(normal(n, seed, 3), trained, np.random.default_rng(seed))
    parts = [batch(part) for part in np.array_split(trained, 3)]
    training = TrainingRows(lambda: iter(parts), m) if known else None
    comparison = Comparison(Table(), batch(ours), batch(truth), training=training, **changes)
    return {row.name: row for row in [*Memorisation().rows(comparison), *alarms(comparison)]}


def copied(share, noise):
    def spoil(ours, trained, rng):
        k = round(share * len(ours))
        ours[:k] = rng.permutation(trained)[:k] + noise * rng.standard_normal((k, DIMENSION))
        return ours

    return spoil


def test_copies_are_found_and_counted():
    rows = found(copied(0.03, 0.0))
    exact = rows["rows that are training rows"]
    assert (exact.value, exact.floor) == (30, 0)
    assert "3.00%" in exact.warning
    near = rows["near copies of training rows"]
    assert near.value == pytest.approx(0.03, abs=0.003)
    assert near.floor < 0.003
    assert near.warning.startswith(f"{round(near.value * 1000)} of 1000 rows")
    nearer = rows["nearer to training rows"]
    assert nearer.value == pytest.approx(0.03, abs=3 * nearer.error)
    assert not rows["near copies in the sample"].warning


def test_empty_rows_are_no_training_rows_that_were_copied():
    def spoil(ours, trained, rng):
        ours[:200] = trained[:100] = 0.0
        return ours

    rows = found(spoil)
    assert rows["empty rows"].value == 200
    assert rows["rows that are training rows"].value == 0
    assert not rows["rows that are training rows"].warning


def test_near_copies_are_found_where_no_bit_is_the_same():
    rows = found(copied(0.05, 0.02))
    assert rows["rows that are training rows"].value == 0
    assert rows["near copies of training rows"].value == pytest.approx(0.05, abs=0.01)
    assert rows["near copies of training rows"].warning
    assert rows["nearer to training rows"].warning


def test_rows_that_are_a_little_too_near_are_seen_by_their_number():
    """A kernel density estimate of the training rows, three times as wide as copies may be."""
    rows = found(copied(1.0, 0.3))
    assert rows["nearer to training rows"].warning
    assert rows["nearer to training rows"].value > 0.2


@pytest.mark.parametrize("fault", ["none", "shift", "narrow", "wide", "plane"])
def test_other_faults_are_no_memory(fault):
    def spoil(ours, trained, rng):
        return {
            "none": ours,
            "shift": ours + 1.0,
            "narrow": 0.5 * ours,
            "wide": 2.0 * ours,
            "plane": np.concatenate([ours[:, :4], np.zeros_like(ours[:, :2])], 1),
        }[fault]

    names = ("nearer to training rows", "near copies of training rows", "near copies in the sample")
    for seed in range(5):
        rows = found(spoil, seed=seed)
        assert all(rows[name].p_value > 1e-3 for name in names), (seed, rows)


def test_near_copies_in_the_sample_need_no_training_rows():
    def spoil(ours, trained, rng):
        ours[:20] = ours[20:40] + 1e-3 * rng.standard_normal((20, DIMENSION))
        return ours

    rows = found(spoil, known=False)
    assert set(rows) == {
        "near copies in the sample",
        "rows that are in the truth",
        "rows that repeat",
    }
    row = rows["near copies in the sample"]
    assert (row.value, row.floor) == (0.02, pytest.approx(0.0, abs=0.002))
    assert row.warning.startswith("20 of 1000 rows")


def test_several_copies_each_are_found_though_they_hide_the_dimension():
    def spoil(ours, trained, rng):
        return np.repeat(ours[:140], 7, 0) + 1e-3 * rng.standard_normal((980, DIMENSION))

    assert found(spoil, known=False)["near copies in the sample"].warning


def test_rows_that_belong_together_are_no_neighbours():
    def doubled(ours, trained, rng):
        return np.repeat(ours[:500], 2, 0) + 1e-3 * rng.standard_normal(ours.shape)

    groups = {"generated": -1 - np.arange(500).repeat(2)}
    assert not found(doubled, groups=groups)["near copies in the sample"].warning
    assert found(doubled)["near copies in the sample"].value == 0.5


def test_p_value_is_that_of_the_different_rows_that_are_next():
    """All eight generated rows are next to one and the same training row: one row shows nothing."""
    trained, truth = normal(50, 1), normal(50, 2)
    ours = trained[:1] + 1e-3 * np.random.default_rng(0).standard_normal((60, DIMENSION))
    training = TrainingRows(lambda: iter([batch(trained)]), 50)
    comparison = Comparison(Table(), batch(ours), batch(truth), training=training)
    row = Memorisation().rows(comparison)[0]
    assert row.p_value == pytest.approx(min(1, 4 * hypergeom.sf(0, 100, 50, 1)))
    assert not row.warning


def test_chains_repeat_by_right():
    chain = torch.zeros(300, dtype=torch.long)
    pair = (batch(normal(300, i), chain=chain) for i in range(2))
    assert Memorisation().rows(Comparison(Table(), *pair)) == []


@pytest.mark.slow
def test_p_values_of_generators_without_memory_are_valid():
    names = ("nearer to training rows", "near copies of training rows", "near copies in the sample")
    p = np.array([[found(seed=s, n=400, m=900)[k].p_value for k in names] for s in range(300)])
    # 5% of 300 with 99.9%: 28.
    assert ((p < 0.05).sum(0) <= 28).all()


def test_copies_that_alternate_or_stand_side_by_side_are_found():
    """Of many rows some are looked at, and not every second one."""
    rng, truth = np.random.default_rng(0), batch(normal(3000, 0, 1))
    pairs = np.repeat(normal(1500, 0, 2), 2, 0) + 1e-4 * rng.normal(size=(3000, DIMENSION))
    (row,) = Memorisation(n=1500).rows(Comparison(Table(), batch(pairs), truth))
    assert row.p_value < 1e-10
    trained = normal(3000, 0, 3)
    ours = normal(3000, 0, 4)
    ours[1::2] = trained[:1500] + 1e-3 * rng.normal(size=(1500, DIMENSION))
    known = TrainingRows(lambda: iter([batch(trained)]), 3000)
    rows = Memorisation(n=1500).rows(Comparison(Table(), batch(ours), truth, training=known))
    assert max(row.p_value for row in rows[:2]) < 1e-10


def test_rows_of_few_values_are_no_near_copies():
    """Of 100 points, which all rows share, those of a few rows would count together."""
    found = []
    for seed in range(20):
        rng = np.random.default_rng([0, seed])
        places = [rng.integers(0, 100, 1000) for _ in range(2)]
        x = [np.pad(np.stack([k % 10, k // 10], 1), ((0, 0), (0, 4))) for k in places]
        (row,) = Memorisation().rows(Comparison(Table(), *(batch(v.astype(float)) for v in x)))
        found.append(row.p_value)
    assert min(found) > 1e-3


@pytest.mark.parametrize(
    ("n", "m", "second"), [(2000, 500, 500), (500, 2000, 2000), (1000, 1000, 0)]
)
def test_copies_are_as_usual_as_among_samples_of_other_sizes(n, m, second):
    """Rows of 20,000 equally likely values: none is a copy."""
    alarmed = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        x = [
            batch(np.repeat(rng.integers(0, 20_000, (k, 1)), DIMENSION, 1).astype(float))
            for k in (n, m, second)
            if k
        ]
        rows = [row for row in alarms(Comparison(Table(), *x)) if row.metric == "copies"]
        assert len(rows) >= 2
        alarmed += [row.p_value < 0.01 for row in rows]
    assert np.mean(alarmed) < 0.05
