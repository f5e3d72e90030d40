r"""From calorimeter showers to Gaussian numbers and back.

Layer energies E_i, in an order in which the layer with most energy comes last:

    u_0 = sum_i E_i / E_inc,    u_i = E_i / R_i,    R_i = sum_{j >= i} E_j.

Voxels v of layer i are taken relative to E'_i = E_i \lambda with ln \lambda ~ N(0, jitter^2):
without it the condition would fix the sum over a layer, and the density would be singular.

E_tot/E_inc is made Gaussian as it is. Every other number x is put on a scale s between the readout
threshold v_0 (the smallest energy in the data) and what it is a part of:

    s = ln(x/v_0) / ln(X/v_0),    X = R_i for layers, E'_i for voxels,

so that s = 0 is the threshold and s = 1 the whole at every energy, and then made Gaussian given X
(given E_inc for E_tot; see `quantile_table`): one distribution a layer, and one a ring, pooled over
its sectors. Empty layers, and layers that hold all that remains, are atoms, drawn within their
interval of z. Voxels without energy are told apart: they become `OFF`, and the others are Gaussian
by themselves, so that a model can treat the two as the different things they are.

Voxels come a second time, as shares v/E'_i in units of their ring's spread. This says nothing new,
but sums over a layer and its centre of energy are linear in it: networks look at it.

Back in MeV the survivors of the threshold are rescaled to the layer energy subject to it:

    v -> v_0 + f (v - v_0),    f = (E_i - n v_0) / sum (v - v_0),

which keeps each of the n survivors above the threshold. If the layer has too little energy for n of
them, the smallest are dropped first; if it has energy but no survivor, the voxel that has energy
most often takes it. Layer energies therefore come out exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import DomainError
from physgen.systems.geometry import Geometry
from physgen.transforms.base import Transform
from physgen.transforms.quantile_table import QuantileTable

OFF = -32.0
"""What a voxel without energy is mapped to; every voxel with energy lies above `OFF / 2`."""


class ShowerTransform(Transform):
    """Map showers (B, n_voxels) to (B, n_layers + 2 n_voxels): Gaussian or `OFF`, then shares.

    The mapped condition is (B, 1 + n_layers): standardised ln E_inc and ln E'_i, the latter at
    the threshold for empty layers. The first column alone conditions the first n_layers numbers
    (the layer energies), all of it the others (the voxels).

    Args:
        schema: of the showers.
        geometry: of the voxels.
        n_knots: of the distribution functions, in the logarithm of the energy.
        n_bins: of the voxels' distribution functions; layers have 16 times as many.
        jitter: see the module's description.
    """

    exact = False
    threshold: Tensor
    order: Tensor
    centre: Tensor
    scale: Tensor
    layer: Tensor
    ring: Tensor
    spread: Tensor

    def __init__(
        self,
        schema: Schema,
        geometry: Geometry,
        *,
        n_knots: int = 24,
        n_bins: int = 128,
        jitter: float = 0.03,
    ) -> None:
        super().__init__()
        if schema.shape != (geometry.n_voxels,):
            raise DomainError(
                f"showers of shape {schema.shape}, but the binning has {geometry.n_voxels} voxels"
            )
        self.n_layers, self.n_voxels = len(geometry.layers), geometry.n_voxels
        self.sizes = [layer.n_voxels for layer in geometry.layers]
        self.jitter = jitter
        self.register_buffer("threshold", torch.tensor(1.0))
        self.register_buffer("order", torch.arange(self.n_layers))
        self.register_buffer("centre", torch.zeros(1 + self.n_layers))
        self.register_buffer("scale", torch.ones(1 + self.n_layers))
        self.register_buffer("layer", torch.from_numpy(geometry.layer))
        self.register_buffer("ring", torch.from_numpy(geometry.ring))
        self.register_buffer("spread", torch.ones(self.n_voxels))
        self.total = QuantileTable(1, n_knots, 16 * n_bins)
        self.shares = QuantileTable(max(self.n_layers - 1, 1), n_knots, 16 * n_bins)
        self.voxels = QuantileTable(int(geometry.ring.max()) + 1, n_knots, n_bins)

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Layer energies, voxels, and voxels as shares."""
        return (self.n_layers + 2 * self.n_voxels,)

    def latent_condition(self, n_condition: int) -> int:
        """The incident and the layer energies."""
        return 1 + self.n_layers

    def fit(self, batch: Batch) -> None:
        """Learn threshold, order and distribution functions."""
        positive = batch.x[batch.x > 0]
        if not len(positive):
            raise DomainError("all showers are empty: nothing to learn from")
        self.threshold.copy_(positive.min())
        energies = self.layer_energies(batch.x)
        self.order.copy_(energies.mean(0).argsort())
        conditions = torch.cat([self._incident(batch), self._floor(energies)], 1).log()
        self.centre.copy_(conditions.mean(0))
        self.scale.copy_(conditions.std(0).clamp(min=1e-3))
        y, s = self._total(batch, energies)
        self.total.fit(y, s, self.order[:1] * 0, batch.weight)
        if self.n_layers > 1:
            y, s = self._shares(energies)
            self.shares.fit(y, s, self._groups, batch.weight)
        y, s = self._parts_of_layers(batch.x, energies)
        self.voxels.fit(y, s, self.ring, batch.weight)
        square = (batch.x / self._floor(energies)[:, self.layer]).square().mean(0)
        rings = torch.zeros_like(self.voxels.top).index_add(0, self.ring, square)
        rings /= torch.zeros_like(rings).index_add(0, self.ring, torch.ones_like(square))
        self.spread.copy_(rings.sqrt().clamp(min=1e-6)[self.ring])

    def forward(
        self, batch: Batch, generator: torch.Generator | None = None
    ) -> tuple[Batch, Tensor | None]:
        """Map to Gaussian numbers, adding the noise of the atoms and of the reference energies."""
        energies = self.layer_energies(batch.x)
        y, s = self._total(batch, energies)
        latents = [self.total.with_atoms(y, s, self.order[:1] * 0, generator)]
        if self.n_layers > 1:
            y, s = self._shares(energies)
            latents.append(self.shares.with_atoms(y, s, self._groups, generator))
        noise = torch.randn(
            energies.shape, generator=generator, device=energies.device, dtype=energies.dtype
        )
        reference = energies * (self.jitter * noise).exp()
        y, s = self._parts_of_layers(batch.x, reference)
        z = self.voxels.gaussian(y, s, self.ring)
        latents.append(torch.where(torch.isfinite(s), z, OFF))
        latents.append(batch.x / self._floor(reference)[:, self.layer] / self.spread)
        condition = self._standardise(self._incident(batch), reference)
        latent = torch.cat(latents, 1).to(batch.x.dtype)
        return batch.replace(x=latent, condition=condition.to(batch.x.dtype)), None

    def map_condition(self, condition: Tensor) -> Tensor:
        """Map incident energies (B, 1) to the first column of the mapped condition."""
        return (condition.log() - self.centre[:1]) / self.scale[:1]

    def condition_of(self, condition: Tensor, energies: Tensor) -> Tensor:
        """Return the mapped condition, (B, 1 + n_layers), of incident and layer energies in MeV."""
        return self._standardise(condition, energies)

    def inverse(self, batch: Batch) -> Batch:
        """Map back; the condition of the result are the incident energies, (B, 1)."""
        if batch.condition is None:
            raise DomainError("Gaussian numbers of showers without the energies they stand for")
        logs = batch.condition * self.scale + self.centre
        incident, reference = logs[:, :1].exp(), logs[:, 1:].exp()
        energies = self.to_layers(batch.x[:, : self.n_layers], incident)
        x = self.to_voxels(batch.x[:, self.n_layers :][:, : self.n_voxels], reference, energies)
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

    def to_voxels(self, latent: Tensor, reference: Tensor, energies: Tensor) -> Tensor:
        """Map the last n_voxels numbers to voxels in MeV that sum to the layer energies.

        Args:
            latent: (B, n_voxels).
            reference: (B, n_layers) the energies E' of the module's description.
            energies: (B, n_layers) the energies to be met.
        """
        y = self._floor(reference).log()[:, self.layer]
        v = self._energy(y, latent, self.ring)
        zero, _ = self.voxels.probabilities(y, self.ring)
        # In a layer without survivors the voxel that has energy most often takes all.
        pieces = zip(
            torch.split(v, self.sizes, 1),
            torch.split(-zero, self.sizes, 1),
            energies.unbind(1),
            strict=True,
        )
        return torch.cat([rescale(*piece, self.threshold) for piece in pieces], 1)

    def share(self, latent: Tensor, log_reference: Tensor, voxel: int) -> Tensor:
        """Return (B,) what a voxel's numbers (B,) become as shares, given ln E' of its layer."""
        y, ring = log_reference[:, None], self.ring[voxel : voxel + 1]
        energy = self._energy(y, latent[:, None], ring) / y.exp()
        return energy[:, 0] / self.spread[voxel]

    def log_references(self, condition: Tensor) -> Tensor:
        """Return (B, n_layers), ln E', given the mapped condition."""
        return condition[:, 1:] * self.scale[1:] + self.centre[1:]

    def _energy(self, y: Tensor, latent: Tensor, group: Tensor) -> Tensor:
        v0 = self.threshold
        s = self.voxels.number(y, latent, group)
        return torch.where(latent > OFF / 2, v0 * (s * (y - v0.log())).exp(), 0.0)

    def log_odds(self, condition: Tensor) -> Tensor:
        """Return (B, n_voxels) log-odds of voxels having energy, given the mapped condition."""
        y = self.log_references(condition)[:, self.layer]
        zero, _ = self.voxels.probabilities(y, self.ring)
        return torch.logit(zero, eps=1e-6).neg()

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

    def _standardise(self, incident: Tensor, energies: Tensor) -> Tensor:
        logs = torch.cat([incident, self._floor(energies)], 1).log()
        return (logs - self.centre) / self.scale

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

    def _parts_of_layers(self, x: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """Return (ln E', s), (B, n_voxels) each."""
        v0 = self.threshold
        whole = self._floor(reference)[:, self.layer]
        s = (x / v0).log() / (whole / v0).log().clamp(min=1e-3)
        s = torch.where(x > 0, s.clamp(0, 2), -torch.inf)
        present = (reference > 0)[:, self.layer]
        return torch.where(present, whole.log(), torch.nan), s


def rescale(v: Tensor, margin: Tensor, energy: Tensor, threshold: Tensor) -> Tensor:
    """Make voxels sum to an energy, none of the survivors falling below the threshold.

    Args:
        v: (B, n) voxels of a layer, 0 or at least the threshold.
        margin: (B, n) which voxel takes the energy of a layer without survivors: the largest.
        energy: (B,) to be met; 0 or at least the threshold.
        threshold: (), of the readout.

    Returns:
        (B, n), in double precision inside.
    """
    kind = v.dtype
    v, energy, v0 = v.double(), energy.double()[:, None], threshold.double()
    nearest = torch.zeros_like(v).scatter_(1, margin.argmax(1, keepdim=True), 1.0)
    v = torch.where((v > 0).any(1, keepdim=True), v, nearest * v0)
    affordable = (energy / v0 * (1 + 1e-6)).floor()
    rank = v.argsort(1, descending=True).argsort(1)
    kept = (v > 0) & (rank < affordable)
    excess = torch.where(kept, (v - v0).clamp(min=1e-9 * v0), 0.0)
    n = kept.sum(1, keepdim=True)
    factor = (energy - n * v0).clamp(min=0) / excess.sum(1, keepdim=True).clamp(min=1e-12 * v0)
    return torch.where(kept, v0 + factor * excess, 0.0).to(kind)
