"""The two classifiers: a small network, and gradient-boosted trees, scoring rows they never saw.

Neither trees nor network are fitted to the rows that decide when to stop, so that these can
calibrate the score afterwards. Both train with |w|, rows of negative weight as the other class; the
test that follows uses signed weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy import float64
from numpy.typing import NDArray
from torch import Tensor, nn

from physgen.errors import InputError
from physgen.memory import release

Array = NDArray[float64]
Floats = NDArray[np.floating[Any]]
Rows = NDArray[np.int64]

WIDE = 1000
"""Columns beyond which trees see each in `COARSE` bins, whose histograms take less memory."""

FINE, COARSE = 255, 31

CELLS = 2**25
"""Values that trees learn from at most: of rows with thousands of columns, fewer are learned."""

_AT_ONCE = 256
"""Rows that are converted at once, so that no second copy of all is made."""

_CELLS = 2**21
"""Values of which mean and deviation are found at once."""

_CACHED = 2**16
"""Values that are scaled at once, in double precision."""


@dataclass(frozen=True)
class Task:
    """What a classifier is to tell apart, and from which rows it learns.

    Attributes:
        features: returns the (k, F) features of (k,) rows; those of showers fill the memory.
        y: (N,), 1 for true rows and 0 for generated ones.
        w: (N,) weights, of any sign.
        train: rows that are learned from.
        choose: rows that only decide when to stop.
    """

    features: Callable[[Rows], Floats]
    y: Array
    w: Array
    train: Rows
    choose: Rows

    @property
    def target(self) -> Array:
        """(N,), what is learned with |w|: y, and the other class of rows of negative weight.

        With p and q the densities of both classes, signed, the score that is learned is above 1/2
        where p > q; of the classes as they are, it would be that of the densities of |w|.
        """
        return np.where(self.w < 0, 1 - self.y, self.y)


def most_rows(n_columns: int) -> int:
    """Return how many rows of so many columns trees learn from at most."""
    return max(1000, CELLS // n_columns)


def boosted(task: Task, seed: int) -> Array:
    """Return (N,) scores by trees that stop when `choose` no longer improves, NaN for `train`."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    x = task.features(task.train[:1])
    n_bins = COARSE if x.shape[1] > WIDE else FINE
    generator = np.random.default_rng(seed)
    most = most_rows(x.shape[1])
    learned, chosen = (
        rows if len(rows) <= n else np.sort(generator.choice(rows, n, replace=False))
        for rows, n in ((task.train, most), (task.choose, most // 2))
    )
    x = task.features(learned)
    edges = _edges(x, n_bins)
    trees = HistGradientBoostingClassifier(
        max_iter=200,
        learning_rate=0.1,
        max_bins=n_bins,
        early_stopping=True,
        n_iter_no_change=10,
        random_state=seed,
    )
    bins = _binned(x, edges)
    del x
    release()
    trees.fit(
        bins,
        task.target[learned],
        sample_weight=np.abs(task.w[learned]),
        X_val=_binned(task.features(chosen), edges),
        y_val=task.target[chosen],
        sample_weight_val=np.abs(task.w[chosen]),
    )
    scores = np.full(len(task.y), np.nan)
    others = np.setdiff1d(np.arange(len(task.y)), task.train)
    for start in range(0, len(others), _AT_ONCE):
        rows = others[start : start + _AT_ONCE]
        scores[rows] = trees.decision_function(_binned(task.features(rows), edges))
    return scores


def _edges(x: Floats, n_bins: int) -> list[Floats]:
    """Return edges of at most `n_bins` bins a column, at the quantiles of its rows.

    Bin i holds what is above edge i - 1 and not above edge i. scikit-learn would place them itself,
    but with weights it sorts a column once for each of them.
    """
    shares = np.linspace(0, 1, n_bins + 1)[1:-1]
    edges = []
    for column in x.T:
        values, counts = np.unique(column[np.isfinite(column)], return_counts=True)
        if len(values) > n_bins:
            # What many rows have (voxels without a hit) takes one bin, the others the rest.
            upto = np.minimum(counts, counts.sum() / n_bins).cumsum()
            values = values[np.unique(np.searchsorted(upto, shares * upto[-1]))]
        else:
            values = values[:-1]
        edges.append(values)
    return edges


def _binned(x: Floats, edges: list[Floats]) -> Array:
    """Return the bin of each value, NaN where it is not finite.

    In double precision, into which scikit-learn would copy anything else.
    """
    result = np.full(x.shape, np.nan)
    for number, (column, cuts) in enumerate(zip(x.T, edges, strict=True)):
        known = np.isfinite(column)
        result[known, number] = np.searchsorted(cuts, column[known], side="left")
    return result


Build = Callable[[int, torch.Generator], nn.Module]
"""Makes a network of so many inputs and one output."""


def neural(
    task: Task, seed: int, epochs: int, batch_size: int = 500, build: Build | None = None
) -> Array:
    """Return (N,) scores by the network of the epoch with the least loss on `choose`.

    Those of `train` are NaN. By default the network is a perceptron of 3 x 256.
    """
    every = np.arange(len(task.y))
    x = task.features(every)
    release()
    scale = Scale.of(x, task.train)

    def inputs(rows: Tensor) -> Tensor:
        return torch.from_numpy(scale(x[rows.numpy()]))

    target = torch.from_numpy(task.target).float()
    weight = torch.from_numpy(np.abs(task.w)).float()
    generator = torch.Generator().manual_seed(seed)
    network = (build or _network)(scale.width, generator)

    def scored(rows: Tensor) -> Tensor:
        parts = torch.split(rows, _AT_ONCE)
        return torch.cat([network(inputs(part))[:, 0] for part in parts])

    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    rows, held = torch.from_numpy(task.train), torch.from_numpy(task.choose)
    others = torch.from_numpy(np.setdiff1d(every, np.concatenate([task.train, task.choose])))
    steps = epochs * -(-len(rows) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=2e-3, total_steps=steps)
    best, scores = math.inf, torch.full((len(task.y),), math.nan)
    for _ in range(epochs):
        order = rows[torch.randperm(len(rows), generator=generator)]
        for batch in torch.split(order, batch_size):
            loss = _loss(network(inputs(batch))[:, 0], target[batch], weight[batch])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        with torch.no_grad():
            logit = scored(held)
            current = float(_loss(logit, target[held], weight[held]))
            if current < best:
                best = current
                scores[held] = logit
                if len(others):
                    scores[others] = scored(others)
    if best == math.inf:
        raise InputError(
            "the classifier's loss is not finite: check the event weights of both samples for NaN"
        )
    return np.asarray(scores.double().numpy())


def _loss(logit: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(logit, target, weight)


def _network(n_inputs: int, generator: torch.Generator, width: int = 256) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in ((n_inputs, width), (width, width), (width, width), (width, 1)):
        # Without the default initialisation, which would draw from the global generator.
        linear: nn.Linear = nn.utils.skip_init(nn.Linear, fan_in, fan_out)  # type: ignore[no-untyped-call]
        nn.init.kaiming_normal_(linear.weight, generator=generator)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.LeakyReLU()]
    return nn.Sequential(*layers[:-1])


@dataclass(frozen=True)
class Scale:
    """How columns are standardised: (F,) centre and deviation of the training rows.

    Attributes:
        holed: (F,), the columns with values that are not finite, which get an indicator.
    """

    centre: Array
    deviation: Array
    holed: NDArray[np.bool_]

    @classmethod
    def of(cls, x: Floats, train: Rows) -> Scale:
        """Look at (N, F) features, a part of the columns at a time."""
        n_columns = x.shape[1]
        centre, deviation = np.empty(n_columns), np.empty(n_columns)
        holed = np.zeros(n_columns, dtype=bool)
        step = max(1, _CELLS // len(x))
        for start in range(0, n_columns, step):
            part = slice(start, start + step)
            holed[part] = ~np.isfinite(x[:, part]).all(0)
            values = x[train, part].astype(float64)
            finite = np.isfinite(values)
            count = np.maximum(finite.sum(0), 1)
            values[~finite] = 0.0
            centre[part] = values.sum(0) / count
            values = np.where(finite, values - centre[part], 0.0)
            deviation[part] = np.sqrt(np.square(values, out=values).sum(0) / count)
        varies = deviation > 1e-12 * np.abs(centre)
        return cls(centre, np.where(varies, deviation, 1.0), holed)

    @property
    def width(self) -> int:
        """How many columns are made."""
        return len(self.centre) + int(self.holed.sum())

    def __call__(self, x: Floats) -> NDArray[np.float32]:
        """Return (n, width) standardised features and indicators."""
        result = np.empty((len(x), self.width), dtype=np.float32)
        n_columns = x.shape[1]
        step = max(1, _CACHED // n_columns)
        for start in range(0, len(x), step):
            part = x[start : start + step]
            finite = np.isfinite(part)
            scaled = part - self.centre
            scaled /= self.deviation
            scaled[~finite] = 0.0
            # Far outliers tell no more than outliers, and would upset the network's first layer.
            np.clip(scaled, -10.0, 10.0, out=scaled)
            result[start : start + step, :n_columns] = scaled
            result[start : start + step, n_columns:] = ~finite[:, self.holed]
        return result


def standardised(x: Floats, train: Rows) -> NDArray[np.float32]:
    """Scale to the training rows; columns with values that are not finite get an indicator.

    >>> standardised(np.array([[1.0], [3.0], [np.nan]]), train=np.array([0, 1]))
    array([[-1.,  0.],
           [ 1.,  0.],
           [ 0.,  1.]], dtype=float32)
    """
    return Scale.of(x, train)(x)
