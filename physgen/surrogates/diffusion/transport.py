"""Which noise goes with which sample, by optimal transport: of rows, and of points of sets."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def transport_plan(x: Tensor, noise: Tensor, condition: Tensor | None = None) -> Tensor:
    """Return (B,) which row of `noise` goes with each row of `x`.

    Args:
        x, noise: (B, D).
        condition: (B, C); only rows of equal conditions exchange their noise.
    """
    cost = torch.cdist(x, noise).square().cpu().numpy()
    plan = np.arange(len(x))
    groups = [plan]
    if condition is not None:
        group = torch.unique(condition, dim=0, return_inverse=True)[1].cpu().numpy()
        groups = [np.flatnonzero(group == label) for label in range(group.max() + 1)]
    for rows in groups:
        if len(rows) > 1:
            _, columns = linear_sum_assignment(cost[np.ix_(rows, rows)])
            plan[rows] = rows[columns]
    return torch.from_numpy(plan).to(x.device)


def point_plan(x: Tensor, noise: Tensor, number: Tensor) -> Tensor:
    """Return (B, N) which point of the noise of a set goes with each of its points.

    Args:
        x, noise: (B, N, F).
        number: (B,) of points, which stand first; what stands behind stays where it is.

    >>> x = torch.tensor([[[0.0], [5.0], [0.0]]])
    >>> point_plan(x, x.flip(1) + torch.tensor([6.0, 0.0, 0.0])[:, None], torch.tensor([2]))
    tensor([[1, 0, 2]])
    """
    cost = (x[:, :, None] - noise[:, None]).square().sum(3).cpu().numpy()
    plan = np.broadcast_to(np.arange(x.shape[1]), x.shape[:2]).copy()
    for row, n in enumerate(number.long().tolist()):
        plan[row, :n] = linear_sum_assignment(cost[row, :n, :n])[1]
    return torch.from_numpy(plan).to(x.device)
