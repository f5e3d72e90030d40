import json
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from physgen.batch import Batch, Schema, Variable
from physgen.errors import CheckpointError, InputError
from physgen.io.source import ArraySource
from physgen.io.stream import Stream

SCHEMA = Schema((2,), (Variable("x"),))


def numbered(n, block):
    x = torch.arange(float(n))[:, None].repeat(1, 2)
    return ArraySource(Batch(x, weight=torch.arange(float(n))), SCHEMA, block=block)


def numbers(batch):
    assert torch.equal(batch.x[:, 0], batch.weight)
    return batch.weight.long().tolist()


shapes = st.fixed_dictionaries(
    {
        "n": st.integers(1, 120),
        "block": st.integers(1, 20),
        "batch_size": st.integers(1, 50),
        "buffer_blocks": st.integers(1, 5),
        "seed": st.integers(0, 2**31),
        "prefetch": st.booleans(),
    }
)


def make(n, block, keep=None, **options):
    rows = None if keep is None else np.flatnonzero(keep).astype(np.int64)
    return Stream(numbered(n, block), rows, **options)


@settings(max_examples=60, deadline=None)
@given(shapes, st.data())
def test_every_row_of_the_part_comes_once_an_epoch(shape, data):
    keep = data.draw(st.lists(st.booleans(), min_size=shape["n"], max_size=shape["n"]))
    keep[data.draw(st.integers(0, shape["n"] - 1))] = True
    stream = make(**shape, keep=keep)
    length = sum(keep)
    seen = []
    while len(seen) < 3 * length:
        batch = next(stream)
        assert len(batch) == shape["batch_size"]
        seen += numbers(batch)
    members = set(np.flatnonzero(keep).tolist())
    for epoch in range(3):
        assert Counter(seen[epoch * length : (epoch + 1) * length]) == Counter(members)


@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(0, 30), st.integers(1, 5))
def test_resume_at_any_point_is_exact(shape, before, after):
    whole = make(**shape)
    for _ in range(before):
        next(whole)
    cursor = json.loads(json.dumps(whole.state_dict()))
    resumed = make(**shape)
    resumed.load_state_dict(cursor)
    for _ in range(after):
        assert numbers(next(resumed)) == numbers(next(whole))
    assert resumed.state_dict() == whole.state_dict()


def test_epochs_and_seeds_differ_and_windows_mix_their_blocks():
    def epoch(seed, number, buffer_blocks=4):
        stream = make(256, 8, batch_size=256, seed=seed, buffer_blocks=buffer_blocks)
        return [numbers(next(stream)) for _ in range(number + 1)][number]

    def first_blocks(seed, number):
        return {row // 8 for row in epoch(seed, number)[:32]}

    # Which blocks meet in a window, and how the rows of one window are mixed.
    assert len({frozenset(first_blocks(*key)) for key in ((1, 0), (1, 1), (2, 0))}) == 3
    assert len({tuple(epoch(*key, 32)) for key in ((1, 0), (1, 1), (2, 0))}) == 3
    assert epoch(1, 0) == epoch(1, 0)
    assert epoch(1, 0) != epoch(1, 1)
    assert epoch(1, 0) != epoch(2, 0)
    window = epoch(1, 0)[:32]
    assert len({row // 8 for row in window}) == 4
    assert len({row // 8 for row in window[:8]}) > 1


def test_prefetching_changes_nothing():
    options = {"batch_size": 7, "seed": 3, "buffer_blocks": 2}
    ahead, plain = make(50, 4, prefetch=True, **options), make(50, 4, **options)
    for _ in range(30):
        assert numbers(next(ahead)) == numbers(next(plain))


class Counting(ArraySource):
    def __init__(self, source):
        super().__init__(source.batch, source.schema, block=source.block)
        self.reads = []

    def read(self, start, stop):
        self.reads.append((start, stop))
        return super().read(start, stop)


def test_blocks_are_read_whole_in_order_and_once():
    source = Counting(numbered(100, 10))
    stream = Stream(source, batch_size=10, buffer_blocks=5)
    for _ in range(10):
        next(stream)
    assert sorted(source.reads) == [(start, start + 10) for start in range(0, 100, 10)]
    assert source.reads[:5] == sorted(source.reads[:5])


def test_a_part_that_fits_the_buffer_is_read_once_for_all_epochs():
    source = Counting(numbered(100, 10))
    stream = Stream(source, batch_size=30, buffer_blocks=10)
    for _ in range(20):
        next(stream)
    assert len(source.reads) == 10


def test_sample_is_the_same_whatever_has_been_read_and_stays_in_the_part():
    part = np.arange(0, 1000, 3)
    stream = Stream(numbered(1000, 16), part, batch_size=8, seed=5)
    first = numbers(stream.sample(50))
    next(stream)
    assert numbers(stream.sample(50)) == first == sorted(set(first))
    assert set(first) <= set(part.tolist())
    assert numbers(stream.sample(10_000)) == part.tolist()
    # Drawn from the whole part, not from a few blocks of it.
    assert len({row // 16 for row in first}) > 25


@pytest.mark.parametrize("size", [1, 7, 16, 400])
def test_reading_in_order_gives_every_row_once(size):
    part = np.arange(0, 300, 2)
    batches = list(Stream(numbered(300, 16), part, batch_size=size).in_order())
    assert [number for batch in batches for number in numbers(batch)] == part.tolist()
    assert all(len(batch) == size for batch in batches[:-1])


def test_cursor_of_another_stream_is_refused():
    state = make(50, 4, batch_size=7, seed=3).state_dict()
    with pytest.raises(CheckpointError, match="seed was 3, here it is 4"):
        make(50, 4, batch_size=7, seed=4).load_state_dict(state)
    with pytest.raises(CheckpointError, match="rows was 50, here it is 51"):
        make(51, 4, batch_size=7, seed=3).load_state_dict(state)


def test_nothing_to_stream_is_an_input_error():
    with pytest.raises(InputError, match="no rows to stream"):
        make(10, 4, keep=[False] * 10, batch_size=2)
