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
    return ArraySource(Batch(x, chain=torch.arange(n)), SCHEMA, block=block)


def numbers(batch):
    assert torch.equal(batch.x[:, 0], batch.chain.float())
    return batch.chain.tolist()


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
    # The first row shows whether there are weights.
    assert source.reads.pop(0) == (0, 1)
    assert sorted(source.reads) == [(start, start + 10) for start in range(0, 100, 10)]
    assert source.reads[:5] == sorted(source.reads[:5])


def test_a_part_that_fits_the_buffer_is_read_once_for_all_epochs():
    source = Counting(numbered(100, 10))
    stream = Stream(source, batch_size=30, buffer_blocks=10)
    for _ in range(20):
        next(stream)
    assert len(source.reads) == 1 + 10


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


def weighted(weight, block=8, **options):
    n = len(weight)
    batch = Batch(torch.arange(float(n))[:, None].repeat(1, 2), weight=torch.as_tensor(weight))
    return Stream(ArraySource(batch, SCHEMA, block=block), **options)


def rows_of(batch):
    return batch.x[:, 0].long().tolist()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 0.01, 0.2, 1.0, 3.7, 500.0]), min_size=1, max_size=90),
    shapes,
)
def test_a_row_comes_as_often_as_its_weight_says(weight, shape):
    weight[shape["seed"] % len(weight)] = 2.0
    stream = weighted(weight, **{k: v for k, v in shape.items() if k != "n"})
    n, seen = len(weight), []
    while len(seen) < 4 * n:
        batch = next(stream)
        assert batch.weight is None
        assert len(batch) == shape["batch_size"]
        seen += rows_of(batch)
    expected = n * np.array(weight) / np.sum(weight)
    for epoch in range(4):
        times = Counter(seen[epoch * n : (epoch + 1) * n])
        found = np.array([times[row] for row in range(n)])
        # Rounded up or down; 1e-9 for what rounding does to whole numbers.
        assert (np.abs(found - expected) < 1 + 1e-9).all()
        assert not found[np.array(weight) == 0].any()


@settings(max_examples=30, deadline=None)
@given(shapes, st.integers(0, 30), st.integers(1, 5))
def test_resume_of_weighted_rows_is_exact(shape, before, after):
    options = {k: v for k, v in shape.items() if k != "n"}
    weight = np.random.default_rng(shape["n"]).exponential(size=shape["n"]) ** 3
    weight[::3] *= -0.1
    weight[0] = 10.0
    whole, resumed = weighted(weight, **options), weighted(weight, **options)
    for _ in range(before):
        next(whole)
    resumed.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    for _ in range(after):
        a, b = next(resumed), next(whole)
        assert a.fields().keys() == b.fields().keys()
        assert all(torch.equal(value, b.fields()[name]) for name, value in a.fields().items())


def test_over_many_epochs_shares_are_those_of_the_weights_whatever_the_batch():
    weight = np.where(np.arange(600) % 20 == 0, 200.0, 1.0)
    target = 200 * 30 / (200 * 30 + 570)
    for batch_size in (8, 64, 1200):
        stream = weighted(weight, batch_size=batch_size, block=16, buffer_blocks=4)
        seen = np.concatenate([rows_of(next(stream)) for _ in range(60 * 600 // batch_size)])
        # Every epoch has the share but for the rounding of whole numbers of rows.
        assert np.mean(seen % 20 == 0) == pytest.approx(target, abs=0.002)


def test_negative_weights_are_signs_of_mean_one():
    generator = np.random.default_rng(1)
    x, weight = np.arange(512), np.where(generator.random(512) < 0.3, -0.5, 2.0)
    stream = weighted(weight, batch_size=512, block=64)
    batches = [next(stream) for _ in range(40)]
    size = np.abs(weight).sum() / weight.sum()
    for batch in batches:
        torch.testing.assert_close(batch.weight.abs(), torch.full((512,), size).double())
    mean = np.mean([float((b.weight * b.x[:, 0]).mean()) for b in batches])
    assert np.mean([float(b.weight.mean()) for b in batches]) == pytest.approx(1, abs=0.01)
    assert mean == pytest.approx(weight @ x / weight.sum(), rel=0.01)


def test_weights_are_summed_in_double_precision_over_the_part():
    weight = torch.full((70_000,), 0.1, dtype=torch.float32)
    weight[0] = 3e7
    batch = Batch(torch.zeros(70_000, 2), weight=weight)
    stream = Stream(ArraySource(batch, SCHEMA), np.arange(1, 70_000), batch_size=8)
    assert stream.weights.total == pytest.approx(69_999 * float(weight[1]), rel=1e-12)
    assert stream.weights.effective == pytest.approx(69_999, rel=1e-9)
    assert stream.weights.negative_share == 0


@pytest.mark.parametrize(
    ("weight", "said"),
    [
        ([1.0, -1.0, -1.0], r"memory: the weights of 3 rows \(data.weight\) sum to -1"),
        ([0.0, 0.0], "sum to 0"),
        ([1.0, float("nan")], "not all finite"),
    ],
)
def test_weights_without_a_yield_are_refused(weight, said):
    with pytest.raises(InputError, match=said):
        next(weighted(weight, batch_size=2))
