r"""Distribution functions of numbers that depend on a condition, atoms kept apart.

For each of several groups and at knots of a condition y, a number is an exact zero (s = -inf) with
probability p_0, a whole (s = +inf) with probability p_1, and otherwise continuous in [0, 1] with
distribution function F(s | y). F is kept on a grid of s and bilinear in s and y, the probabilities
are linear in y. (Were \Phi^{-1}(F) linear in s, what lies between a sharp edge at s = 0 and the
first point of the grid would pile up at the edge, where it is infinite.)

Tables are counted piece by piece, so that their rows need not be in memory together, and the counts
are smoothed by a kernel that is the wider the fewer they are and the wider their distribution is,
reflected at 0 and 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from physgen.batch import Batch

EDGE = 1e-5
"""Least F, and 1 - F, that anything is mapped to."""
FLAT = 1e-12
"""Least rise of F between points of the grid, where nothing was seen."""
UNSEEN = 1e-5
"""Share of the numbers that is spread over all of [0, 1], for what other samples bring."""
PIECE = 10_000_000
"""Numbers of a table that are smoothed at once."""
WIDEST = 10.0
"""Largest width of the kernel, in bins."""

MANY = 16
"""Points of the grid that are searched together in exported models, which are called for one sample
at a time: there an operator costs more than the numbers that it works on."""

_exporting = getattr(torch.compiler, "is_exporting", lambda: False)
"""Whether torch traces an export, as it tells from 2.7 on."""


class QuantileTable(torch.nn.Module):
    """Conditional distribution functions of several groups of numbers.

    Args:
        n_groups: how many distributions.
        n_knots: in y, equidistant.
        n_bins: in s, a power of 2, equidistant.
        prior: to each knot as many events of the group's overall shape are added, which helps
            knots that saw few.

    >>> table, group = QuantileTable(1, 4, 64), torch.zeros(1, dtype=torch.long)
    >>> y, s = torch.rand(1000, 1), torch.rand(1000, 1)
    >>> table.start(y.min(), y.max())
    >>> table.count(y, s, group)
    >>> table.finish()
    >>> torch.allclose(table.level(y, s, group), s.double(), atol=0.1)
    True
    """

    ends: Tensor
    below: Tensor
    atoms: Tensor

    def __init__(self, n_groups: int, n_knots: int, n_bins: int, *, prior: float = 5.0) -> None:
        super().__init__()
        self.n_knots, self.n_bins, self.prior = n_knots, n_bins, prior
        self.register_buffer("ends", torch.tensor([0.0, 1.0]))
        line = torch.linspace(0, 1, n_bins + 1)
        self.register_buffer("below", line.repeat(n_groups, n_knots, 1))
        self.register_buffer("atoms", torch.zeros(2, n_groups, n_knots))

    def start(self, low: Tensor, high: Tensor) -> None:
        """Begin to count; conditions lie between `low` and `high`."""
        self.ends.copy_(torch.stack([low, high.maximum(low + 1e-6)]))
        n_groups = len(self.below)
        # Cell 0 holds the zeros, cells 1..n the continuous part, cell n + 1 the wholes.
        self._counts = self.below.new_zeros(n_groups * self.n_knots * (self.n_bins + 2))

    def count(self, y: Tensor, s: Tensor, group: Tensor, weight: Tensor | None = None) -> None:
        """Count a piece of the rows; every number counts at the two knots beside its y.

        Args:
            y: conditions; NaN where the number is not defined.
            s: numbers; -inf is an exact zero, +inf a whole.
            group, weight: the distribution each number belongs to, and its weight, expanded to the
                shape of `s`; negative weights count as 0.
        """
        weight = torch.ones_like(s) if weight is None else weight.to(s).clamp(min=0)
        group, weight = group.expand_as(s), weight.expand_as(s)
        defined = ~torch.isnan(y)
        y, s, group, weight = (part[defined] for part in (y, s, group, weight))
        cell = (s.nan_to_num(0, 0, 0) * self.n_bins).floor().clamp(0, self.n_bins - 1) + 1
        outside = torch.where(s > 0, self.n_bins + 1.0, 0.0)
        cell = torch.where(torch.isfinite(s), cell, outside).long()
        k, fraction = self._locate(y)
        for knot, share in ((k, 1 - fraction), (k + 1, fraction)):
            place = (group * self.n_knots + knot) * (self.n_bins + 2) + cell
            self._counts.index_add_(0, place, (share * weight).to(self._counts))

    def finish(self, *, smooth: bool = True) -> None:
        """Fill the table with what has been counted; without smoothing for whole numbers."""
        counts = self._counts.reshape(-1, self.n_knots, self.n_bins + 2)
        del self._counts
        step = max(1, PIECE // counts[0].numel())
        for first in range(0, len(counts), step):
            part = counts[first : first + step]
            overall = part.sum(1, keepdim=True)
            overall = overall / overall.sum(-1, keepdim=True).clamp(min=1e-9)
            # One event for the probabilities: their knots are few, and seen often.
            share = part[..., [0, -1]] + overall[..., [0, -1]]
            share = share / (part.sum(-1, keepdim=True) + 1)
            self.atoms[:, first : first + step] = share.movedim(-1, 0)
            below = _below(part[..., 1:-1], self.prior * overall[..., 1:-1], smooth)
            self.below[first : first + step] = below

    def level(self, y: Tensor, s: Tensor, group: Tensor) -> Tensor:
        """Return F(s | y) of the continuous part, in double precision, `EDGE` away from 0 and 1."""
        low, high, place = self._around(y, s, group)
        return (low + (high - low) * place).clamp(EDGE, 1 - EDGE)

    def log_slope(self, y: Tensor, s: Tensor, group: Tensor) -> Tensor:
        """Return ln dF/ds of the continuous part."""
        low, high, _ = self._around(y, s, group)
        return ((high - low).clamp(min=FLAT) * self.n_bins).log()

    def number(self, y: Tensor, level: Tensor, group: Tensor) -> Tensor:
        """Return s in [0, 1] of a level F: the inverse of `level`."""
        base, fraction = self._row(y, group)
        place, step = base, self.n_bins
        while step > 1:
            ways = min(MANY, step) if _exporting() else 2
            step //= ways
            if ways == 2:
                reached = level >= self._at(place + step, fraction)
                place = torch.where(reached, place + step, place)
            else:
                points = place[..., None] + step * torch.arange(1, ways)
                reached = level[..., None] >= self._at(points, fraction[..., None])
                place = place + step * reached.sum(-1)
        left, right = self._at(place, fraction), self._at(place + 1, fraction)
        within = (level - left) / torch.where(right > left, right - left, 1.0)
        return (place - base + within.clamp(0, 1)) / self.n_bins

    def probabilities(self, y: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
        """Return (p_0, p_1)."""
        k, fraction = self._locate(y.nan_to_num(0.0))
        table, index = self.atoms.reshape(2, -1), group * self.n_knots + k
        here = table[:, index]
        zero, whole = here + (table[:, index + 1] - here) * fraction.to(table)
        return zero, whole

    def _locate(self, y: Tensor) -> tuple[Tensor, Tensor]:
        first, last = self.ends
        position = (y - first) / (last - first) * (self.n_knots - 1)
        position = position.clamp(0, self.n_knots - 1)
        k = position.floor().clamp(max=self.n_knots - 2)
        return k.long(), position - k

    def _row(self, y: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
        """Return where the row of a group at the knot below y begins, and how far y is from it."""
        k, fraction = self._locate(y.nan_to_num(0.0))
        return (group * self.n_knots + k) * (self.n_bins + 1), fraction.double()

    def _at(self, index: Tensor, fraction: Tensor) -> Tensor:
        """Return F at a place in the rows of the table, between a knot and the next."""
        table = self.below.reshape(-1)
        left = table[index].double()
        return left + (table[index + (self.n_bins + 1)].double() - left) * fraction

    def _around(self, y: Tensor, s: Tensor, group: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return F at the points of the grid beside s, and how far s is from the first."""
        base, fraction = self._row(y, group)
        position = (s.nan_to_num(0, 0, 0).double() * self.n_bins).clamp(0, self.n_bins)
        j = position.floor().clamp(max=self.n_bins - 1)
        low, high = (self._at(base + i, fraction) for i in (j.long(), j.long() + 1))
        return low, high, position - j


def worth(batch: Batch) -> Batch:
    """Return a batch whose weights sum to the number of events of weight 1 that know as much.

    What is seen is set against what is assumed; negative weights become 0.
    """
    if batch.weight is None:
        return batch
    w = batch.weight.double().clamp(min=0)
    return batch.replace(weight=w * w.sum() / w.square().sum())


def _below(counts: Tensor, prior: Tensor, smooth: bool) -> Tensor:
    """F at the edges of the bins, (groups, knots, n_bins + 1), from (groups, knots, n_bins)."""
    n_bins, n = counts.shape[-1], counts.sum(-1)
    place = torch.arange(n_bins, device=counts.device).to(counts)
    mean = counts @ place / n.clamp(min=1)
    variance = (counts @ place.square() / n.clamp(min=1) - mean.square()).clamp(min=0)
    # The second is the rule of Silverman, which a narrow distribution needs.
    width = torch.minimum(40 * (n + 20).pow(-1 / 3), 0.9 * variance.sqrt() * (n + 1).pow(-1 / 5))
    width = torch.where(n < 2, WIDEST, width).clamp(0.6, WIDEST)
    seen = counts + prior + 1e-9
    levels = torch.logspace(math.log10(0.6), math.log10(WIDEST), 5).to(width)
    nearest = (width[..., None].log() - levels.log()).abs().argmin(-1)
    for i, level in enumerate(levels.tolist() if smooth else []):
        rows = nearest == i
        if rows.any():
            reach = min(int(3 * level) + 1, n_bins)
            steps = torch.arange(-reach, reach + 1, device=counts.device)
            kernel = torch.exp(-0.5 * (steps / level).square()).to(counts)
            # About the edges of the first and last bins, whose numbers would else get lost.
            line = seen[rows]
            ends = line[:, :reach].flip(1), line[:, -reach:].flip(1)
            padded = torch.cat([ends[0], line, ends[1]], 1)[:, None]
            seen[rows] = functional.conv1d(padded, (kernel / kernel.sum())[None, None])[:, 0]
    seen = seen / seen.sum(-1, keepdim=True)
    below = functional.pad(((1 - UNSEEN) * seen + UNSEEN / n_bins).double().cumsum(-1), (1, 0))
    return below / below[..., -1:]
