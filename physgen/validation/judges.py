"""The two judges: a small network, and gradient-boosted trees. Both return a score for every row.

Rows `train` are learned from, rows `choose` only decide when to stop: neither trees nor network are
fitted to them, so that they can calibrate the score afterwards. Both judges train with |w|: the
test that follows uses signed weights, and is right for whatever score was learned.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy import float64
from numpy.typing import NDArray
from torch import Tensor, nn

from physgen.errors import InputError

Array = NDArray[float64]


def boosted(
    x: Array,
    y: Array,
    w: Array,
    train: NDArray[np.int64],
    choose: NDArray[np.int64],
    seed: int,
) -> Array:
    """Return scores of all rows by trees that stop when `choose` no longer improves."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    values = np.where(np.isfinite(x), x, np.nan).astype(np.float32)
    trees = HistGradientBoostingClassifier(
        max_iter=200, learning_rate=0.1, early_stopping=True, n_iter_no_change=10, random_state=seed
    )
    trees.fit(
        values[train],
        y[train],
        sample_weight=np.abs(w[train]),
        X_val=values[choose],
        y_val=y[choose],
        sample_weight_val=np.abs(w[choose]),
    )
    return np.asarray(trees.decision_function(values), dtype=float64)


def neural(
    x: Array,
    y: Array,
    w: Array,
    train: NDArray[np.int64],
    choose: NDArray[np.int64],
    seed: int,
    epochs: int,
    batch_size: int = 500,
) -> Array:
    """Return scores of all rows by the network of the epoch with the least loss on `choose`."""
    inputs = torch.from_numpy(standardised(x, train))
    target = torch.from_numpy(y).float()
    weight = torch.from_numpy(np.abs(w)).float()
    generator = torch.Generator().manual_seed(seed)
    network = _network(inputs.shape[1], generator)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    rows, held = torch.from_numpy(train), torch.from_numpy(choose)
    steps = epochs * -(-len(rows) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=2e-3, total_steps=steps)
    best, best_scores = math.inf, torch.zeros(len(inputs))
    for _ in range(epochs):
        order = rows[torch.randperm(len(rows), generator=generator)]
        for batch in torch.split(order, batch_size):
            loss = _loss(network(inputs[batch])[:, 0], target[batch], weight[batch])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        with torch.no_grad():
            current = float(_loss(network(inputs[held])[:, 0], target[held], weight[held]))
            if current < best:
                best = current
                best_scores = torch.cat([network(part)[:, 0] for part in torch.split(inputs, 8192)])
    if best == math.inf:
        raise InputError(
            "the judge's loss is not finite: check the event weights of both samples for NaN"
        )
    return np.asarray(best_scores.double().numpy())


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


def standardised(x: Array, train: NDArray[np.int64]) -> NDArray[np.float32]:
    """Scale to the training rows; columns with values that are not finite get an indicator."""
    finite = np.isfinite(x)
    values = np.where(finite, x, 0.0)
    count = np.maximum(finite[train].sum(0), 1)
    centre = values[train].sum(0) / count
    deviation = np.sqrt((np.where(finite[train], x[train] - centre, 0.0) ** 2).sum(0) / count)
    varies = deviation > 1e-12 * np.abs(centre)
    scaled = np.where(finite, (x - centre) / np.where(varies, deviation, 1.0), 0.0)
    # Far outliers tell no more than outliers, and would upset the network's first layer.
    scaled = np.clip(scaled, -10.0, 10.0)
    holes = ~finite[:, ~finite.all(0)]
    return np.concatenate([scaled, holes.astype(float64)], axis=1).astype(np.float32)
