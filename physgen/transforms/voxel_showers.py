r"""Calorimeter showers as one Gaussian number a voxel, given the energies of the layers.

A voxel of energy v in a layer of energy E is empty, holds all of E, or has, with the readout
threshold v_0 (the smallest energy in the data),

    s = ln(v/v_0) / ln(E/v_0)    in [0, 1],

whose distribution, that of the ring, is a table conditional on E (`QuantileTable`). z is the
standard normal quantile of it; the two atoms are drawn within their intervals of z. All sectors of
a ring share a table, so that z turns with the shower. Back from any z, at most E/v_0 voxels have
energy and one at least, and what they have above the threshold is scaled by one factor a layer:

    v_i = v_0 + (u_i - v_0) (E - n v_0) / \sum_j (u_j - v_0),

u_i what the table says, and n the number of voxels with energy. So the voxels of a layer sum to its
energy, none lies below the threshold, and what was mapped comes back. (Layer energies first, then
voxels as shares of their layer: Krause & Shih, arXiv 2106.05285; Amram & Pedro, arXiv 2308.03876.)

The energies of the layers are numbers of their own, those of `GaussianShowers` of a calorimeter
whose layers have one voxel each.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError
from physgen.systems.calorimeter import Calorimeter
from physgen.systems.geometry import Geometry
from physgen.transforms.base import Transform
from physgen.transforms.gaussian_showers import FAR, GaussianShowers
from physgen.transforms.quantile_table import QuantileTable, worth
from physgen.transforms.showers import LOG_LEAST, NEAR, PIECE

WHOLE = 1 - 1e-6
"""Share of its layer above which a voxel has all of it."""
ROUNDING = 1e-6
"""Share of its energy by which a layer may miss that of n voxels at the threshold."""


class VoxelShowers(Transform):
    """Map showers (B, n_voxels) in MeV to (B, n_voxels) standard normal numbers.

    The mapped condition is (B, 1 + 2 n_layers): standardised ln E_inc and ln E_i of the layers, as
    `map_condition` has them of the energies in MeV, and the Gaussian numbers of the latter.

    Args:
        schema: of the showers.
        geometry: of the voxels.
        n_knots: of the distribution functions, in the logarithm of the energy.
        n_bins: of the distribution functions.

    Raises:
        DomainError: the samples are no showers of this geometry.

    >>> system = Calorimeter()
    >>> transform = VoxelShowers(system.schema, system.geometry)
    >>> showers = system.simulate(200, seed=1)
    >>> transform.fit(showers)
    >>> mapped, _ = transform(showers)
    >>> mapped.x.shape, mapped.condition.shape
    (torch.Size([200, 368]), torch.Size([200, 11]))
    """

    exact = False
    mixes = True

    threshold: Tensor
    centre: Tensor
    scale: Tensor
    layer: Tensor
    ring: Tensor
    first: Tensor

    def __init__(
        self, schema: Schema, geometry: Geometry, *, n_knots: int = 32, n_bins: int = 256
    ) -> None:
        super().__init__()
        if schema.shape != (geometry.n_voxels,):
            raise DomainError(
                f"showers of shape {schema.shape}, but the binning has {geometry.n_voxels} voxels"
            )
        self.n_layers = len(geometry.layers)
        single = Calorimeter(binning=Path(f"layers:{self.n_layers}x1"))
        energies = Schema((self.n_layers,), (Variable("E_layer", "MeV"),))
        self.layers = GaussianShowers(energies, system=single, n_knots=n_knots)
        self.voxels = QuantileTable(int(geometry.ring[-1]) + 1, n_knots, n_bins)
        self.register_buffer("threshold", torch.tensor(1.0))
        self.register_buffer("centre", torch.zeros(1 + self.n_layers))
        self.register_buffer("scale", torch.ones(1 + self.n_layers))
        of_geometry = {"layer": geometry.layer, "ring": geometry.ring, "first": geometry.offsets}
        for name, values in of_geometry.items():
            self.register_buffer(name, torch.as_tensor(values), persistent=False)

    def latent_condition(self, n_condition: int) -> int:
        """The incident energy and those of the layers."""
        return 1 + self.n_layers

    def fit(self, batch: Batch) -> None:
        """Learn threshold and distribution functions, piece by piece."""
        batch = worth(batch)
        step = max(1, PIECE // batch.x.shape[1])
        parts = [batch[i : i + step] for i in range(0, len(batch), step)]
        energies = torch.cat([self.layer_energies(part.x) for part in parts])
        self.layers.fit(batch.replace(x=energies))
        self.threshold.copy_(torch.stack([p.x[p.x > 0].min() for p in parts if p.x.any()]).min())
        logs = self._logs(torch.cat([_incident(batch), energies], 1))
        self.centre.copy_(logs.mean(0))
        self.scale.copy_(logs.std(0).clamp(min=1e-3))
        most = (energies.max() / self.threshold).clamp(min=4)
        self.voxels.start(_knot(torch.ones_like(most)), _knot(most))
        for part in parts:
            whole, s = self._shares(part.x)
            y = torch.where(whole > 0, _knot(whole), torch.nan)
            weight = None if part.weight is None else part.weight[:, None]
            self.voxels.count(y, s, self.ring, weight)
        self.voxels.finish()

    def forward(
        self, batch: Batch, generator: torch.Generator | None = None
    ) -> tuple[Batch, Tensor | None]:
        """Map to Gaussian numbers, adding the noise of atoms and of layers without energy."""
        energies = self.layer_energies(batch.x)
        numbers, _ = self.layers(batch.replace(x=energies), generator)
        whole, s = self._shares(batch.x)
        zero, one = self._atoms(whole)
        coin = torch.rand(s.shape, generator=generator, device=s.device, dtype=torch.float64)
        inner = zero + (1 - zero - one) * self.voxels.level(_knot(whole), s, self.ring)
        level = torch.where(s == -torch.inf, coin * zero, inner)
        level = torch.where(s == torch.inf, 1 - coin * one, level)
        level = torch.where(whole > 0, level, coin)
        z = torch.special.ndtri(level.clamp(FAR, 1 - FAR))
        given = self.map_condition(torch.cat([_incident(batch), energies], 1))
        condition = torch.cat([given, numbers.x], 1)
        return batch.replace(x=z.to(batch.x), condition=condition.to(batch.x)), None

    def inverse(self, batch: Batch) -> Batch:
        """Map back to voxels in MeV; the condition of the result are incident energies, (B, 1).

        The mapped condition is that of `map_condition`; what stands behind it is not looked at.
        """
        if batch.condition is None:
            raise DomainError("Gaussian numbers of showers without the energies they stand for")
        given = batch.condition[:, : 1 + self.n_layers].double()
        energies = (given * self.scale + self.centre).exp()
        layers = torch.where(energies[:, 1:] < 0.75 * self.threshold, 0.0, energies[:, 1:])
        x = self.showers(batch.x, layers)
        return Batch(x.to(batch.x), energies[:, :1].to(batch.x), batch.weight)

    def map_condition(self, condition: Tensor) -> Tensor:
        """Map incident energies and those of layers, (B, 1 + n_layers) in MeV."""
        return (self._logs(condition) - self.centre) / self.scale

    def layer_energies(self, x: Tensor) -> Tensor:
        """Return the energies of the layers, (B, n_layers) in MeV, of showers (B, n_voxels)."""
        return self._sums(x.double()).to(x)

    def drawn_layers(self, numbers: Tensor, incident: Tensor) -> Tensor:
        """Return energies of layers, (B, n_layers), of their Gaussian numbers and E_inc, (B, 1)."""
        given = self.layers.map_condition(incident)
        return self.layers.inverse(Batch(numbers, given)).x

    def showers(self, z: Tensor, energies: Tensor) -> Tensor:
        """Return voxels in MeV, (B, n_voxels), of their Gaussian numbers and layer energies.

        Args:
            z: (B, n_voxels).
            energies: (B, n_layers) in MeV, 0 or at the threshold at least.
        """
        threshold = self.threshold.double()
        layers = energies.double() / threshold
        whole = layers[:, self.layer]
        zero, one = self._atoms(whole)
        level = torch.special.ndtr(z.double())
        # Below 1 where there is energy; of few with energy the smallest are the most probable.
        rank = (1 - level) / (1 - zero)
        most = (layers * (1 + ROUNDING)).floor()
        n = self._sums((rank < 1).double()).clamp(min=1).minimum(most)
        # Layer by layer, in one go.
        place = (self.layer + rank / (1 + rank)).argsort(1).argsort(1) - self.first[self.layer]
        there = place < n[:, self.layer]
        inner = ((level - zero) / (1 - zero - one)).clamp(0, 1)
        s = self.voxels.number(_knot(whole), inner, self.ring)
        share = torch.where(level > 1 - one, 1.0, s)
        # At the threshold all alike, where nothing is above it.
        above = (whole.clamp(min=1).pow(share) - 1).clamp(min=ROUNDING) * there
        left = (layers - n).clamp(min=0) / self._sums(above).clamp(min=ROUNDING)
        x: Tensor = threshold * (there + above * left[:, self.layer])
        return x.to(energies)

    def _shares(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (E/v_0, s), (B, n_voxels) each; s is -inf if empty, +inf if it has all of E."""
        whole = (self._sums(x.double()) / self.threshold)[:, self.layer]
        v = x.double() / self.threshold
        s = (v.clamp(min=1).log() / whole.clamp(min=1 + ROUNDING).log()).clamp(0, 1)
        s = torch.where(v >= WHOLE * whole, torch.inf, s)
        return whole, torch.where(v > 0, s, -torch.inf)

    def _atoms(self, whole: Tensor) -> tuple[Tensor, Tensor]:
        """Return the probabilities that voxels are empty and have all of E/v_0."""
        zero, one = self.voxels.probabilities(_knot(whole), self.ring)
        zero, one = (p.double().clamp(LOG_LEAST, 1 - 4 * LOG_LEAST) for p in (zero, one))
        return zero, one.minimum(1 - LOG_LEAST - zero)

    def _sums(self, x: Tensor) -> Tensor:
        """Return sums over the voxels of each layer, (B, n_layers)."""
        return x.new_zeros(x.shape[0], self.n_layers).index_add(1, self.layer, x)

    def _logs(self, energies: Tensor) -> Tensor:
        """Return logarithms of incident and layer energies, of empty layers that of v_0/2."""
        incident, layers = energies[:, :1], energies[:, 1:]
        return torch.cat([incident, layers.clamp(min=self.threshold / 2)], 1).log()


def _incident(batch: Batch) -> Tensor:
    if batch.condition is None:
        raise DomainError("showers without incident energies: pass them as the condition (B, 1)")
    return batch.condition


def _knot(whole: Tensor) -> Tensor:
    """Return the condition of the tables, of layer energies in units of v_0."""
    return (whole - 2 + NEAR).clamp(min=NEAR).log()
