r"""From calorimeter showers to numbers without bounds, and back.

A shower of energy E_tot is divided among its voxels by the splits of a `SplitTree`. Two kinds of
numbers say all of it: the response E_tot/E_inc, whose distribution F depends on E_inc, and the s of
each split, whose distribution depends on the split's energy W in units of the readout threshold v_0
(the smallest energy in the data), one for each kind of split (`QuantileTable`). Both are mapped to

    x = logit F = ln F/(1 - F).

Empty showers, and splits that give all to one side, are told apart from the others, so that a model
can treat the two as the different things they are. The map is one to one: numbers of voxels with
energy, and which these are. No voxel falls below the threshold.

(A logistic in x has a finite, positive density in F at 0 and 1, where the threshold cuts; a normal
in \Phi^{-1}(F) has none where its mean is not 0 or its width is not 1.)

What a network should look at besides: ln(W/v_0), and the contrast (L - R)/E in units of its spread,
with E the energy of the split's layer, since the centre and the width of a layer are linear in the
contrasts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import DomainError
from physgen.systems.geometry import Geometry
from physgen.transforms.base import Transform
from physgen.transforms.quantile_table import EDGE, QuantileTable, worth
from physgen.transforms.splits import SplitTree
from physgen.transforms.threshold import threshold_of

ALL_RIGHT, ALL_LEFT = -32.0, 32.0
"""What a split is mapped to that gives all to one side; the others lie within half of that."""
EMPTY = -32.0
"""What the response of an empty shower is mapped to."""
SCARCE = 2 - 2e-6
"""Below as many v_0, an energy does not suffice for two; a little less than 2 against rounding."""
SPAN = 1e-3
"""Least range of ln(L/R) that is stretched to [0, 1]: below, nothing is left to choose."""
NEAR = 0.1
"""Conditions of splits are ln(W/v_0 - 2 + NEAR): much changes where W has just enough for two."""
LOG_LEAST = 1e-6
"""Least probability of an outcome."""
PIECE = 2_000_000
"""Numbers of nodes that are counted at once when tables are filled."""


class ShowerTransform(Transform):
    """Map showers (B, n_voxels) to (B, 1 + 3 n_splits).

    These are the number of the response, or `EMPTY`; the number of each split (`ALL_RIGHT` or
    `ALL_LEFT` where it is not one; 0 where there is nothing to split); ln(W/v_0) of each split,
    -1 where there is nothing to split; and the contrasts.

    The mapped condition is (B, 2 + n_layers): standardised ln E_inc, ln E_tot and ln E_i of the
    layers, the last two at the threshold where there is no energy. The first is all that is known
    before there is a shower.

    Args:
        schema: of the showers.
        geometry: of the voxels.
        n_knots: of the distribution functions, in the logarithm of the energy.
        n_bins: of the splits' distribution functions; the response has 16 times as many.
        copies: (n, n_voxels) orders of the voxels in which a shower is as likely as it is: in
            training, one of them is chosen for each shower.

    Raises:
        DomainError: the samples are no showers of this geometry.
    """

    mixes = True
    copies: Tensor | None
    threshold: Tensor
    top: Tensor
    scarce: Tensor
    centre: Tensor
    scale: Tensor
    spread: Tensor

    def __init__(
        self,
        schema: Schema,
        geometry: Geometry,
        *,
        n_knots: int = 32,
        n_bins: int = 128,
        copies: Tensor | None = None,
    ) -> None:
        super().__init__()
        if schema.shape != (geometry.n_voxels,):
            raise DomainError(
                f"showers of shape {schema.shape}, but the binning has {geometry.n_voxels} voxels"
            )
        self.tree = SplitTree(geometry)
        self.n_layers, self.n_splits = self.tree.n_layers, self.tree.n_splits
        n_groups = max(self.tree.n_groups, 1)
        self.register_buffer("copies", copies, persistent=False)
        self.register_buffer("threshold", torch.tensor(1.0))
        self.register_buffer("top", torch.tensor(1.0))
        self.register_buffer("scarce", torch.full((n_groups,), 0.5))
        self.register_buffer("centre", torch.zeros(2 + self.n_layers))
        self.register_buffer("scale", torch.ones(2 + self.n_layers))
        self.register_buffer("spread", torch.ones(self.n_splits))
        self.total = QuantileTable(1, n_knots, 16 * n_bins, prior=1.0)
        self.splits = QuantileTable(n_groups, n_knots, n_bins)

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The response, splits, their energies, and contrasts."""
        return (1 + 3 * self.n_splits,)

    def latent_condition(self, n_condition: int) -> int:
        """The incident energy, that of the shower and those of its layers."""
        return 2 + self.n_layers

    def fit(self, batch: Batch) -> None:
        """Learn threshold and distribution functions, piece by piece."""
        batch = worth(batch)
        incident, total = self._incident(batch), batch.x.sum(1, keepdim=True)
        step = max(1, PIECE // (1 + 2 * self.n_splits))
        self.threshold.copy_(threshold_of(batch.x, step))
        # Space above the largest, for what other samples bring.
        self.top.copy_(1.05 * (total / incident).max())
        self.total.start(incident.log().min(), incident.log().max())
        self._begin(batch)
        square, logs = incident.new_zeros(self.n_splits), []
        for first in range(0, len(batch), step):
            rows = batch[first : first + step]
            nodes = self.tree.gather(rows.x)
            weight = None if rows.weight is None else rows.weight[:, None]
            y, s = self._response(rows)
            self.total.count(y, s, self.tree.group.new_zeros(1), weight)
            logs.append(self._logs(self._incident(rows), nodes))
            if self.n_splits:
                self._count(nodes, weight)
                square += self._contrasts(nodes).square().sum(0)
        self.total.finish()
        every = torch.cat(logs)
        self.centre.copy_(every.mean(0))
        scale = every.std(0, correction=0)
        # What was alike in all has its natural unit, so that one that is not remains near.
        self.scale.copy_(torch.where(scale < 1e-5, 1.0, scale.clamp(min=1e-3)))
        self._finish(every)
        # Alike splits have one spread.
        group = self.tree.group
        totals = torch.zeros_like(self.scarce).index_add(0, group, square / len(batch))
        n = torch.zeros_like(self.scarce).index_add(0, group, torch.ones_like(square))
        spread = (totals / n).sqrt()
        self.spread.copy_(torch.where(spread < 1e-6, 1.0, spread)[group])

    def _begin(self, batch: Batch) -> None:
        """Begin to count how splits divide."""
        most = batch.x.sum(1).max().clamp(min=4 * self.threshold) / self.threshold
        self.splits.start(self.knot(torch.full_like(most, 2.0)), self.knot(most))
        self._sides = self.scarce.new_zeros(2, len(self.scarce))

    def _count(self, nodes: Tensor, weight: Tensor | None) -> None:
        """Count a piece of the rows, given the energies of their nodes in MeV."""
        whole, s = self._fractions(nodes)
        few = whole < SCARCE
        self.splits.count(torch.where(few, torch.nan, self.knot(whole)), s, self.tree.group, weight)
        for side, to in ((0, -torch.inf), (1, torch.inf)):
            n = (few & (whole > 0) & (s == to)).to(self._sides)
            n = n if weight is None else n * weight.to(n)
            self._sides[side].index_add_(0, self.tree.group, n.sum(0))

    def _finish(self, logs: Tensor) -> None:
        """Fill the tables; `logs` are those of all rows."""
        self.splits.finish()
        self.scarce.copy_((self._sides[0] + 1) / (self._sides.sum(0) + 2))
        del self._sides

    def forward(
        self, batch: Batch, generator: torch.Generator | None = None
    ) -> tuple[Batch, Tensor | None]:
        """Map `numbers`; in training, those of a symmetric copy where there are some."""
        if self.training and self.copies is not None:
            n = torch.randint(
                len(self.copies), (len(batch),), generator=generator, device=batch.x.device
            )
            batch = batch.replace(x=batch.x.gather(1, self.copies[n]))
        return self.numbers(batch)

    def numbers(self, batch: Batch) -> tuple[Batch, Tensor]:
        """Map showers; ln|det| is per MeV of each voxel with energy."""
        nodes = self.tree.gather(batch.x)
        first, log_det = self._first_number(batch)
        whole, s = self._fractions(nodes)
        y, group = self.knot(whole), self.tree.group
        level, both = self.splits.level(y, s, group), torch.isfinite(s) & (whole > 0)
        slope = self.splits.log_slope(y, s, group) - log_width(level) + self._log_scale(nodes)
        log_det = log_det + torch.where(both, slope, 0.0).sum(1)
        x = torch.where(both, torch.logit(level), s.clamp(ALL_RIGHT, ALL_LEFT))
        latents = [first, torch.where(whole > 0, x, 0.0)]
        latents.append(torch.where(whole > 0, whole.clamp(min=1).log(), -1.0))
        latents.append(self._contrasts(nodes) / self.spread)
        condition = self.condition_of(self._incident(batch), nodes)
        latent = torch.cat([part.to(batch.x) for part in latents], 1)
        return batch.replace(x=latent, condition=condition.to(batch.x)), log_det.to(batch.x)

    def inverse(self, batch: Batch) -> Batch:
        """Map back; the condition of the result are the incident energies, (B, 1)."""
        if batch.condition is None:
            raise DomainError("numbers of showers without the energies they stand for")
        incident = (batch.condition[:, :1] * self.scale[:1] + self.centre[:1]).exp()
        first = batch.x[:, :1]
        total = self.response(torch.sigmoid(first.double()), incident)
        total = torch.where(first[:, 0] < EMPTY / 2, 0.0, total)
        x = self.tree.scatter(total, self._division(batch.x[:, 1:]))
        return batch.replace(x=x, condition=incident)

    def _division(self, numbers: Tensor) -> Callable[[Tensor, slice], tuple[Tensor, Tensor]]:
        """Return what divides the energies of a stage, given what follows the response."""
        return lambda whole, stage: self.divide(whole, numbers[:, stage], stage)

    def map_condition(self, condition: Tensor) -> Tensor:
        """Map incident energies (B, 1) to the first column of the mapped condition."""
        return (condition.log() - self.centre[:1]) / self.scale[:1]

    def condition_of(self, incident: Tensor, nodes: Tensor) -> Tensor:
        """Return the mapped condition of incident energies, (B, 1), and all nodes', in MeV."""
        return (self._logs(incident, nodes) - self.centre) / self.scale

    def response(self, level: Tensor, incident: Tensor) -> Tensor:
        """Return E_tot in MeV, (B,), of levels F above v_0 and incident energies, (B, 1)."""
        least = self._least(incident)
        level = least + (1 - least) * level
        s = self.total.number(incident.log(), level, self.tree.group.new_zeros(1))
        total = s.to(incident) * self.top * incident
        return total.clamp(min=self.threshold)[:, 0]

    def is_empty(self, incident: Tensor) -> Tensor:
        """Return the probabilities that showers of incident energies (B, 1) are empty, (B,)."""
        return self.total.probabilities(incident.log(), self.tree.group.new_zeros(1))[0][:, 0]

    def draw(self, noise: Tensor, incident: Tensor) -> Tensor:
        """Return E_tot in MeV, (B,), of standard normal noise and incident energies, (B, 1)."""
        empty = self.is_empty(incident)[:, None].double()
        level = (torch.special.ndtr(noise.double()) - empty) / (1 - empty)
        return torch.where(level[:, 0] < 0, 0.0, self.response(level, incident))

    def divide(self, whole: Tensor, latent: Tensor, stage: slice) -> tuple[Tensor, Tensor]:
        """Return (L, R) in MeV, (B, n), of the splits `stage` of energies W, given their numbers.

        What does not suffice for two sides goes to the one that would have more.
        """
        w, group = whole / self.threshold, self.tree.group[stage]
        s = self.splits.number(self.knot(w), torch.sigmoid(latent.double()), group).to(whole)
        scarce = w < SCARCE
        to_right = (latent < ALL_RIGHT / 2) | (scarce & (s <= 0.5))
        to_left = (latent > ALL_LEFT / 2) | (scarce & (s > 0.5))
        return self.part(whole, s, to_right, to_left)

    def part(
        self, whole: Tensor, s: Tensor, to_right: Tensor, to_left: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return (L, R) of energies W in MeV, given s, or that all goes to one side."""
        t = (2 * s - 1) * _span(whole / self.threshold)
        # Each side from its own sigmoid: the small one keeps its precision.
        left = torch.maximum(whole * torch.sigmoid(t), self.threshold)
        right = torch.maximum(whole * torch.sigmoid(-t), self.threshold)
        left = torch.where(to_left, whole, torch.where(to_right, 0.0, left))
        right = torch.where(to_right, whole, torch.where(to_left, 0.0, right))
        return left, right

    def outcomes(self, whole: Tensor, group: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return p of all right, of all left and of both, at energies W in units of v_0."""
        right, left = self.splits.probabilities(self.knot(whole), group)
        scarce, few = self.scarce[group], whole < SCARCE
        both = torch.where(few, 0.0, (1 - right - left).clamp(min=LOG_LEAST))
        right = torch.where(few, scarce, right.clamp(min=LOG_LEAST))
        left = torch.where(few, 1 - scarce, left.clamp(min=LOG_LEAST))
        return right, left, both

    def knot(self, whole: Tensor) -> Tensor:
        """Return the condition of the splits' distributions, of energies W in units of v_0."""
        return (whole - 2 + NEAR).clamp(min=NEAR).log()

    def _incident(self, batch: Batch) -> Tensor:
        if batch.condition is None:
            raise DomainError(
                "showers without incident energies: pass them as the condition (B, 1)"
            )
        return batch.condition

    def _logs(self, incident: Tensor, nodes: Tensor) -> Tensor:
        """Return ln E_inc, ln E_tot and ln E_i, (B, 2 + n_layers)."""
        energies = torch.cat([nodes[:, :1], nodes[:, self.tree.layers]], 1)
        return torch.cat([incident, energies.clamp(min=self.threshold)], 1).log()

    def _least(self, incident: Tensor) -> Tensor:
        """Return (B, 1), what a smooth table of responses has below the threshold."""
        s = self.threshold / (self.top * incident)
        return self.total.level(incident.log(), s, self.tree.group.new_zeros(1))

    def _response(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return (ln E_inc, s), (B, 1) each; s is -inf for empty showers."""
        incident, total = self._incident(batch), batch.x.sum(1, keepdim=True)
        s = (total / incident / self.top).clamp(0, 1)
        return incident.log(), torch.where(total > 0, s, -torch.inf)

    def _first_number(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the number of the response, (B, 1), and ln|det|, (B,)."""
        y, s = self._response(batch)
        only = self.tree.group.new_zeros(1)
        least, is_empty = self._least(self._incident(batch)), s == -torch.inf
        level = (self.total.level(y, s, only) - least) / (1 - least)
        level = level.clamp(EDGE, 1 - EDGE)
        slope = self.total.log_slope(y, s, only) - log_width(level) - (1 - least).log()
        slope = slope - (self.top * self._incident(batch)).log()
        number = torch.where(is_empty, EMPTY, torch.logit(level))
        return number, torch.where(is_empty, 0.0, slope)[:, 0]

    def _fractions(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Return (W/v_0, s), (B, n_splits) each; s is -inf or +inf if all is on one side."""
        left, right = self.tree.sides(nodes)
        whole = (left + right) / self.threshold
        s = 0.5 + 0.5 * (left / right).log() / _span(whole).clamp(min=SPAN)
        s = torch.where(left > 0, s.clamp(0, 1), -torch.inf)
        return whole, torch.where((right <= 0) & (left > 0), torch.inf, s)

    def _log_scale(self, nodes: Tensor) -> Tensor:
        """Return ln ds/dL of splits with two sides, (B, n_splits)."""
        left, right = self.tree.sides(nodes)
        span = _span((left + right) / self.threshold).clamp(min=SPAN)
        return (0.5 * (1 / left + 1 / right) / span).log()

    def _contrasts(self, nodes: Tensor) -> Tensor:
        left, right = self.tree.sides(nodes)
        return (left - right) / nodes[:, self.tree.base].clamp(min=self.threshold)


def _span(whole: Tensor) -> Tensor:
    """Return the largest ln(L/R) of a split of energy W, in units of v_0."""
    return (whole - 1).clamp(min=1).log()


def log_width(level: Tensor) -> Tensor:
    """Return ln dF/dx of x = logit F."""
    return (level * (1 - level)).log()


def log_odds(z: Tensor) -> Tensor:
    """Return standard logistic numbers of standard normal ones."""
    logistic: Tensor = torch.special.log_ndtr(z) - torch.special.log_ndtr(-z)
    return logistic
