r"""Showers as energies and numbers of occupied voxels, divided together.

Each split of a `SplitTree` has, besides its energy W in units of the readout threshold v_0, a
number N. Within a layer it is that of the occupied voxels below the split, W >= N, and N = 0 where
W = 0. A split first divides N = k + m, where k is any number that both sides can hold, and then, if
both sides have some, W = L + R with L >= k and R >= m, by a number s in [0, 1] (`energy_shares`)
that follows k/m on the average, by an exponent beta of each kind of split. Splits of layers come
before there are numbers of voxels: there N = 2 wherever W >= 2, so that k is 0, 1 or 2 as all goes
right, to both sides or left.

So whatever is drawn, a shower has exactly the occupied voxels that it was to have, and none below
the threshold. Tables hold the distribution functions of k, which depends on N, or on W for splits
of layers, and of s, which depends on W - N. First come the energies of the layers, and given all of
them, the numbers N_i of their occupied voxels (`Occupancy`). These so follow the energies, as they
do in a calorimeter, and not the energies them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.systems.geometry import Geometry
from physgen.transforms.energy_shares import above, divided, fractions
from physgen.transforms.occupancy import Occupancy
from physgen.transforms.quantile_table import QuantileTable
from physgen.transforms.showers import (
    ALL_LEFT,
    ALL_RIGHT,
    NEAR,
    PIECE,
    ShowerTransform,
    log_width,
)

NONE = 0.5
"""What takes the place of N = 0 in ln N."""
ANYWHERE = 1e-5
"""Share of the divisions of N that is spread over all that are possible."""
STEEPEST = 4.0
"""Largest |beta|."""
FEW = 10.0
"""As many splits, with ln(k/m) of variance 1, are assumed to have beta = 1."""
ROUNDING = 1e-5
"""By how much the energies of voxels may add up to less than as many thresholds."""
LEAST_SCALE = 0.05
"""Least unit of ln N_i: where all layers were alike, one that is not remains near."""


class CountedShowers(ShowerTransform):
    """Map showers (B, n_voxels) to (B, 1 + 5 n_splits).

    These are the number of the response, or `EMPTY`; the number x = logit F(s) of each split
    (`ALL_RIGHT` or `ALL_LEFT` where it is not one; 0 where there is nothing to split); ln W, -1
    where there is nothing to split; the contrasts; N; and k.

    The mapped condition is (B, 2 + 2 n_layers): standardised ln E_inc, ln E_tot, and ln E_i and
    ln N_i of the layers; of what is empty, at the threshold and at `NONE`.

    Args:
        schema, geometry, n_knots, n_bins, copies: see `ShowerTransform`.

    Raises:
        DomainError: the samples are no showers of this geometry.

    >>> from physgen.systems.calorimeter import Calorimeter
    >>> system = Calorimeter()
    >>> transform, showers = CountedShowers(system.schema, system.geometry), system.simulate(200, 1)
    >>> transform.fit(showers)
    >>> mapped, _ = transform(showers)
    >>> mapped.x[:, 1:].reshape(200, 5, -1)[:, 3, 0].max()  # of the first split, the layers
    tensor(2.)
    """

    leaves: Tensor
    power: Tensor
    tables: Tensor

    def __init__(
        self,
        schema: Schema,
        geometry: Geometry,
        *,
        n_knots: int = 32,
        n_bins: int = 128,
        copies: Tensor | None = None,
    ) -> None:
        super().__init__(schema, geometry, n_knots=n_knots, n_bins=n_bins, copies=copies)
        self.centre = torch.zeros(2 + 2 * self.n_layers)
        self.scale = torch.ones(2 + 2 * self.n_layers)
        self.counts = QuantileTable(len(self.scarce), n_knots, n_bins)
        self.occupancy = Occupancy(torch.tensor([x.n_voxels for x in geometry.layers]))
        sides = torch.stack(self.numbers_of(torch.ones(1, 1 + 2 * self.n_splits))[1:])[:, 0].long()
        sides[:, : self.tree.n_layer_splits] = 2
        self.register_buffer("leaves", sides, persistent=False)
        self.register_buffer("power", torch.ones(len(self.scarce)))
        self.register_buffer("tables", self._tables(), persistent=False)
        self.splits = QuantileTable(1 + int(self.tables.max()), n_knots, n_bins)

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The response, splits, their energies, contrasts, N and k."""
        return (1 + 5 * self.n_splits,)

    def latent_condition(self, n_condition: int) -> int:
        """The incident energy, and energies and numbers of voxels of the shower and its layers."""
        return 2 + 2 * self.n_layers

    def _tables(self) -> Tensor:
        """Return which table of s belongs to each kind of split, (n_groups, 4).

        There are up to four, by whether both sides have one voxel or several, where they can have
        several; one of each split of layers.
        """
        first = torch.zeros(len(self.scarce), dtype=torch.long)
        splits = torch.arange(self.n_splits)
        first[self.tree.group.flip(0)] = splits.flip(0)
        several = (self.leaves[:, first] > 1) & (first >= self.tree.n_layer_splits)
        left, right = (
            torch.arange(4) // 2 <= several[0][:, None],
            torch.arange(4) % 2 <= several[1][:, None],
        )
        possible = left & right
        tables = possible.flatten().cumsum(0).reshape(-1, 4) - 1
        return torch.where(possible, tables, tables[:, :1])

    def _begin(self, batch: Batch) -> None:
        self.power.copy_(self._powers(batch))
        most = (batch.x.sum(1).max() / self.threshold).clamp(min=2).log()
        self.splits.start(torch.full_like(most, NEAR).log(), most)
        self.counts.start(torch.zeros_like(most), torch.ones_like(most))

    def _powers(self, batch: Batch) -> Tensor:
        """Return the slopes of q in ln(k/m), (n_groups,); near 1 where little was seen."""
        sums = torch.zeros(5, len(self.power), dtype=torch.float64, device=batch.x.device)
        step = max(1, PIECE // (1 + 2 * self.n_splits))
        for first in range(0, len(batch), step):
            rows = batch[first : first + step]
            nodes = self.tree.gather(rows.x)
            left, right = self.tree.sides(nodes / self.threshold)
            _, k, m = self.numbers_of(nodes)
            row, split = ((k > 0) & (m > 0)).nonzero(as_tuple=True)
            left, right, k, m = (part[row, split].double() for part in (left, right, k, m))
            x, y = (k / m).log(), (above(left, k) / above(right, m)).log()
            w = torch.ones_like(x) if rows.weight is None else rows.weight[row].clamp(min=0)
            terms = torch.stack([w, w * x, w * y, w * x * x, w * x * y])
            sums.index_add_(1, self.tree.group[split], terms)
        n, x, y, xx, xy = sums
        n = n.clamp(min=1e-9)
        slope: Tensor = (xy - x * y / n + FEW) / (xx - x * x / n + FEW)
        return slope.clamp(-STEEPEST, STEEPEST).to(self.power)

    def _count(self, nodes: Tensor, weight: Tensor | None) -> None:
        left, right = self.tree.sides(nodes / self.threshold)
        _, k, m = self.numbers_of(nodes)
        row, split = (k + m > 0).nonzero(as_tuple=True)
        left, right, k, m = (part[row, split] for part in (left, right, k, m))
        whole = left + right
        weight = None if weight is None else weight[row, 0]
        group = self.tree.group[split]
        least, size = self.choices(k + m, split)
        # Each is spread over its interval, evenly.
        within = torch.arange(len(k), device=k.device).double() * 0.6180339887498949 % 1
        y = torch.where(size > 1, self._count_knot(k + m, whole, split), torch.nan)
        place = self.place(k - least + within, size, split).to(k)
        self.counts.count(y, place, group, weight)
        both = (k > 0) & (m > 0)
        y = torch.where(both, self.energy_knot(whole, k + m), torch.nan)
        s, _ = fractions(left, right, (k, m), self.power[group])
        self.splits.count(y, torch.where(both, s, 0.0), self.table_of(group, k, m), weight)

    def _finish(self, logs: Tensor) -> None:
        self.splits.finish()
        # Kernels would reach from one number to the next.
        self.counts.finish(smooth=False)
        n = self.n_layers
        self.scale[2 + n :].clamp_(min=LEAST_SCALE)
        logs = logs[(logs[:, 2 + n :] >= 0).any(1)]  # Those that are not empty.
        energies = (logs - self.centre)[:, : 2 + n] / self.scale[: 2 + n]
        voxels = logs[:, 2 + n :].exp().round()
        occupied = logs[:, 2 + n :] >= 0
        voxels = torch.where(occupied, voxels, 0.0)
        free = occupied & (self.most(logs[:, 2 : 2 + n].exp()) > 1)
        self.occupancy.fit(energies, voxels, free)

    def numbers(self, batch: Batch) -> tuple[Batch, Tensor]:
        """Map showers; ln|det| is per MeV of each voxel with energy."""
        nodes = self.tree.gather(batch.x)
        voxels, k, m = self.numbers_of(nodes)
        first, log_det = self._first_number(batch)
        left, right = self.tree.sides(nodes)
        whole = (left + right) / self.threshold
        x = torch.where(k > 0, ALL_LEFT, torch.where(m > 0, ALL_RIGHT, 0.0))
        row, split = ((k > 0) & (m > 0)).nonzero(as_tuple=True)
        one, other, a, b = (part[row, split].double() for part in (left, right, k, m))
        v0 = self.threshold.double()
        y, group = self.energy_knot((one + other) / v0, a + b), self.tree.group[split]
        s, log_slope = fractions(one / v0, other / v0, (a, b), self.power[group].double())
        table = self.table_of(group, a, b)
        level = self.splits.level(y, s, table)
        slope = self.splits.log_slope(y, s, table) - log_width(level)
        slope = slope + log_slope - v0.log()
        x = x.double().index_put((row, split), torch.logit(level))
        log_det = log_det.double().index_add(0, row, slope)
        log_whole = torch.where(whole > 0, whole.clamp(min=1).log(), -1.0)
        contrast = self._contrasts(nodes) / self.spread
        latent = torch.cat([v.to(batch.x) for v in (first, x, log_whole, contrast, k + m, k)], 1)
        condition = self.counted_condition(self._incident(batch), nodes, voxels)
        return batch.replace(x=latent, condition=condition.to(batch.x)), log_det.to(batch.x)

    def _division(self, numbers: Tensor) -> Callable[[Tensor, slice], tuple[Tensor, Tensor]]:
        x, _, _, number, k = numbers.reshape(-1, 5, self.n_splits).unbind(1)

        def divide(whole: Tensor, stage: slice) -> tuple[Tensor, Tensor]:
            counts = k[:, stage], (number - k)[:, stage]
            return self.part_counted(whole, x[:, stage], counts, self.tree.group[stage])

        return divide

    def numbers_of(self, nodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return N_i, (B, n_layers), and k and m of all splits, given the energies of all nodes."""
        counts = self.tree.gather((nodes[:, self.tree.leaf] > 0).to(nodes.dtype))
        k, m = self.tree.sides(counts)
        n = self.tree.n_layer_splits
        left, right = (side[:, :n] for side in self.tree.sides(nodes))
        both = (left > 0) & (right > 0)
        number = torch.where(both, 2.0, self.of_layers(left + right))
        one = torch.where(both, 1.0, number * (left > 0))
        k, m = torch.cat([one, k[:, n:]], 1), torch.cat([number - one, m[:, n:]], 1)
        return counts[:, self.tree.layers], k, m

    def of_layers(self, energy: Tensor) -> Tensor:
        """Return N of splits of layers: 2 of an energy in MeV that suffices for two sides."""
        number = (energy / self.threshold * (1 + ROUNDING)).floor().clamp(1, 2)
        return torch.where(energy > 0, number, 0.0)

    def most(self, energies: Tensor) -> Tensor:
        """Return how many voxels of each layer its energy in MeV suffices for, (B, n_layers)."""
        most = (energies / self.threshold * (1 + ROUNDING)).floor().clamp(min=1)
        return torch.minimum(most, self.occupancy.n_voxels.to(most))

    def occupied(self, condition: Tensor) -> Tensor:
        """Return N_i, (B, n_layers), of a mapped condition."""
        n = self.n_layers
        logs = condition[:, 2 + n :] * self.scale[2 + n :] + self.centre[2 + n :]
        return torch.where(logs > math.log(NONE) / 2, logs.exp().round(), 0.0)

    def choices(self, number: Tensor, split: Tensor) -> tuple[Tensor, Tensor]:
        """Return the least k of N = k + m, and how many there are, given N and split of each."""
        left, right = self.leaves[:, split].to(number.dtype)
        least = (number - right).clamp(min=0)
        return least, torch.minimum(number, left) - least + 1

    def place(self, k: Tensor, size: Tensor, split: Tensor) -> Tensor:
        """Return where in [0, 1] the tables have a k, less the least of `size` that are possible.

        Of the three outcomes of a split of layers, that of both sides is twice as wide as the two
        others: so all are whole bins, and rare outcomes do not share one.
        """
        outcomes = (split < self.tree.n_layer_splits) & (size == 3)
        return torch.where(outcomes, (k + (k - 1).clamp(0, 1)) / 4, k / size)

    def count_level(self, number: Tensor, whole: Tensor, k: Tensor, split: Tensor) -> Tensor:
        """Return in double precision how much of the divisions of N lies below a k.

        Args:
            number: (n,) N.
            whole: (n,) W in units of v_0.
            k: (n,) real.
            split: (n,) numbers in the tree.
        """
        y, group = self._count_knot(number, whole, split), self.tree.group[split]
        least, size = self.choices(number, split)
        place = self.place(k - least, size, split)
        return (1 - ANYWHERE) * self.counts.level(y, place, group) + ANYWHERE * place.double()

    def table_of(self, group: Tensor, k: Tensor, m: Tensor) -> Tensor:
        """Return which of the tables of s is that of splits, given kind and numbers of both sides.

        The energy of a single voxel has an edge at the threshold, that of several has none.
        """
        return self.tables[group, 2 * (k > 1).long() + (m > 1).long()]

    def energy_knot(self, whole: Tensor, number: Tensor) -> Tensor:
        """Return the condition of distributions of s: of the energy above N, in units of v_0."""
        return (whole - number + NEAR).clamp(min=NEAR).log()

    def part_counted(
        self, whole: Tensor, x: Tensor, counts: tuple[Tensor, Tensor], group: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return (L, R) in MeV of energies W in MeV, given x and the numbers of occupied voxels."""
        k, m = counts
        w = whole / self.threshold
        level = torch.sigmoid(x.double())
        table = self.table_of(group, k, m)
        s = self.splits.number(self.energy_knot(w, k + m), level, table).to(whole)
        sides = divided(w, s, (k, m), self.power[group])
        left, right = (side * self.threshold for side in sides)
        left = torch.where(m <= 0, whole, torch.where(k <= 0, 0.0, left))
        right = torch.where(k <= 0, torch.where(m <= 0, 0.0, whole), right)
        return left, torch.where(m <= 0, 0.0, right)

    def counted_condition(self, incident: Tensor, nodes: Tensor, voxels: Tensor) -> Tensor:
        """Return the mapped condition of incident energies, (B, 1), energies in MeV, and N_i."""
        n = self.n_layers
        numbers = (voxels.clamp(min=NONE).log() - self.centre[2 + n :]) / self.scale[2 + n :]
        return torch.cat([self.energies_of(incident, nodes), numbers], 1)

    def energies_of(self, incident: Tensor, nodes: Tensor) -> Tensor:
        """Return the energies of the mapped condition, (B, 2 + n_layers)."""
        logs, n = super()._logs(incident, nodes), self.n_layers
        return (logs - self.centre[: 2 + n]) / self.scale[: 2 + n]

    def in_mev(self, energies: Tensor) -> Tensor:
        """Return what `energies_of` maps, (B, 2 + n_layers)."""
        n = self.n_layers
        return (energies * self.scale[: 2 + n] + self.centre[: 2 + n]).exp()

    def _logs(self, incident: Tensor, nodes: Tensor) -> Tensor:
        voxels, _, _ = self.numbers_of(nodes)
        return torch.cat([super()._logs(incident, nodes), voxels.clamp(min=NONE).log()], 1)

    def _count_knot(self, number: Tensor, whole: Tensor, split: Tensor) -> Tensor:
        of_voxels = number.clamp(min=1).log() / self.leaves[:, split].sum(0).to(number).log()
        of_layers = whole.clamp(min=1).log() / self.splits.ends[1]
        return torch.where(split < self.tree.n_layer_splits, of_layers, of_voxels)
