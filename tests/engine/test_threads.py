"""A training takes as many threads as its work can feed, always the same, and gives them back."""

import dataclasses
import json

import pytest
import torch
from toys import OPTIONS, Plain, train

from physgen.engine.threads import LARGE, Work, threads_for

SHORT = dataclasses.replace(OPTIONS, steps=4, checkpoint_every=2)


class Seen(Plain):
    """Notes how many threads each step had."""

    threads: list[int]

    def step(self, batches, ctx):
        self.threads.append(torch.get_num_threads())
        return super().step(batches, ctx)


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def seen():
    Seen.threads = []
    return Seen.threads


def test_work_is_the_size_of_the_operations_not_their_number():
    x = torch.ones(100, 10)
    with Work() as once:
        x + 1
    with Work() as often:
        for _ in range(50):
            x + 1
    assert once.size == often.size == 1000
    with Work() as mixed:  # (1000^2 + 10^2) / (1000 + 10)
        x + 1
        x[0] * 2
    assert mixed.size == pytest.approx((1000**2 + 10**2 + 10**2) / (1000 + 10 + 10))


def test_products_are_counted_by_their_operations():
    a, b = torch.ones(64, 32), torch.ones(32, 128, requires_grad=True)
    with Work() as work:
        a @ b
    assert work.size == 2 * 64 * 32 * 128 / 32
    with Work() as both:  # The backward pass of a product is a product.
        (a @ b).sum().backward()
    assert both.size > 0.6 * work.size


def test_large_work_gets_all_threads():
    assert threads_for(LARGE - 1, 8) == 1
    assert threads_for(LARGE, 8) == 8


def test_small_steps_run_on_one_thread_and_the_callers_number_comes_back(
    tmp_path, three_threads, seen
):
    train(tmp_path, SHORT, Seen)
    assert seen == [1, 1, 1, 1]
    assert torch.get_num_threads() == 3


def test_large_steps_run_on_all_but_the_first(tmp_path, three_threads, seen, monkeypatch):
    monkeypatch.setattr("physgen.engine.threads.LARGE", 10)
    train(tmp_path, SHORT, Seen)
    assert seen == [1, 3, 3, 3]


def test_the_option_decides(tmp_path, three_threads, seen):
    train(tmp_path, dataclasses.replace(SHORT, threads=2), Seen)
    assert seen == [2, 2, 2, 2]


def test_a_resumed_run_keeps_what_its_checkpoint_says(tmp_path, three_threads, seen):
    train(tmp_path, SHORT, Seen)
    for path in tmp_path.glob("checkpoints/*/cursor.json"):
        assert json.loads(path.read_text())["threads"] == 1
    seen.clear()
    torch.set_num_threads(2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("physgen.engine.threads.LARGE", 10)
        train(tmp_path, dataclasses.replace(SHORT, steps=6), Seen)
    assert seen == [1, 1]
