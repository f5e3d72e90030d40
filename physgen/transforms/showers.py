r"""From calorimeter showers to Gaussian numbers and back.

Layer energies E_i, in an order in which the layer with most energy comes last:

    u_0 = sum_i E_i / E_inc,    u_i = E_i / R_i,    R_i = sum_{j >= i} E_j.

E_tot/E_inc is made Gaussian as it is. The others are put on a scale between the readout threshold
v_0 (the smallest energy in the data) and what they are a part of,

    s_i = ln(E_i/v_0) / ln(R_i/v_0),

so that s = 0 is the threshold and s = 1 the whole at every energy, and then made Gaussian given R_i
(given E_inc for E_tot; see `quantile_table`). Empty layers, and layers that hold all that remains,
are atoms, drawn within their interval of z.

The energy of a layer is divided among its voxels by the splits of a `SplitTree`: the s of a split
of energy W is made Gaussian given W, with one distribution for each kind of split. Splits that give
all to one side are told apart from the others, so that a model can treat the two as the different
things they are. Layer energies come out exactly, and no voxel falls below the threshold.

What a network should look at besides: ln(W/v_0), and the contrast (L - R)/E_i in units of its
spread, since the centre and the width of a layer are linear in the contrasts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import DomainError
from physgen.systems.geometry import Geometry
from physgen.transforms.base import Transform
from physgen.transforms.quantile_table import QuantileTable
from physgen.transforms.splits import SplitTree

ALL_RIGHT, ALL_LEFT = -32.0, 32.0
"""What a split is mapped to that gives all to one side; the others lie within half of that."""
SPAN = 1e-3
"""Least range of ln(L/R) that is stretched to [0, 1]: below, nothing is left to be told."""


class ShowerTransform(Transform):
    """Map showers (B, n_voxels) to (B, n_layers + 3 n_splits).

    These are the numbers of the layer energies; the Gaussian number of each split (`ALL_RIGHT` or
    `ALL_LEFT` where it is not one; 0 where there is nothing to split); ln(W/v_0) of each split,
    -1 where there is nothing to split; and the contrasts.

    The mapped condition is (B, 1 + n_layers): standardised ln E_inc and ln E_i, the latter at
    the threshold for empty layers. The first column alone conditions the first n_layers numbers.

    Args:
        schema: of the showers.
        geometry: of the voxels.
        n_knots: of the distribution functions, in the logarithm of the energy.
        n_bins: of the splits' distribution functions; layers have 16 times as many.
    """

    exact = False
    threshold: Tensor
    order: Tensor
    centre: Tensor
    scale: Tensor
    spread: Tensor

    def __init__(
        self, schema: Schema, geometry: Geometry, *, n_knots: int = 24, n_bins: int = 128
    ) -> None:
        super().__init__()
        if schema.shape != (geometry.n_voxels,):
            raise DomainError(
                f"showers of shape {schema.shape}, but the binning has {geometry.n_voxels} voxels"
            )
        self.n_layers = len(geometry.layers)
        self.tree = SplitTree(geometry)
        self.n_splits = self.tree.n_splits
        self.sizes = [layer.n_voxels for layer in geometry.layers]
        self.register_buffer("threshold", torch.tensor(1.0))
        self.register_buffer("order", torch.arange(self.n_layers))
        self.register_buffer("centre", torch.zeros(1 + self.n_layers))
        self.register_buffer("scale", torch.ones(1 + self.n_layers))
        self.register_buffer("spread", torch.ones(self.n_splits))
        self.total = QuantileTable(1, n_knots, 16 * n_bins, bounded=False)
        self.shares = QuantileTable(max(self.n_layers - 1, 1), n_knots, 16 * n_bins, bounded=True)
        self.splits = QuantileTable(max(self.tree.n_groups, 1), n_knots, n_bins, bounded=True)

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Layer energies, splits, their energies, and contrasts."""
        return (self.n_layers + 3 * self.n_splits,)

    def latent_condition(self, n_condition: int) -> int:
        """The incident and the layer energies."""
        return 1 + self.n_layers

    def fit(self, batch: Batch) -> None:
        """Learn threshold, order and distribution functions."""
        positive = batch.x[batch.x > 0]
        if not len(positive):
            raise DomainError("all showers are empty: nothing to learn from")
        self.threshold.copy_(positive.min())
        nodes = self.tree.gather(batch.x)
        energies = nodes[:, : self.n_layers]
        self.order.copy_(energies.mean(0).argsort())
        conditions = torch.cat([self._incident(batch), self._floor(energies)], 1).log()
        self.centre.copy_(conditions.mean(0))
        self.scale.copy_(conditions.std(0).clamp(min=1e-3))
        y, s = self._total(batch, energies)
        self.total.fit(y, s, self.order[:1] * 0, batch.weight)
        if self.n_layers > 1:
            y, s = self._shares(energies)
            self.shares.fit(y, s, self._groups, batch.weight)
        if self.n_splits:
            y, s = self._fractions(nodes)
            self.splits.fit(y, s, self.tree.group, batch.weight)
        # Alike splits have one spread.
        square = self._contrasts(nodes).square().mean(0)
        total = torch.zeros_like(self.splits.top).index_add(0, self.tree.group, square)
        n = torch.zeros_like(total).index_add(0, self.tree.group, torch.ones_like(square))
        self.spread.copy_((total / n).sqrt().clamp(min=1e-6)[self.tree.group])

    def forward(
        self, batch: Batch, generator: torch.Generator | None = None
    ) -> tuple[Batch, Tensor | None]:
        """Map to Gaussian numbers, adding the noise of the layers' atoms."""
        nodes = self.tree.gather(batch.x)
        energies = nodes[:, : self.n_layers]
        latents = self._layer_numbers(batch, energies, generator)
        y, s = self._fractions(nodes)
        z = self.splits.gaussian(y, s, self.tree.group)
        z = torch.where(torch.isfinite(s), z, s.clamp(ALL_RIGHT, ALL_LEFT))
        latents.append(torch.where(torch.isnan(y), 0.0, z))
        latents.append((y - self.threshold.log()).nan_to_num(-1.0))
        latents.append(self._contrasts(nodes) / self.spread)
        condition = self.condition_of(self._incident(batch), energies)
        latent = torch.cat(latents, 1).to(batch.x.dtype)
        return batch.replace(x=latent, condition=condition.to(batch.x.dtype)), None

    def _layer_numbers(
        self, batch: Batch, energies: Tensor, generator: torch.Generator | None
    ) -> list[Tensor]:
        """Return the n_layers Gaussian numbers of the layer energies, (B, n) each."""
        y, s = self._total(batch, energies)
        numbers = [self.total.with_atoms(y, s, self.order[:1] * 0, generator)]
        if self.n_layers > 1:
            y, s = self._shares(energies)
            numbers.append(self.shares.with_atoms(y, s, self._groups, generator))
        return numbers

    def bound(self, batch: Batch, generator: torch.Generator | None = None) -> tuple[Batch, Tensor]:
        """Map as `forward` does; return also what bounds the density in x.

        That is a density per MeV for each voxel with energy, and a probability of the others being
        without. The bound is not tight only where layers are empty or hold all that remains.
        """
        mapped, _ = self(batch, generator)
        nodes = self.tree.gather(batch.x)
        y, s = self._fractions(nodes)
        both, scale = self._split_scale(nodes)
        slope = self.splits.log_slope(y, s, self.tree.group) + scale
        volume = self._layer_volume(batch, nodes, mapped.x)
        return mapped, volume + torch.where(both, slope, 0.0).sum(1)

    def _layer_volume(self, batch: Batch, nodes: Tensor, latent: Tensor) -> Tensor:
        """Return what the first n_layers of the numbers `latent` add to the bound, (B,)."""
        incident, v0 = self._incident(batch), self.threshold
        energies = nodes[:, : self.n_layers]
        y, s = self._total(batch, energies)
        volume = self.total.log_volume(y, s, latent[:, :1], self.order[:1] * 0)
        total = (volume - torch.where(torch.isfinite(s), incident.log(), 0.0))[:, 0]
        if self.n_layers > 1:
            y, s = self._shares(energies)
            volume = self.shares.log_volume(y, s, latent[:, 1 : self.n_layers], self._groups)
            part = self._floor(energies[:, self.order][:, :-1])
            scale = part.log() + (y - v0.log()).clamp(min=1e-6).log()
            continuous = torch.isfinite(s) & ~torch.isnan(y)
            total = total + (volume - torch.where(continuous, scale, 0.0)).sum(1)
        return total

    def _split_scale(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Return which splits have two sides, and ln |ds/dL| there, (B, n_splits) each."""
        left, right = self.tree.sides(nodes)
        scale = 0.5 * (1 / left + 1 / right) / self._span(left + right).clamp(min=SPAN)
        return (left > 0) & (right > 0), scale.log()

    def map_condition(self, condition: Tensor) -> Tensor:
        """Map incident energies (B, 1) to the first column of the mapped condition."""
        return (condition.log() - self.centre[:1]) / self.scale[:1]

    def condition_of(self, condition: Tensor, energies: Tensor) -> Tensor:
        """Return the mapped condition, (B, 1 + n_layers), of incident and layer energies in MeV."""
        logs = torch.cat([condition, self._floor(energies)], 1).log()
        return (logs - self.centre) / self.scale

    def inverse(self, batch: Batch) -> Batch:
        """Map back; the condition of the result are the incident energies, (B, 1)."""
        if batch.condition is None:
            raise DomainError("Gaussian numbers of showers without the energies they stand for")
        incident = (batch.condition[:, :1] * self.scale[:1] + self.centre[:1]).exp()
        energies = self.to_layers(batch.x[:, : self.n_layers], incident)
        x = self.to_voxels(batch.x[:, self.n_layers :][:, : self.n_splits], energies)
        return batch.replace(x=x, condition=incident)

    def to_layers(self, latent: Tensor, incident: Tensor) -> Tensor:
        """Map the first n_layers numbers to layer energies in MeV, (B, n_layers)."""
        total = self.total.without_atoms(incident.log(), latent[:, :1], self.order[:1] * 0)
        remaining = total[:, 0].clamp(min=0) * incident[:, 0]
        v0 = self.threshold
        parts = []
        for i in range(self.n_layers - 1):
            y = (remaining / v0).clamp(min=1).log()[:, None]
            group = self._groups[i : i + 1]
            s = self.shares.without_atoms(y + v0.log(), latent[:, i + 1 : i + 2], group)
            part = v0 * (s.clamp(0, 1) * y).exp()[:, 0]
            part = torch.where(s[:, 0] == -torch.inf, 0.0, part)
            part = torch.where(s[:, 0] >= 1, remaining, part)
            # What would leave less than a threshold behind takes all.
            part = torch.where(remaining - part < v0, torch.where(part > 0, remaining, part), part)
            part = torch.where(remaining < v0, 0.0, part)
            parts.append(part)
            remaining = remaining - part
        parts.append(torch.where(remaining < v0, 0.0, remaining))
        return torch.stack(parts, 1)[:, self.order.argsort()]

    def to_voxels(self, latent: Tensor, energies: Tensor) -> Tensor:
        """Map the numbers of the splits, (B, n_splits), to voxels in MeV.

        Args:
            latent: Gaussian, `ALL_RIGHT` or `ALL_LEFT`.
            energies: (B, n_layers) of the layers, in MeV; 0 or at least the threshold.
        """
        return self.tree.scatter(
            energies, lambda whole, stage: self.divide(whole, latent[:, stage], stage)
        )

    def divide(self, whole: Tensor, latent: Tensor, stage: slice) -> tuple[Tensor, Tensor]:
        """Return (L, R), (B, n) each, of the splits `stage` of energies W, given their numbers."""
        s = self.splits.number(self._floor(whole).log(), latent, self.tree.group[stage])
        s = torch.where(latent < ALL_RIGHT / 2, -torch.inf, s)
        return self.part(whole, torch.where(latent > ALL_LEFT / 2, torch.inf, s))

    def part(self, whole: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Return (L, R) of energies W, given s; -inf gives all to the right, +inf to the left."""
        v0 = self.threshold
        t = (2 * s.clamp(0, 1) - 1) * self._span(whole)
        # Each side from its own sigmoid: the small one keeps its precision.
        left = torch.maximum(whole * torch.sigmoid(t), v0)
        right = torch.maximum(whole * torch.sigmoid(-t), v0)
        # What does not suffice for two goes to the side that would have more.
        scarce = whole < 2 * v0
        to_right = torch.isneginf(s) | (scarce & (s <= 0.5))
        to_left = torch.isposinf(s) | (scarce & (s > 0.5))
        left = torch.where(to_left, whole, torch.where(to_right, 0.0, left))
        right = torch.where(to_right, whole, torch.where(to_left, 0.0, right))
        return left, right

    def outcomes(self, whole: Tensor, stage: slice) -> tuple[Tensor, Tensor]:
        """Return ln p of all right and of all left against both, (B, n) each, at energies W."""
        y = self._floor(whole).log()
        right, left = self.splits.probabilities(y, self.tree.group[stage])
        both = torch.where(whole < 2 * self.threshold, 0.0, 1 - right - left).clamp(min=1e-6).log()
        return right.clamp(min=1e-6).log() - both, left.clamp(min=1e-6).log() - both

    def layer_energies(self, x: Tensor) -> Tensor:
        """Sum voxels over layers, (B, n_layers)."""
        return torch.stack([part.sum(1) for part in torch.split(x, self.sizes, 1)], 1)

    @property
    def _groups(self) -> Tensor:
        return torch.arange(self.n_layers - 1, device=self.order.device)

    def _incident(self, batch: Batch) -> Tensor:
        if batch.condition is None:
            raise DomainError(
                "showers without incident energies: pass them as the condition (B, 1)"
            )
        return batch.condition

    def _floor(self, energies: Tensor) -> Tensor:
        return energies.clamp(min=self.threshold)

    def _span(self, whole: Tensor) -> Tensor:
        """Return the largest ln(L/R) of a split of energy W."""
        return (whole / self.threshold - 1).clamp(min=1).log()

    def _total(self, batch: Batch, energies: Tensor) -> tuple[Tensor, Tensor]:
        incident = self._incident(batch)
        total = energies.sum(1, keepdim=True)
        return incident.log(), torch.where(total > 0, total / incident, -torch.inf)

    def _shares(self, energies: Tensor) -> tuple[Tensor, Tensor]:
        """Return (ln R_i, s_i), (B, n_layers - 1) each, in the fitted order."""
        ordered = energies[:, self.order]
        remaining = ordered.flip(1).cumsum(1).flip(1)[:, :-1]
        rest = ordered[:, 1:].flip(1).cumsum(1).flip(1)
        part = ordered[:, :-1]
        v0 = self.threshold
        s = (part / v0).log() / (remaining / v0).log().clamp(min=1e-6)
        s = torch.where(part > 0, s.clamp(0, 1), -torch.inf)
        s = torch.where((rest <= 0) & (part > 0), torch.inf, s)
        return torch.where(remaining > 0, remaining.log(), torch.nan), s

    def _fractions(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Return (ln W, s), (B, n_splits) each; ln W is NaN where there is nothing to split."""
        left, right = self.tree.sides(nodes)
        whole = left + right
        s = 0.5 + 0.5 * (left / right).log() / self._span(whole).clamp(min=SPAN)
        s = torch.where(left > 0, s.clamp(0, 1), -torch.inf)
        s = torch.where((right <= 0) & (left > 0), torch.inf, s)
        return torch.where(whole > 0, whole.log(), torch.nan), s

    def _contrasts(self, nodes: Tensor) -> Tensor:
        left, right = self.tree.sides(nodes)
        return (left - right) / self._floor(nodes[:, self.tree.layer])


def choose(u: Tensor, z: Tensor, log_right: Tensor, log_left: Tensor) -> Tensor:
    """Return the numbers of splits: `ALL_RIGHT`, `ALL_LEFT` or z.

    Args:
        u: uniform in [0, 1), decides.
        z: Gaussian.
        log_right, log_left: ln p of all right and of all left against both.
    """
    right, left = log_right.exp(), log_left.exp()
    place = u * (1 + right + left)
    z = torch.where(place < right, ALL_RIGHT, z)
    return torch.where(place > 1 + right, ALL_LEFT, z)
