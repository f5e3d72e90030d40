r"""Gaussianisation of table columns by their distribution functions, atoms included.

A continuous column maps by z = \Phi^{-1}(F(x)). Where F jumps from F(x-) to F(x), at integers,
exact zeros and other repeated values ("atoms"), the distributional transform (Rueschendorf,
J. Stat. Plan. Inference 139, 2009) draws u uniformly in (F(x-), F(x)) and z = \Phi^{-1}(u): every
column becomes standard normal, and the inverse x = F^{-1}(\Phi(z)) returns atoms exactly, for all
of the interval maps to one value.

F is kept as knots (x_k, z_k), between which z is linear in x: an atom is a pair of knots with one x
and two z. Beyond the last knots z goes on linearly, or, where a bound of the column is known, such
that x approaches it exponentially and never crosses.

The noise z has density r(z | x) = \phi(z) / (F(x) - F(x-)) on its interval, so that
log P(x) >= E[log q(z) + log(F(x) - F(x-)) - log \phi(z)]: what `bound` adds for an atom.

A column that is present only if a rule on another column holds carries pure noise where it is
absent, and its constant comes back exactly.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import DomainError, RecipeError
from physgen.systems.presence import presence_rules
from physgen.transforms.base import Transform
from physgen.transforms.distribution import FAR, distribution, knots, spikes, stretch


class Gaussianise(Transform):
    """Make every column of a table standard normal; event weights count, negative ones as 0.

    Integer columns, and those with repeated values, are taken for what they are, and come back
    exactly. `exact` (see `Transform`) is true only where no column can hold atoms.

    Args:
        schema: of vectors, shape (D,): a table with one variable a column, or D numbers of one
            kind (voxels). `present` and `low`, `high` of its variables are obeyed.
        n_knots: of the distribution function of a column.
        atoms: how many repeated values a real column may have (an atom is a value that at least
            0.2% of the rows share); 0 treats all real columns as continuous.

    Raises:
        RecipeError: for a schema of no vectors, or a rule that cannot be read.
        DomainError: while fitting, if a column is not constant where its rule says it is absent.
    """

    def __init__(self, schema: Schema, *, n_knots: int = 128, atoms: int = 8) -> None:
        super().__init__()
        if len(schema.shape) != 1:
            raise RecipeError(
                f"transform gaussianise works on vectors and tables, not on samples of shape "
                f"{schema.shape}"
            )
        if len(schema.variables) == 1:
            schema = replace(schema, variables=schema.variables * schema.shape[0])
        self._variables, self._atoms, self._n_knots = schema.variables, atoms, n_knots
        discrete = [v.domain in ("integer", "binary", "spin") for v in schema.variables]
        self._rules = presence_rules(schema)
        self.exact = atoms == 0 and not any(discrete) and not any(self._rules)
        size = len(discrete)
        low = [-math.inf if v.low is None else v.low for v in schema.variables]
        high = [math.inf if v.high is None else v.high for v in schema.variables]
        self.register_buffer("discrete", torch.tensor(discrete))
        self.register_buffer("jittered", torch.zeros(size, dtype=torch.bool))
        self.register_buffer("absent", torch.zeros(size))
        self.register_buffer("knots_x", torch.linspace(-5, 5, n_knots).repeat(size, 1))
        self.register_buffer("knots_z", torch.linspace(-5, 5, n_knots).repeat(size, 1))
        self.register_buffer("stretch", torch.ones(2, size))
        self.register_buffer("limits", torch.tensor([low, high]))
        self.discrete: Tensor
        self.jittered: Tensor
        self.absent: Tensor
        self.knots_x: Tensor
        self.knots_z: Tensor
        self.stretch: Tensor
        self.limits: Tensor

    def fit(self, batch: Batch) -> None:
        """Learn the distribution function of every column where it is present."""
        x = batch.x.detach().to(self.knots_x.dtype)
        weight = x.new_ones(len(x)) if batch.weight is None else batch.weight.clamp_min(0)
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
            self.jittered[j] = bool(self.discrete[j]) and 2 * len(values) > self._n_knots
            if self.jittered[j]:
                # Too many integers to keep one by one: they are spread over their unit intervals.
                generator = torch.Generator().manual_seed(j)
                spread = torch.rand(len(column), generator=generator).to(column) - 0.5
                values, mass, counts = distribution(column + spread, shares)
                atoms = np.zeros(len(values), dtype=bool)
            elif self.discrete[j]:
                atoms = np.ones(len(values), dtype=bool)
            elif len(values) == 1 and self._atoms:
                atoms = np.ones(1, dtype=bool)
            else:
                atoms = spikes(counts, self._atoms)
            knots_x, knots_z = knots(values, mass, atoms, self._n_knots)
            if len(knots_x) < self._n_knots:
                raise DomainError(
                    f"column {variable.name} is constant; leave it out, or allow `atoms` in "
                    "transform gaussianise"
                )
            self.knots_x[j] = torch.as_tensor(knots_x)
            self.knots_z[j] = torch.as_tensor(knots_z)
            self.stretch[:, j] = torch.as_tensor(stretch(knots_x, knots_z))

    def forward(
        self, batch: Batch, generator: torch.Generator | None = None
    ) -> tuple[Batch, Tensor | None]:
        """Map to standard normal columns; atoms and absent columns draw noise."""
        mapped, volume = self.bound(batch, generator)
        return mapped, volume if self.exact else None

    def bound(self, batch: Batch, generator: torch.Generator | None = None) -> tuple[Batch, Tensor]:
        """Map as `forward`; return also log slopes, and -log r(z | x) where noise was drawn."""
        x = batch.x.to(self.knots_x.dtype)  # Atoms are found by equality.
        present = self._present(x)
        if self.exact:
            noise = torch.full((2, *x.shape), 0.5, device=x.device, dtype=torch.float64)
        else:
            noise = torch.rand(
                2, *x.shape, generator=generator, device=x.device, dtype=torch.float64
            )
        x = torch.where(self.jittered, x + (noise[0] - 0.5).to(x), x)
        first, last = self.knots_x[:, 0], self.knots_x[:, -1]
        # Beyond an atom at the end there is nothing: what was never seen is taken for that atom.
        x = torch.where(self.knots_z[:, 0] <= -FAR, torch.maximum(x, first), x)
        x = torch.where(self.knots_z[:, -1] >= FAR, torch.minimum(x, last), x)

        below, upto = _count(self.knots_x, x, strict=True), _count(self.knots_x, x, strict=False)
        i = (upto - 1).clamp(0, self._n_knots - 2)
        x_0, x_1 = _pick(self.knots_x, i), _pick(self.knots_x, i + 1)
        z_0, z_1 = _pick(self.knots_z, i), _pick(self.knots_z, i + 1)
        width = torch.where(x_1 > x_0, x_1 - x_0, torch.ones_like(x_0))
        z = z_0 + ((x - x_0) / width).clamp(0, 1) * (z_1 - z_0)
        log_slope = ((z_1 - z_0) / width).clamp_min(torch.finfo(x.dtype).tiny).log()
        for side, outside in ((0, x < first), (1, x > last)):
            z_tail, log_tail = self._tail(x, side)
            z = torch.where(outside, z_tail, z)
            log_slope = torch.where(outside, log_tail, log_slope)

        start = _pick(self.knots_z, below.clamp_max(self._n_knots - 1))
        stop = _pick(self.knots_z, (upto - 1).clamp_min(0))
        drawn, log_mass = _draw(start, stop, noise[1])
        atom = upto - below >= 2
        z, log_slope = torch.where(atom, drawn, z), torch.where(atom, log_mass, log_slope)

        free = torch.special.ndtri(noise[1].clamp(1e-12, 1 - 1e-12)).to(z)
        z = torch.where(present, z, free)
        log_slope = torch.where(present, log_slope, _minus_log_normal(free))
        return batch.replace(x=z), log_slope.sum(-1)

    def inverse(self, batch: Batch) -> Batch:
        """Map back: atoms, integers and absent values come back exactly."""
        z = batch.x
        i = (_count(self.knots_z, z, strict=False) - 1).clamp(0, self._n_knots - 2)
        x_0, x_1 = _pick(self.knots_x, i), _pick(self.knots_x, i + 1)
        z_0, z_1 = _pick(self.knots_z, i), _pick(self.knots_z, i + 1)
        rise = torch.where(z_1 > z_0, z_1 - z_0, torch.ones_like(z_0))
        x = x_0 + ((z - z_0) / rise).clamp(0, 1) * (x_1 - x_0)
        for side, outside in ((0, z < self.knots_z[:, 0]), (1, z > self.knots_z[:, -1])):
            x = torch.where(outside, self._tail_inverse(z, side), x)
        x = torch.where(self.discrete, x.round(), x)
        columns = list(x.unbind(-1))
        for j, rule in enumerate(self._rules):
            if rule is not None:
                columns[j] = torch.where(rule(columns), columns[j], self.absent[j])
        return batch.replace(x=torch.stack(columns, -1))

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
        return z, -scale.log() - log_left

    def _tail_inverse(self, z: Tensor, side: int) -> Tensor:
        end_x, beyond = self.knots_x[:, -side], z - self.knots_z[:, -side]
        scale, limit = self.stretch[side], self.limits[side]
        gap, free = self._gap(side)
        bent = (beyond * scale / gap).clamp_max(0).exp() * gap
        return torch.where(free, end_x + beyond * scale, limit + bent)

    def _gap(self, side: int) -> tuple[Tensor, Tensor]:
        """Signed distance of the last knot from the column's bound, and where there is none."""
        limit = self.limits[side]
        free = limit.isinf()
        sign = 1 - 2 * side
        room = sign * (self.knots_x[:, -side] - limit)
        room = room.clamp_min(0).maximum(1e-6 * self.stretch[side])
        return sign * torch.where(free, torch.ones_like(room), room), free


def _minus_log_normal(z: Tensor) -> Tensor:
    return 0.5 * z.square() + 0.5 * math.log(2 * math.pi)


def _count(knots: Tensor, x: Tensor, *, strict: bool) -> Tensor:
    """How many knots (D, K) lie below x (B, D), or at most at it: a search without branches."""
    n_knots = knots.shape[-1]
    flat, row = knots.flatten(), torch.arange(len(knots), device=x.device) * n_knots
    found = torch.zeros_like(x, dtype=torch.long)
    step = 1 << (n_knots.bit_length() - 1)
    while step:
        trial = found + step
        knot = flat[row + trial.clamp_max(n_knots) - 1]
        under = knot < x if strict else knot <= x
        found = torch.where(under & (trial <= n_knots), trial, found)
        step //= 2
    return found


def _pick(knots: Tensor, index: Tensor) -> Tensor:
    """Knots (D, K) at an index (B, D) of each column."""
    row = torch.arange(len(knots), device=index.device) * knots.shape[-1]
    return knots.flatten()[row + index]


def _draw(start: Tensor, stop: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Draw z of a normal within [start, stop); return also -log of its density there."""
    low = torch.special.ndtr(start.double())
    mass = torch.special.ndtr(stop.double()) - low
    level = low + mass * uniform.clamp_min(1e-12)
    z = torch.special.ndtri(level).to(start)
    # Rounding must not carry z over to the next atom, whose interval begins at `stop`.
    z = z.minimum(torch.nextafter(stop, torch.full_like(stop, -math.inf))).maximum(start)
    return z, mass.clamp_min(1e-300).log().to(z) + _minus_log_normal(z)
