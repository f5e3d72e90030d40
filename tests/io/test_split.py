import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from physgen.batch import Batch, Schema, Variable
from physgen.errors import InputError
from physgen.io.source import ArraySource
from physgen.io.split import PIECES, hash_columns, pieces_of_chains, repeats, split


@settings(deadline=None)
@given(st.integers(200, 2000), st.integers(0, 2**40))
def test_parts_are_a_partition_in_about_the_fractions(n, seed):
    parts = split(n, seed=seed)
    joined = np.concatenate([parts.train, parts.validation, parts.test])
    assert np.array_equal(np.sort(joined), np.arange(n))
    assert abs(len(parts.train) / n - 0.8) < 5 * np.sqrt(0.16 / n)
    assert all(np.all(np.diff(part) > 0) for part in (parts.train, parts.validation, parts.test))


def test_membership_does_not_depend_on_how_many_rows_there_are():
    small, large = split(1000, seed=4), split(5000, seed=4)
    assert np.array_equal(small.train, large.train[large.train < 1000])
    assert not np.array_equal(split(1000, seed=5).train, small.train)


@settings(deadline=None)
@given(st.permutations(list(range(40))))
def test_rows_of_one_event_stay_together_in_any_order(order):
    events = np.repeat(np.arange(40), 5) * 7919
    shuffled = np.concatenate([events[5 * i : 5 * i + 5] for i in order])
    keys = hash_columns([np.ones(200, np.int32), shuffled])
    parts = split(200, keys=keys, fractions=(0.5, 0.25, 0.25), seed=1)
    reference = split(200, keys=np.sort(keys), fractions=(0.5, 0.25, 0.25), seed=1)
    members = [set(keys[part]) for part in (parts.train, parts.validation, parts.test)]
    assert not members[0] & members[1]
    assert not (members[0] | members[1]) & members[2]
    assert members[0] == set(np.sort(keys)[reference.train])


@pytest.mark.parametrize("chains", [1, 3, 7, PIECES, 4 * PIECES])
def test_stretches_of_chains_hang_together(chains):
    n = 4000
    labels = np.arange(n) % chains  # They take turns in the file.
    keys = pieces_of_chains(labels * 11)
    n_pieces = len(np.unique(keys))
    assert n_pieces == max(chains, -(-PIECES // chains) * chains)
    for chain in range(chains):
        own = keys[labels == chain]
        assert (np.diff(own) >= 0).all()
        assert not np.isin(own, keys[labels != chain]).any()
        counts = np.unique(own, return_counts=True)[1]
        assert np.ptp(counts) <= 1


def test_fractions_keys_and_empty_parts_are_checked():
    with pytest.raises(InputError, match="sum to 1"):
        split(10, fractions=(0.8, 0.1, 0.2))
    with pytest.raises(InputError, match="3 group keys for 10 rows"):
        split(10, keys=np.arange(3))
    with pytest.raises(InputError, match=r"part \(0\.1 of 100 rows in 1 groups\) came out empty"):
        split(100, keys=np.zeros(100, np.int64))
    with pytest.raises(InputError, match=r"a\.root holds no rows"):
        split(0, name="a.root")
    everything = split(10, fractions=(1.0, 0.0, 0.0))
    assert len(everything.train) == 10
    assert len(everything.test) == 0


def test_hash_tells_columns_rows_and_signs_apart_but_not_zeros():
    a, b = np.array([1, 2, 3]), np.array([2, 1, 3])
    assert len({*hash_columns([a, b]).tolist(), *hash_columns([b, a]).tolist()}) == 3
    assert np.array_equal(hash_columns([np.array([0.0])]), hash_columns([np.array([-0.0])]))
    assert len(set(hash_columns([np.arange(-5000, 5000)]).tolist())) == 10_000


def source(x, keys=None, block=16):
    schema = Schema((x.shape[1],), (Variable("x"),))
    return ArraySource(Batch(x), schema, keys=keys, block=block)


def test_repeated_rows_and_keys_are_counted():
    x = torch.rand(100, 3, generator=torch.Generator().manual_seed(0))
    x[70] = x[3]
    x[99] = x[3]
    x[5] = x[4].flip(0)
    found = repeats(source(x, keys=np.arange(100) // 4))
    assert (found.repeated_rows, found.rows_compared, found.complete) == (2, 100, True)
    assert (found.groups, found.largest_group) == (25, 4)
    assert repeats(source(x[10:60])).groups is None


def test_large_sources_are_compared_in_part():
    x = torch.arange(3000.0)[:, None]
    found = repeats(source(x), limit=1000)
    assert not found.complete
    assert 0 < found.rows_compared <= 1100
    assert found.repeated_rows == 0


def test_rows_that_may_well_be_alike_are_no_repetitions():
    generator = torch.Generator().manual_seed(0)
    schema = Schema((3,), (Variable("n", domain="integer"), Variable("pt"), Variable("eta")))
    x = torch.rand(600, 3, generator=generator)
    x[:, 0] = (x[:, 0] * 4).floor()
    x[x[:, 0] == 0, 1:] = 0  # Events without the object, one in four.
    events = ArraySource(Batch(x), schema)
    assert repeats(events).repeated_rows == 0
    assert (
        repeats(ArraySource(Batch(x[:, :1]), Schema((1,), schema.variables[:1]))).repeated_rows == 0
    )
    twice = ArraySource(Batch(torch.cat([x, x])), schema)
    assert repeats(twice).repeated_rows == int((x[:, 0] > 0).sum())
    spins = ArraySource(Batch(torch.ones(9, 4)), Schema((4,), (Variable("s", domain="spin"),)))
    assert repeats(spins).repeated_rows == 0
    chain = ArraySource(
        Batch(torch.rand(9, 4)[[0, 0, 1]], chain=torch.zeros(3)), Schema((4,), (Variable("x"),))
    )
    assert repeats(chain).repeated_rows == 0
