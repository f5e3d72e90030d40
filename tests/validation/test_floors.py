"""Floors: of several bins the floor's own worst one, and no verdict on what they do not resolve."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy import Normal

from physgen.batch import Batch
from physgen.validation.comparison import Comparison
from physgen.validation.correlations import Correlations
from physgen.validation.metrics import (
    ClassifierTest,
    Frechet,
    Histograms,
    MaximumMeanDiscrepancy,
    Means,
    NearestNeighbour,
)


class Columns(Normal):
    @property
    def derived(self):
        return {}

    def observables(self, batch):
        return {f"x{i}": column for i, column in enumerate(batch.x.T)}

    def exact(self):
        return {}


class Profile(Columns):
    def observables(self, batch):
        return {"profile": batch.x}


def samples(n, bins, seed, shift=0.0):
    """Generated sample, truth and floor, of 1 + normal numbers."""
    x = np.random.default_rng(seed).normal(1.0, 1.0, (3, n, bins))
    x[0] += shift * x[0, :, :1]
    return [Batch(torch.from_numpy(part)) for part in x]


@pytest.mark.parametrize(
    "metric",
    [Histograms(), Means(), Means(tolerance={"profile": 0.5})],
    ids=["shapes", "", "limit"],
)
def test_generated_and_floor_are_exchangeable_in_profiles(metric):
    ours, truth, floor = samples(100, 8, 3)
    rows, other = (
        metric.rows(Comparison(Profile(), *three))
        for three in ((ours, truth, floor), (floor, truth, ours))
    )
    for row, exchanged in zip(rows, other, strict=True):
        value = row.value if row.exact is None else abs(row.value - row.exact)
        assert value == pytest.approx(exchanged.floor, rel=1e-12)
        assert row.floor != pytest.approx(value), "one bin for both would pass"


@pytest.mark.parametrize(
    ("metric", "system", "bins"),
    [
        (Means(), Profile(), 30),
        (Correlations(), Columns(), 8),
        (Frechet(), Columns(), 8),
        (MaximumMeanDiscrepancy(n=400), Columns(), 2),
        (NearestNeighbour(), Columns(), 2),
        (ClassifierTest(model="boosted", folds=3), Columns(), 2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_the_floor_does_not_resolve_is_neither_passed_nor_failed(
    monkeypatch, metric, system, bins
):
    # An untrained classifier has the same errors.
    monkeypatch.setattr(
        ClassifierTest, "_trained", lambda _, task, *__: task.features(np.arange(len(task.y)))[:, 0]
    )
    classifier = isinstance(metric, ClassifierTest)
    exact = 0.5 if classifier else None

    def found(shift=0.0, limit=None):
        limited = metric
        if limit is not None and classifier:
            limited = replace(metric, maximum=0.5 + limit)
        elif limit is not None:
            limited = replace(metric, tolerance={"profile": limit} if bins == 30 else limit)
        row = limited.rows(
            Comparison(
                system,
                *samples(400, bins, 20 if isinstance(metric, MaximumMeanDiscrepancy) else 7, shift),
            )
        )[0]
        known = exact if row.exact is None else row.exact
        off = row.value if known is None else abs(row.value - known)
        floor = row.floor if known is None or bins == 30 else abs(row.floor - known)
        # The profile's limit is relative to its largest bin, its error that of the difference.
        largest = abs(row.exact) if bins == 30 else 1.0
        sigma = row.floor_error if bins == 30 else row.error
        return row, min(off, floor) / largest, sigma / largest

    _, off, sigma = found()
    assert off > 0.1 * sigma, "a floor of nothing tests nothing"
    # More than two sigma, so that only the floor says that a perfect sample may be beyond.
    assert found(limit=2 * sigma + 0.9 * off)[0].verdict == "info"
    assert found(limit=3 * sigma + 2 * off)[0].verdict == "pass"
    assert found(shift=1.0, limit=2 * sigma + 0.9 * off)[0].verdict == "fail"
