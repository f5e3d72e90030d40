r"""Gaussianisation of numbers whose distribution changes with a condition, atoms kept apart.

For each of several groups and at knots of a condition y, a number is an exact zero (s = -inf) with
probability p_0, a whole (s = +inf) with probability p_1, and otherwise continuous with distribution
function F(s | y), kept on a grid of s in [0, top], and z = \Phi^{-1}(F); F is bilinear in s and y,
the probabilities are linear in y. (Were z linear in s, what lies between a sharp edge at s = 0 and
the first point of the grid would pile up at the edge, where z is infinite.) 1 - F is kept too, so
that both tails are as precise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

FAR = 2.9e-7
"""Least F, and 1 - F: where z is -5, and 5. One number in 3 million lies beyond."""
FLAT = 1e-12
"""Least rise of F between points of the grid, where nothing was seen."""


class QuantileTable(torch.nn.Module):
    """Conditional distribution functions of several groups of numbers.

    Args:
        n_groups: how many distributions.
        n_knots: in y, equidistant.
        n_bins: in s, a power of 2, equidistant.
        bounded: whether no s can be above 1; else the grid ends a little above the largest of a
            group.
    """

    knots: Tensor
    top: Tensor
    tails: Tensor
    atoms: Tensor

    def __init__(self, n_groups: int, n_knots: int, n_bins: int, *, bounded: bool) -> None:
        super().__init__()
        self.n_bins, self.bounded = n_bins, bounded
        self.register_buffer("knots", torch.linspace(0, 1, n_knots))
        self.register_buffer("top", torch.ones(n_groups))
        line = torch.linspace(0, 1, n_bins + 1)
        lines = torch.stack([line, 1 - line])[:, None, None]
        self.register_buffer("tails", lines.repeat(1, n_groups, n_knots, 1))
        self.register_buffer("atoms", torch.zeros(2, n_groups, n_knots))

    def fit(self, y: Tensor, s: Tensor, group: Tensor, weight: Tensor | None = None) -> None:
        """Fill the table; every event counts at the two knots beside its y.

        Args:
            y: (N, D) conditions; NaN where the number is not defined.
            s: (N, D) numbers; -inf is an exact zero, +inf a whole.
            group: (D,) the distribution each column belongs to.
            weight: (N,) event weights; negative ones count as 0.
        """
        defined = ~torch.isnan(y)
        column, values, y = group.expand_as(s)[defined], s[defined].double(), y[defined].double()
        weights = torch.ones_like(values)
        if weight is not None:
            weights = weight.double().clamp(min=0)[:, None].expand_as(s)[defined]
        low, high = y.min(), y.max()
        steps = torch.linspace(0, 1, len(self.knots), dtype=y.dtype, device=y.device)
        self.knots.copy_(low + (high - low).clamp(min=1e-6) * steps)
        inner = torch.isfinite(values)
        if not self.bounded:
            top = torch.zeros(len(self.top), dtype=y.dtype, device=y.device)
            top.scatter_reduce_(0, column[inner], values[inner], "amax")
            # Space above the largest, for what other samples bring.
            self.top.copy_(torch.where(top > 0, 1.05 * top, 1.0))
        # Cell 0 holds the zeros, cells 1..n the continuous part, cell n + 1 the wholes.
        cell = (values.nan_to_num(0, 0, 0) / self.top[column] * self.n_bins).floor()
        cell = cell.clamp(0, self.n_bins - 1) + 1
        cell = torch.where(inner, cell, torch.where(values > 0, self.n_bins + 1.0, 0.0)).long()
        n_knots, width = len(self.knots), self.n_bins + 2
        flat = torch.zeros(len(self.top) * n_knots * width, dtype=y.dtype, device=y.device)
        k, fraction = self._locate(y)
        for knot, share in ((k, 1 - fraction), (k + 1, fraction)):
            flat.index_add_(0, (column * n_knots + knot) * width + cell, share * weights)
        counts = flat.reshape(-1, n_knots, width)
        # One event of the group's overall shape helps knots that saw few.
        overall = counts.sum(1, keepdim=True)
        counts = counts + overall / overall.sum(-1, keepdim=True).clamp(min=1)
        self.tails.copy_(_tails(counts[..., 1:-1]))
        share = counts[..., [0, -1]] / counts.sum(-1, keepdim=True).clamp(min=1e-9)
        self.atoms.copy_(share.movedim(-1, 0))

    def gaussian(self, y: Tensor, s: Tensor, group: Tensor) -> Tensor:
        """Return z, (B, D), of the continuous part; what comes of atoms is of no meaning."""
        return _normal(*self._tails_at(y, s, group))

    def number(self, y: Tensor, z: Tensor, group: Tensor) -> Tensor:
        """Return s in [0, top], (B, D): the inverse of `gaussian`."""
        return self._number(y, torch.special.ndtr(z), torch.special.ndtr(-z), group)

    def probabilities(self, y: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
        """Return (p_0, p_1), (B, D) each."""
        k, fraction = self._locate(y.nan_to_num(0.0))
        index = group * len(self.knots) + k
        zero, whole = (
            table[index] + (table[index + 1] - table[index]) * fraction
            for table in self.atoms.reshape(2, -1)
        )
        return zero, whole

    def with_atoms(
        self, y: Tensor, s: Tensor, group: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """Return one standard normal number for each s, (B, D).

        Zeros are drawn uniformly below p_0, wholes above 1 - p_1, and what is not defined (NaN in
        y) anywhere.
        """
        zero, whole = self.probabilities(y, group)
        u = torch.rand(s.shape, generator=generator, device=s.device, dtype=s.dtype)
        below, above = self._tails_at(y, s, group)
        inner = 1 - zero - whole
        below, above = zero + inner * below, whole + inner * above
        empty, full, anywhere = s == -torch.inf, s == torch.inf, torch.isnan(y)
        below = torch.where(empty, u * zero, torch.where(full, 1 - u * whole, below))
        above = torch.where(empty, 1 - u * zero, torch.where(full, u * whole, above))
        return _normal(torch.where(anywhere, u, below), torch.where(anywhere, 1 - u, above))

    def without_atoms(self, y: Tensor, z: Tensor, group: Tensor) -> Tensor:
        """Return s, -inf for zeros and +inf for wholes: the inverse of `with_atoms`."""
        zero, whole = self.probabilities(y, group)
        below, above = torch.special.ndtr(z), torch.special.ndtr(-z)
        inner = (1 - zero - whole).clamp(min=1e-9)
        s = self._number(y, (below - zero) / inner, (above - whole) / inner, group)
        return torch.where(below < zero, -torch.inf, torch.where(above < whole, torch.inf, s))

    def log_slope(self, y: Tensor, s: Tensor, group: Tensor) -> Tensor:
        """Return ln dz/ds, (B, D), of `gaussian`; what comes of atoms is of no meaning."""
        below, above = self._tails_at(y, s, group)
        k, fraction = self._locate(y.nan_to_num(0.0))
        base = self._base(group, k, below > above)
        j = (s.nan_to_num(0, 0, 0) / self.top[group] * self.n_bins).floor()
        j = j.clamp(0, self.n_bins - 1).long()
        rise = (self._at(base, j + 1, fraction) - self._at(base, j, fraction)).abs()
        log_normal = -0.5 * _normal(below, above).square() - 0.5 * math.log(2 * math.pi)
        return (rise.clamp(min=FLAT) * self.n_bins / self.top[group]).log() - log_normal

    def log_volume(self, y: Tensor, s: Tensor, z: Tensor, group: Tensor) -> Tensor:
        """Return what `with_atoms`, which made z of s, adds to a bound on the density, (B, D).

        That is ln dz/ds where s is continuous, and otherwise minus the logarithm of the density
        that z was drawn with.
        """
        zero, whole = self.probabilities(y, group)
        z0 = self.gaussian(y, s, group)
        # Ratios of the standard normal density; its constant stays where there is no ratio.
        inner = (1 - zero - whole).log() - 0.5 * z0.square() + self.log_slope(y, s, group)
        drawn = torch.where(s > 0, whole, zero).log()
        drawn = torch.where(torch.isnan(y), 0.0, drawn) + 0.5 * math.log(2 * math.pi)
        continuous = torch.isfinite(s) & ~torch.isnan(y)
        return 0.5 * z.square() + torch.where(continuous, inner, drawn)

    def _locate(self, y: Tensor) -> tuple[Tensor, Tensor]:
        first, last = self.knots[0], self.knots[-1]
        position = (y - first) / (last - first) * (len(self.knots) - 1)
        position = position.clamp(0, len(self.knots) - 1)
        k = position.floor().clamp(max=len(self.knots) - 2)
        return k.long(), position - k

    def _base(self, group: Tensor, k: Tensor, upper: Tensor) -> Tensor:
        """Return where the row of a group at knot k begins, of F or (`upper`) of 1 - F."""
        n_groups, n_knots = len(self.top), len(self.knots)
        return (((upper * n_groups) + group) * n_knots + k) * (self.n_bins + 1)

    def _at(self, base: Tensor, j: Tensor, fraction: Tensor) -> Tensor:
        table, index = self.tails.reshape(-1), base + j
        left = table[index]
        return left + (table[index + self.n_bins + 1] - left) * fraction

    def _tails_at(self, y: Tensor, s: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
        """Return F(s | y) and 1 - F."""
        k, fraction = self._locate(y.nan_to_num(0.0))
        position = (s.nan_to_num(0, 0, 0) / self.top[group] * self.n_bins).clamp(0, self.n_bins)
        j = position.floor().clamp(max=self.n_bins - 1)
        both = []
        for upper in (torch.zeros_like(k), torch.ones_like(k)):
            base = self._base(group, k, upper)
            low, high = (self._at(base, i, fraction) for i in (j.long(), j.long() + 1))
            both.append(low + (high - low) * (position - j))
        return both[0], both[1]

    def _number(self, y: Tensor, below: Tensor, above: Tensor, group: Tensor) -> Tensor:
        """Return s of F = below and 1 - F = above, by the smaller of the two."""
        k, fraction = self._locate(y.nan_to_num(0.0))
        upper = below > above
        tail, sign = torch.where(upper, above, below), 1 - 2 * upper.to(below.dtype)
        base = self._base(group, k, upper)
        low = torch.zeros_like(base)
        step = self.n_bins // 2
        while step:
            reached = sign * (tail - self._at(base, low + step, fraction)) >= 0
            low = torch.where(reached, low + step, low)
            step //= 2
        left, right = self._at(base, low, fraction), self._at(base, low + 1, fraction)
        width = torch.where(right == left, sign, right - left)
        return (low + ((tail - left) / width).clamp(0, 1)) / self.n_bins * self.top[group]


def _normal(below: Tensor, above: Tensor) -> Tensor:
    """Return z of F = below and 1 - F = above, by the smaller of the two."""
    z = torch.special.ndtri(torch.minimum(below, above).clamp(FAR, 0.5))
    return torch.where(below < above, z, -z)


def _tails(counts: Tensor) -> Tensor:
    """F and 1 - F at the edges of the bins, (2, ...), from (groups, knots, n_bins) counts."""
    # A little, spread over all bins, keeps F strictly increasing.
    counts = counts + 1e-3 / counts.shape[-1]
    total = counts.sum(-1, keepdim=True)
    below = torch.nn.functional.pad(counts.cumsum(-1), (1, 0)) / total
    above = torch.nn.functional.pad(counts.flip(-1).cumsum(-1), (1, 0)).flip(-1) / total
    return torch.stack([below, above])
