r"""Weights of points, changed as little as can be for their sums over features to be given ones.

    w_i' = w_i exp(\lambda f_i) a_g(i),    \sum_i w_i' f_i / \sum_i w_i' = t,

with a_g such that the weights of each group g have the sum they had. Of all weights with these
sums they have the least relative entropy to w (Csiszar, Ann. Probab. 3, 1975); lambda is where a
convex function is least, which Newton's method finds.
"""

from __future__ import annotations

import torch
from torch import Tensor

STEPS = 20
LONGEST = 1.0
"""Of a step, in the logarithms of weights."""
DAMPING = 1e-6


def tilted(w: Tensor, member: Tensor, features: Tensor, target: Tensor, most: float) -> Tensor:
    """Return weights (B, N), see the module's description.

    Args:
        w: (B, N), at least 0.
        member: (B, N, G), 1 where a point belongs to a group, of which there is one at most.
        features: (B, N, K).
        target: (B, K), t.
        most: |lambda f| at most; where more would be needed, t is not reached.

    >>> w, one = torch.ones(1, 2).double(), torch.ones(1, 2, 1).double()
    >>> x = torch.tensor([[[0.0], [1.0]]]).double()
    >>> tilted(w, one, x, torch.tensor([[0.75]]).double(), 5.0).round(decimals=4)
    tensor([[0.5000, 1.5000]], dtype=torch.float64)
    """
    sums = (w[..., None] * member).sum(1)
    total = sums.sum(1).clamp_min(torch.finfo(w.dtype).tiny)
    unit = torch.eye(features.shape[2], dtype=w.dtype, device=w.device)
    features = torch.where((w > 0)[..., None], features, 0.0)
    slope = w.new_zeros(features.shape[0], features.shape[2])
    for _ in range(STEPS):
        share = _weights(w, member, sums, features, slope) / total[:, None]
        missing = target - (share[..., None] * features).sum(1)
        of_group = member.mT @ (share[..., None] * features)
        groups = (sums / total[:, None]).clamp_min(torch.finfo(w.dtype).tiny)[..., None]
        spread = (share[..., None] * features).mT @ features - (of_group / groups).mT @ of_group
        size = spread.diagonal(dim1=1, dim2=2).mean(1).clamp_min(DAMPING)
        damped = spread + DAMPING * size[:, None, None] * unit
        step = torch.linalg.solve(damped, missing)
        slope = slope + step * _limit(features, step, LONGEST)
    return _weights(w, member, sums, features, slope * _limit(features, slope, most))


def _limit(features: Tensor, slope: Tensor, most: float) -> Tensor:
    """Return (B, 1) by what slopes (B, K) are multiplied for logarithms to change by `most`."""
    largest = (features @ slope[..., None])[..., 0].abs().amax(1, keepdim=True)
    return (most / largest.clamp_min(most)).nan_to_num(0.0)


def _weights(w: Tensor, member: Tensor, sums: Tensor, features: Tensor, slope: Tensor) -> Tensor:
    log = (features @ slope[..., None])[..., 0]
    v = w * (log - log.amax(1, keepdim=True)).exp()
    found = (v[..., None] * member).sum(1).clamp_min(torch.finfo(w.dtype).tiny)
    return v * (member @ (sums / found)[..., None])[..., 0]
