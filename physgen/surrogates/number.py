"""How many items a sample has, given its condition, and how many of them each group has."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from physgen.networks.mlp import MLP

N_PARTS = 8
"""Logistic distributions that are mixed."""

EVEN = 1e-6
"""Share of an even distribution in the mixture: no count has no probability."""


class NumberOfItems(MLP):
    """p(n | c) of n = 0 to `n_items`, the softmax of a network of the condition.

    Args:
        n_items: the largest number.
        n_condition: columns of c; 0 for none.
        hidden: widths of the network.

    >>> number = NumberOfItems(3, 0, hidden=())
    >>> number.log_p(None, 5).shape
    torch.Size([5, 4])
    """

    def __init__(self, n_items: int, n_condition: int, *, hidden: tuple[int, ...]) -> None:
        # One input at least, which is constant where there is no condition.
        super().__init__(max(n_condition, 1), n_items + 1, hidden=hidden)

    def log_p(self, condition: Tensor | None, n: int) -> Tensor:
        """Return (n, n_items + 1), the log-probabilities of every number at (n, C) conditions."""
        if condition is None or not condition.shape[1]:
            condition = next(self.parameters()).new_ones(n, 1)
        log_p: Tensor = self(condition).log_softmax(1)
        return log_p

    def quantile(self, u: Tensor, condition: Tensor | None) -> Tensor:
        """Return (B,) integers, the numbers at which the distribution reaches u (B,) in (0, 1).

        Of uniform u they are draws.
        """
        reached = self.log_p(condition, u.shape[0]).exp().cumsum(1)[:, :-1]
        return (reached < u[:, None]).sum(1)


class GroupCounts(MLP):
    r"""p(n, n_1, ..., n_G | c) of counts with the sum n <= N: n, then one group after the other.

    With r = n - n_1 - ... - n_{g-1} left, n_g has the probabilities of integers 0, ..., r under a
    mixture of logistic distributions, F(k + 1/2) - F(k - 1/2), all that is beyond at the ends
    (PixelCNN++: Salimans et al., arXiv 1701.05517). The last group has what is left; n is drawn as
    the groups are, of N.

    Args:
        n_groups: G.
        n_items: N.
        n_condition: columns of c.
        hidden: widths of the network.

    >>> counts = GroupCounts(3, 10, 0, hidden=(8,))
    >>> bounds = counts.draw(torch.zeros(1, 3), torch.zeros(1, 0))
    >>> bool((bounds.diff(dim=1) >= 0).all())
    True
    """

    start: Tensor

    def __init__(
        self, n_groups: int, n_items: int, n_condition: int, *, hidden: tuple[int, ...]
    ) -> None:
        super().__init__(n_condition + 2 * n_groups, 3 * N_PARTS, hidden=hidden)
        self.n_groups, self.n_items = n_groups, n_items
        self.register_buffer("start", torch.zeros(n_groups))

    def fit(self, bounds: Tensor) -> None:
        """Begin near the mean counts of data, as their cumulative sums (B, G)."""
        bounds = bounds.double()
        drawn = bounds[:, :0]
        for step, count in enumerate(self._steps(bounds)):
            left, before = self._left(drawn, bounds)
            share = ((count - before).sum() + 1) / (left.sum() + 2)
            self.start[step] = share.logit()
            drawn = torch.cat([drawn, count], 1)

    def log_p(self, bounds: Tensor, condition: Tensor) -> Tensor:
        """Return (B,) ln p of counts, as their cumulative sums `bounds` (B, G), at c (B, C)."""
        total = bounds.new_zeros(len(bounds))
        drawn = bounds.new_zeros(len(bounds), 0)
        for bound in self._steps(bounds):
            left, before = self._left(drawn, bounds)
            count = bound - before
            parts = self._parts(drawn, condition, left)
            p = _below(count + 0.5, left, parts) - _below(count - 0.5, left, parts)
            total = total + ((1 - EVEN) * p + EVEN / (left + 1))[:, 0].log()
            drawn = torch.cat([drawn, bound], 1)
        return total

    def draw(self, noise: Tensor, condition: Tensor) -> Tensor:
        """Return (B, G) cumulative counts of normal noise (B, G) at c (B, C)."""
        edges = torch.arange(self.n_items, device=noise.device).to(noise) + 0.5
        drawn = noise.new_zeros(noise.shape[0], 0)
        for u in torch.special.ndtr(noise).unbind(1):
            left, before = self._left(drawn, noise)
            parts = self._parts(drawn, condition, left)
            reached = (1 - EVEN) * _below(edges.expand(noise.shape[0], -1), left, parts)
            reached = reached + EVEN * ((edges + 0.5) / (left + 1)).clamp_max(1)
            count = (reached < u[:, None]).sum(1, keepdim=True).to(noise)
            drawn = torch.cat([drawn, before + count.minimum(left)], 1)
        return torch.cat([drawn[:, 1:], drawn[:, :1]], 1)

    def _steps(self, bounds: Tensor) -> list[Tensor]:
        """Return n and the cumulative counts (B, 1) of all groups but the last."""
        return [bounds[:, i, None] for i in (-1, *range(self.n_groups - 1))]

    def _left(self, drawn: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return how many are left for the next count, and how many groups before it have."""
        zero = like.new_zeros(like.shape[0], 1)
        if not drawn.shape[1]:
            return zero + self.n_items, zero
        before = drawn[:, -1:] if drawn.shape[1] > 1 else zero
        return drawn[:, :1] - before, before

    def _parts(self, drawn: Tensor, condition: Tensor, left: Tensor) -> Tensor:
        """Return (3, B, N_PARTS): logarithms of shares, locations and scales."""
        step = drawn.shape[1]
        before = functional.pad(drawn / self.n_items, (0, self.n_groups - step))
        which = functional.one_hot(torch.tensor(step), self.n_groups).to(condition)
        which = which.expand(condition.shape[0], -1)
        parts = self(torch.cat([condition, before, which], 1))
        share, location, scale = parts.chunk(3, 1)
        # Apart from one another, or all would learn the same.
        apart = torch.linspace(-1, 1, N_PARTS, device=parts.device).to(parts)
        location = (location + apart + self.start[step]).sigmoid()
        scale = scale.clamp(-8, 8).exp() * (left * location * (1 - location) + 0.25).sqrt()
        location = location * left
        return torch.stack([share.log_softmax(1), location, scale])


def _below(x: Tensor, left: Tensor, parts: Tensor) -> Tensor:
    """Return the distribution function (B, K) of counts at x (B, K): 1 beyond what is left."""
    share, location, scale = parts[:, :, None]
    f = (share.exp() * ((x[..., None] - location) / scale).sigmoid()).sum(2)
    return torch.where(x > left, 1.0, torch.where(x < 0, 0.0, f))
