"""Milliseconds a sample, in the scorecard of a run and on one thread."""

import numpy as np
import pytest
import torch

import physgen
from physgen.errors import NotMeasurable, RecipeError
from physgen.io.shipped import shipped_recipes
from physgen.recipe import read
from physgen.scoring import metrics_for_files
from physgen.timing import milliseconds
from physgen.validation.comparison import Comparison
from physgen.validation.timing import Timing

DETECTORS = {
    name
    for name, file in shipped_recipes().items()
    if file.parent.name in ("calo", "jets", "refinement") and name != "calo-layers"
}
"""Recipes of showers and jets, but for that of so many cells that few are held."""

SMALL = {"system.shape": [4, 4], "engine.steps": 2, "engine.batch_size": 16, "sampling.n": 60}


class Counting:
    """Counts what it is asked for."""

    device, dtype = torch.device("cpu"), torch.float64

    def __init__(self):
        self.asked = []

    def sample(self, n, condition=None, *, generator):
        self.asked.append((n, None if condition is None else condition[:, 0].tolist()))
        assert torch.get_num_threads() == 1


def test_each_batch_is_drawn_once_more_than_it_is_timed_at_conditions_of_the_truth():
    surrogate, threads = Counting(), torch.get_num_threads()
    given = torch.arange(4.0)[:, None]
    found = milliseconds(surrogate, given, batches=(1, 8), repeats=3, seed=0)
    assert [n for n, _ in surrogate.asked] == [1] * 4 + [8] * 4
    assert surrogate.asked[-1][1] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert {size: len(taken) for size, taken in found.items()} == {1: 3, 8: 3}
    assert torch.get_num_threads() == threads


class Slow(Counting):
    """Takes 3 s and 1 s a sample, and another 100 s when a size comes for the first time."""

    clock = 0.0

    def sample(self, n, condition=None, *, generator):
        self.clock += 3 + n + 100 * (n not in [size for size, _ in self.asked])
        super().sample(n, condition, generator=generator)


def test_milliseconds_are_of_one_sample(monkeypatch):
    surrogate = Slow()
    monkeypatch.setattr("physgen.timing.time.perf_counter", lambda: surrogate.clock)
    found = milliseconds(surrogate, None, batches=(1, 8), repeats=3, seed=0)
    assert {size: taken.tolist() for size, taken in found.items()} == {
        1: [4000.0] * 3,
        8: [1375.0] * 3,
    }


def test_what_takes_long_is_drawn_less_often(monkeypatch):
    surrogate = Slow()
    monkeypatch.setattr("physgen.timing.time.perf_counter", lambda: surrogate.clock)
    found = milliseconds(surrogate, None, batches=(1, 8, 100), repeats=9, seed=0)
    assert {size: len(taken) for size, taken in found.items()} == {1: 8, 8: 3, 100: 1}
    row = Timing().rows(Comparison(None, None, timing=found, timed_on="one thread"))[-1]
    assert (row.value, row.error, row.note) == (1030.0, None, "one draw on one thread")


def test_one_thread_draws_whatever_the_host_has_set():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        milliseconds(Counting(), None, batches=(1,), repeats=2, seed=0)  # Asserts one thread.
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_rows_are_mean_and_spread():
    comparison = Comparison(
        None, None, timing={1: np.array([1.0, 2.0, 3.0])}, timed_on="one thread"
    )
    (row,) = Timing().rows(comparison)
    assert (row.name, row.value, row.error, row.unit) == ("ms a sample, batch 1", 2.0, 1.0, "ms")
    assert row.note == "mean and spread of 3 repeats on one thread"
    with pytest.raises(NotMeasurable, match="leave it out of files"):
        Timing().rows(Comparison(None, None))
    with pytest.raises(RecipeError, match="repeats at least 2"):
        Timing(repeats=1)


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_recipes_of_detectors_are_timed(name):
    timed = [part for part in read(name).validation.metrics if part.kind == "timing"]
    assert [part.options.get("batches", Timing.batches) for part in timed] == [(1, 100, 10_000)]


def test_the_full_recipe_is_timed_and_files_are_not():
    def kinds(preset):
        return [part.kind for part in read("calo-flow", preset=preset).validation.metrics]

    assert "timing" in kinds(None)
    assert "timing" not in kinds("quickstart") + kinds("smoke")
    for preset in (None, "reference"):
        asked = metrics_for_files(read("calo-flow", preset=preset))
        assert not any(isinstance(metric, Timing) for metric in asked)


PAIR = {
    "data.source.path": "simulated:showers-fast/1/400",
    "data.target.path": "simulated:showers-full/2/400",
}


@pytest.mark.parametrize(
    ("name", "small"),
    [
        ("phi4-coupling", SMALL),
        ("refine-dctr", {**PAIR, "engine.steps": 1, "baseline": None}),  # at events of the source
    ],
)
def test_a_run_is_timed_where_its_recipe_asks(name, small, tmp_path):
    metrics = [{"kind": "timing", "batches": [1, 10], "repeats": 2}]
    run = physgen.train(name, {**small, "validation.metrics": metrics}, runs=tmp_path, track=False)
    names = [row.name for row in run.scorecard.rows if row.metric == "timing"]
    assert names == ["ms a sample, batch 1", "ms a sample, batch 10"]
    assert all(row.value > 0 for row in run.scorecard.rows if row.metric == "timing")
