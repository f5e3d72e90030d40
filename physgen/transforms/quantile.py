r"""Gaussianisation of table columns by their distribution functions, atoms included.

A continuous column maps by z = \Phi^{-1}(F(x)). Where F jumps from F(x-) to F(x), at integers,
exact zeros and other repeated values ("atoms"), the distributional transform (Rueschendorf,
J. Stat. Plan. Inference 139, 2009) draws u uniformly in (F(x-), F(x)) and z = \Phi^{-1}(u): every
column becomes standard normal, and the inverse x = F^{-1}(\Phi(z)) returns atoms exactly, for all
of the interval maps to one value.

F is kept as knots (x_k, z_k), between which z is linear in x: an atom is a pair of knots with one x
and two z. Beyond the last knots z goes on linearly, or, where a bound of the column is known, such
that x approaches it exponentially and never crosses. Bounds are those said of the column; 0 if the
data are never negative, or never positive; and where the data end abruptly (see `edges`).

What a column is follows from its data. Few integers, codes of particles as well as counts, are
atoms all of them; of many, the commonest are atoms, and the others are spread over their unit
intervals and rounded afterwards. So are numbers on a grid (see `physgen.grids`), whatever their
type: integers and multiples of 0.1 that are stored as floats. Any other real column has atoms where
a value repeats far more often than others do (exact zeros, -999 for "none"), or if it has few
values at all.

The noise z has density r(z | x) = \phi(z) / (F(x) - F(x-)) on its interval, so that
log P(x) >= E[log q(z) + log(F(x) - F(x-)) - log \phi(z)]: what `bound` adds for an atom.

A column that is present only if a rule on another column holds carries pure noise where it is
absent, and its constant comes back exactly.
"""

from __future__ import annotations

import math
from dataclasses import astuple, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError, RecipeError
from physgen.grids import INTEGERS, Floats, Grid, grid_of
from physgen.systems.presence import presence_rules
from physgen.transforms.base import Transform
from physgen.transforms.distribution import (
    FAR,
    REPEATED,
    commonest,
    distribution,
    edges,
    knots,
    repeated,
    sparse,
    stretch,
)
from physgen.transforms.lookup import count, draw, minus_log_normal, on_grid, pick

UNSEEN = 1e-30
"""Slope dz/dx where there was nothing: least probable, but finite."""


class Gaussianise(Transform):
    """Make every column of a table standard normal; event weights count, negative ones as 0.

    Integer columns, multiples of a step, and repeated values are taken for what they are, and come
    back exactly. `exact` (see `Transform`) is true only where no column can hold atoms.

    Args:
        schema: of vectors, shape (D,): a table with one variable a column, or D numbers of one
            kind (voxels). `present` and the ranges of its variables are obeyed.
        n_knots: of the distribution function of a column, besides those of atoms.
        atoms: how many repeated values are kept apart in a column that has others too; columns of
            nothing else may have n_knots / 2 + 2 atoms. 0 treats all real columns as continuous.

    Raises:
        RecipeError: for a schema of no vectors, or a rule that cannot be read.
        DomainError: while fitting, if a column is not constant where its rule says it is absent,
            or has more codes than are kept.

    >>> transform = Gaussianise(Schema((1,), (Variable("x"),)), atoms=0)
    >>> transform.exact
    True
    """

    wide = True

    def __init__(self, schema: Schema, *, n_knots: int = 128, atoms: int = 128) -> None:
        super().__init__()
        if len(schema.shape) != 1:
            raise RecipeError(
                f"transform gaussianise works on vectors and tables, not on samples of shape "
                f"{schema.shape}"
            )
        if len(schema.variables) == 1:
            schema = replace(schema, variables=schema.variables * schema.shape[0])
        self._variables, self._atoms, self._n_smooth = schema.variables, atoms, n_knots
        # Two an atom, and as many for the neighbours that keep it apart.
        self._n_knots = n_knots + 4 * atoms
        discrete = [v.domain in ("integer", "binary", "spin") for v in schema.variables]
        self._discrete = discrete
        self._rules = presence_rules(schema)
        self.exact = atoms == 0 and not any(discrete) and not any(self._rules)
        size = len(discrete)
        ranges = torch.tensor([v.range for v in schema.variables], dtype=torch.double).T
        line = torch.linspace(-5, 5, self._n_knots, dtype=torch.double).repeat(size, 1)
        self.register_buffer("jittered", torch.zeros(size, dtype=torch.bool))
        integers = torch.tensor(astuple(INTEGERS), dtype=torch.double)
        self.register_buffer("grids", integers[:, None].repeat(1, size))
        self.register_buffer("absent", torch.zeros(size, dtype=torch.double))
        self.register_buffer("knots_x", line)
        self.register_buffer("knots_z", line.clone())
        self.register_buffer("stretch", torch.ones(2, size, dtype=torch.double))
        self.register_buffer("limits", ranges.contiguous())
        self.jittered: Tensor
        self.grids: Tensor
        self.absent: Tensor
        self.knots_x: Tensor
        self.knots_z: Tensor
        self.stretch: Tensor
        self.limits: Tensor

    def covers(self, variable: Variable) -> bool:
        """Tails approach the bounds."""
        return True

    def fit(self, batch: Batch) -> None:
        """Learn the distribution function of every column where it is present."""
        x = batch.x.detach().double()
        weight = x.new_ones(len(x)) if batch.weight is None else batch.weight.double().clamp_min(0)
        present = self._present(x)
        for j, variable in enumerate(self._variables):
            rows = present[:, j] & (weight > 0)
            self._fit_absent(j, x[~present[:, j], j])
            column, shares = x[rows, j], weight[rows]
            if not len(column) or column.isnan().any():
                raise DomainError(
                    f"column {variable.name} holds {'NaN' if len(column) else 'no values'} in the "
                    "rows it is fitted on; clean it, or give it a `present` rule"
                )
            values, mass, counts = distribution(column, shares)
            atoms, grid = self._taken_for(j, values, counts)
            self.jittered[j] = grid is not None
            if grid is not None:
                self.grids[:, j] = torch.tensor(astuple(grid), dtype=torch.double)
                atom_values = torch.as_tensor(values[atoms]).to(column)
                generator = torch.Generator().manual_seed(j)
                spread = torch.rand(len(column), generator=generator, dtype=torch.double) - 0.5
                spread = spread.to(column) * grid.spacing
                column = column + torch.where(torch.isin(column, atom_values), 0.0, spread)
                values, mass, _ = distribution(column, shares)
                atoms = np.isin(values, atom_values.cpu().numpy())
            knots_x, knots_z = knots(values, mass, atoms, self._n_knots, self._n_smooth)
            if len(knots_x) < self._n_knots:
                raise DomainError(
                    f"column {variable.name} is constant; leave it out, or allow `atoms` in "
                    "transform gaussianise"
                )
            self.knots_x[j] = torch.as_tensor(knots_x)
            self.knots_z[j] = torch.as_tensor(knots_z)
            self.stretch[:, j] = torch.as_tensor(stretch(knots_x, knots_z))
            self.limits[:, j] = torch.as_tensor(self._limits_of(j, values, atoms))

    def describe(self) -> dict[str, str]:
        """Return what the columns were taken for, by name."""
        kinds = {}
        twice = (self.knots_x.diff(dim=1) == 0) & (self.knots_z.diff(dim=1) > 0)
        for j, variable in enumerate(self._variables):
            n = len(set(self.knots_x[j, 1:][twice[j]].tolist()))
            if self.jittered[j]:
                text = str(Grid(*self.grids[:, j].tolist()))
                text += f", of which the {n} commonest values have their shares" if n else ""
            elif twice[j].any() and bool((self.knots_z[j].diff()[~twice[j]] < 1e-9).all()):
                text = f"{n} value{'s' if n > 1 else ''}, each with its share"
            else:
                text = f"real, and {n} repeated values with their shares" if n else "real"
            low, high = self.limits[:, j].tolist()
            if not self._discrete[j] and max(-low, high) < math.inf:
                text += f", from {low:g} to {high:g}"
            kinds[variable.name] = text
        return kinds

    def _taken_for(
        self, j: int, values: Floats, counts: NDArray[np.int64]
    ) -> tuple[NDArray[np.bool_], Grid | None]:
        """Which values of a column are kept apart, and the grid that the others are on, if any."""
        every = np.ones(len(values), dtype=bool)
        few = 2 * len(values) <= self._n_knots
        grid = INTEGERS
        if not self._discrete[j]:
            likes = few and counts.sum() >= REPEATED * len(values)
            if self._atoms and (likes or len(values) == 1):
                return every, None
            apart = repeated(counts, self._atoms)
            result = grid_of(values[~apart], counts[~apart]) if self._atoms else None
            if result is None:
                return apart, None
            grid = result
        if few:
            return every, None
        atoms = commonest(counts, REPEATED, self._atoms)
        rest = grid.numbers(values[~atoms])
        if grid.is_integer and sparse(rest, counts[~atoms]):
            wanted = math.ceil((2 * len(values) - self._n_smooth) / 4)
            raise DomainError(
                f"column {self._variables[j].name} holds {len(values)} different codes, more "
                f"than `atoms`: set `atoms` of transform gaussianise to {wanted} or more, or "
                "leave the column out"
            )
        return atoms, grid

    def _limits_of(self, j: int, values: Floats, atoms: NDArray[np.bool_]) -> tuple[float, float]:
        """Between which bounds a column is."""
        _, step, divisor = self.grids[:, j].tolist()
        around = 0.5 * step / divisor if self.jittered[j] else 0.0
        low, high = self._variables[j].range
        low, high = low - around, high + around
        # An earlier transform may have made other numbers of the column.
        low = low if low <= values[0] else -math.inf
        high = high if high >= values[-1] else math.inf
        # An exact density must not end where the next row may lie beyond.
        least, greatest = (-math.inf, math.inf) if self.exact else edges(values[~atoms])
        if values[0] >= -around:
            least = max(least, -around)
        if values[-1] <= around:
            greatest = min(greatest, around)
        # Nothing lies beyond an atom at the end.
        return low if atoms[0] else max(low, least), high if atoms[-1] else min(high, greatest)

    def forward(
        self, batch: Batch, generator: torch.Generator | None = None
    ) -> tuple[Batch, Tensor | None]:
        """Map to standard normal columns; atoms and absent columns draw noise."""
        mapped, volume = self.bound(batch, generator)
        return mapped, volume if self.exact else None

    def bound(self, batch: Batch, generator: torch.Generator | None = None) -> tuple[Batch, Tensor]:
        """Map as `forward`; return also log slopes, and -log r(z | x) where noise was drawn."""
        stated = x = batch.x.double()  # Atoms are found by equality.
        present = self._present(x)
        if self.exact:
            noise = torch.full((2, *x.shape), 0.5, device=x.device, dtype=torch.float64)
        else:
            noise = torch.rand((2, *x.shape), generator=generator, device=x.device, dtype=x.dtype)
        if self.jittered.any():
            apart = count(self.knots_x, x, strict=False) - count(self.knots_x, x, strict=True) < 2
            spacing = self.grids[1] / self.grids[2]
            x = torch.where(self.jittered & apart, x + (noise[0] - 0.5) * spacing, x)
        first, last = self.knots_x[:, 0], self.knots_x[:, -1]
        # Nothing lies beyond an atom at the end, nor where the data have ended.
        x = x.maximum(low := self._end(0)).minimum(high := self._end(1))

        below, upto = count(self.knots_x, x, strict=True), count(self.knots_x, x, strict=False)
        i = (upto - 1).clamp(0, self._n_knots - 2)
        x_0, x_1 = pick(self.knots_x, i), pick(self.knots_x, i + 1)
        z_0, z_1 = pick(self.knots_z, i), pick(self.knots_z, i + 1)
        width = torch.where(x_1 > x_0, x_1 - x_0, torch.ones_like(x_0))
        z = z_0 + ((x - x_0) / width).clamp(0, 1) * (z_1 - z_0)
        log_slope = ((z_1 - z_0) / width).clamp_min(UNSEEN).log()
        for side, outside in ((0, x < first), (1, x > last)):
            z_tail, log_tail = self._tail(x, side)
            z = torch.where(outside, z_tail, z)
            log_slope = torch.where(outside, log_tail, log_slope)

        start = pick(self.knots_z, below.clamp_max(self._n_knots - 1))
        stop = pick(self.knots_z, (upto - 1).clamp_min(0))
        drawn, log_mass = draw(start, stop, noise[1])
        atom = upto - below >= 2
        z, log_slope = torch.where(atom, drawn, z), torch.where(atom, log_mass, log_slope)

        # Taken for another value to be mapped, but as improbable as what lies in a gap.
        half = torch.where(self.jittered, self.grids[1] / self.grids[2] / 2, 0.0)
        beyond = (stated < low - half) | (stated > high + half)
        log_slope = torch.where(beyond, math.log(UNSEEN), log_slope)

        free = torch.special.ndtri(noise[1].clamp(1e-12, 1 - 1e-12)).to(z)
        z = torch.where(present, z, free)
        log_slope = torch.where(present, log_slope, minus_log_normal(free))
        return batch.replace(x=z), log_slope.sum(-1)

    def inverse(self, batch: Batch) -> Batch:
        """Map back: atoms, integers and absent values come back exactly."""
        z = batch.x.double()
        i = (count(self.knots_z, z, strict=False) - 1).clamp(0, self._n_knots - 2)
        x_0, x_1 = pick(self.knots_x, i), pick(self.knots_x, i + 1)
        z_0, z_1 = pick(self.knots_z, i), pick(self.knots_z, i + 1)
        rise = torch.where(z_1 > z_0, z_1 - z_0, torch.ones_like(z_0))
        x = x_0 + ((z - z_0) / rise).clamp(0, 1) * (x_1 - x_0)
        for side, outside in ((0, z < self.knots_z[:, 0]), (1, z > self.knots_z[:, -1])):
            x = torch.where(outside, self._tail_inverse(z, side), x)
        # Atoms may be off the grid of the others: -999.9 among integers.
        inner = (z < self.knots_z[:, 0]) | (z > self.knots_z[:, -1]) | (x_1 > x_0)
        x = torch.where(self.jittered & inner, on_grid(x, self.grids, self.limits), x)
        x = x.maximum(self.limits[0]).minimum(self.limits[1])
        columns = list(x.unbind(-1))
        for j, rule in enumerate(self._rules):
            if rule is not None:
                columns[j] = torch.where(rule(columns), columns[j], self.absent[j])
        return batch.replace(x=torch.stack(columns, -1))

    def _end(self, side: int) -> Tensor:
        """Return (D,) where columns end below (0) or above (1); far away if they go on."""
        gap, free = self._gap(side)
        end = torch.where(free | self.exact, side * 2e300 - 1e300, self.limits[side] + 0.01 * gap)
        return torch.where(self.knots_z[:, -side].abs() >= FAR, self.knots_x[:, -side], end)

    def _fit_absent(self, j: int, absent: Tensor) -> None:
        """Remember what a column holds where it is absent, which must be one value."""
        if not len(absent):
            return
        value = absent[0]
        odd = ((absent != value) & ~(absent.isnan() & value.isnan())).nonzero()
        if len(odd):
            variable = self._variables[j]
            raise DomainError(
                f"column {variable.name} should be absent unless {variable.present}, but holds "
                f"both {value.item():g} and {absent[odd[0, 0]].item():g} there; correct its "
                "`present` rule"
            )
        self.absent[j] = value

    def _present(self, x: Tensor) -> Tensor:
        """Where the rules hold, (B, D)."""
        columns = x.unbind(-1)
        always = torch.ones_like(x[..., 0], dtype=torch.bool)
        return torch.stack([always if r is None else r(columns) for r in self._rules], -1)

    def _tail(self, x: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Return z and log dz/dx beyond the first (0) or last (1) knot."""
        end_x, end_z = self.knots_x[:, -side], self.knots_z[:, -side]
        scale, limit = self.stretch[side], self.limits[side]
        gap, free = self._gap(side)
        left = torch.where(free, torch.ones_like(x), (x - limit) / gap)
        log_left = left.clamp_min(torch.finfo(x.dtype).tiny).log()
        z = end_z + torch.where(free, (x - end_x) / scale, gap / scale * log_left)
        return z, torch.where(left > 0, -scale.log() - log_left, math.log(UNSEEN))

    def _tail_inverse(self, z: Tensor, side: int) -> Tensor:
        end_x, beyond = self.knots_x[:, -side], z - self.knots_z[:, -side]
        scale, limit = self.stretch[side], self.limits[side]
        gap, free = self._gap(side)
        bent = (beyond * scale / gap).clamp_max(0).exp() * gap
        return torch.where(free, end_x + beyond * scale, limit + bent)

    def _gap(self, side: int) -> tuple[Tensor, Tensor]:
        """Signed distance of the last knot from the column's bound, and where there is none."""
        limit, sign = self.limits[side], 1 - 2 * side
        distance = sign * (self.knots_x[:, -side] - limit)
        # Of a bound that is far away nothing is felt but the rounding.
        free = limit.isinf() | (distance > 1e6 * self.stretch[side])
        distance = distance.clamp_min(0).maximum(1e-6 * self.stretch[side])
        return sign * torch.where(free, torch.ones_like(distance), distance), free
