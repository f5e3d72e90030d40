r"""Continuous normalising flow for a scalar field, equivariant under all symmetries of the lattice.

After Gerdes, de Haan, Rainone, Bondesan & Cheng (SciPost Phys. 15 (2023) 238, arXiv 2207.00283).
A Gaussian field phi(0) flows over 0 <= t <= 1 by

    d phi_x / dt = sum_{y, f} W_f(x - y; t) sin(a_{f y}),    a_{f y} = omega_f phi_y + alpha_f,
    W_f(r; t) = T sum_k P_k(2 t - 1) sum_o w_{f k o} I_o(r) / sqrt(|o|),

with learned frequencies omega_f, Legendre polynomials P_k, and the indicators I_o of the orbits o
of r under the symmetries of the lattice, whose normalisation puts near and far on a par for the
optimiser. Without phases alpha_f the sines are odd, so that phi -> -phi is a symmetry as well.
Density and score s = grad_phi log q go along exactly,

    d log q / dt = -div,    div = sum_{x, f} W_f(0; t) omega_f cos(a_{f x}),
    d s_y / dt = -sum_f omega_f cos(a_{f y}) (W_f * s)_y + sum_f W_f(0; t) omega_f^2 sin(a_{f y}),

up to the error of the fourth-order Runge-Kutta steps, which `high_precision` makes negligible.

Of a theory whose couplings are conditions c, kernels and the widths of the Gaussian are polynomials
of them: w = sum_j b_j(u) w_j, ln width(k) = sum_j b_j(u) l_j(k), where b_j are the products of
Legendre polynomials of total degree n up to `degree` in the conditions u, scaled to [-1, 1] over
the trained range, times 3^-n: a step of the optimiser bends less than it moves. It is one flow for
the whole range, as smooth in the couplings as the theory is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from physgen.batch import Batch, Schema
from physgen.errors import DomainError
from physgen.ranges import Positive
from physgen.surrogates.flows.integration import even, runge_kutta
from physgen.surrogates.flows.lattice.base import LatticeFlow
from physgen.surrogates.flows.lattice.fourier import FourierGaussian, orbits
from physgen.surrogates.flows.lattice.polynomials import exponents, legendre, products
from physgen.surrogates.flows.lattice.velocity import State, Velocity, kernels
from physgen.transforms.base import Transform


class ContinuousLatticeFlow(LatticeFlow):
    """Continuous flow of a real scalar field on a periodic lattice of any dimension.

    Args:
        schema: one real variable, whose shape is that of the lattice; conditions are couplings.
        transform: none, since it would break the symmetries.
        n_frequencies: sines F.
        n_times: Legendre polynomials in time.
        duration: T, by which the learned kernels are multiplied.
        integration_steps: Runge-Kutta steps in training and in `sample`.
        largest_frequency: the frequencies start equally spaced from 1 to this.
        base_width: the base Gaussian starts as white noise of this width.
        degree: of the polynomials of the conditions, if there are any.
        isotropic: the action does not change when axes of equal extent are exchanged.
        sign_symmetric: the action does not change under phi -> -phi.

    >>> from physgen.systems.scalar import Phi4
    >>> ContinuousLatticeFlow(Phi4(shape=(4, 4)).schema).sample(5, seed=1).x.shape
    torch.Size([5, 4, 4])
    """

    knows_conditions = True
    labels: Tensor
    sizes: Tensor
    phases: Tensor

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        n_frequencies: int = 8,
        n_times: int = 4,
        duration: float = 9.0,
        integration_steps: Positive = 8,
        largest_frequency: float = 8.0,
        base_width: float = 0.5,
        degree: Positive = 3,
        isotropic: bool = True,
        sign_symmetric: bool = True,
    ) -> None:
        super().__init__(schema, transform)
        labels, n_orbits = orbits(schema.shape, isotropic)
        self.symmetries = (
            "translation",
            "reflection",
            *(("axis exchange",) if isotropic else ()),
            *(("sign",) if sign_symmetric else ()),
        )
        self.base = FourierGaussian(schema.shape, base_width, isotropic)
        self.weights = nn.Parameter(torch.zeros(n_times, n_frequencies, n_orbits))
        self.exponents = exponents(len(schema.condition), degree)
        if schema.condition:
            further = len(self.exponents) - 1
            self.further_weights = nn.Parameter(torch.zeros(further, *self.weights.shape))
            self.further_widths = nn.Parameter(torch.zeros(further, n_orbits))
        self.frequencies = nn.Parameter(torch.linspace(1, largest_frequency, n_frequencies))
        if sign_symmetric:
            self.register_buffer("phases", torch.zeros(n_frequencies), persistent=False)
        else:  # sines and cosines in turn
            self.phases = nn.Parameter(torch.arange(n_frequencies) % 2 * (math.pi / 2))
        sizes = torch.bincount(labels.flatten(), minlength=n_orbits)
        self.register_buffer("labels", labels, persistent=False)
        self.register_buffer("sizes", sizes, persistent=False)
        self.duration = duration
        self.integration_steps = integration_steps

    def high_precision(self) -> Self:
        """Return a copy in float64 with at least 32 steps, four times as many: ln q to 1e-4."""
        other = super().high_precision()
        other.integration_steps = max(4 * self.integration_steps, 32)
        return other

    def from_noise(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map (B, *shape) noise to fields."""
        basis = self._basis(condition)
        start = self.base(noise, self._shift(basis)).flatten(1)
        (x,) = self._integrate(Velocity.alone, (start,), basis)
        return x.reshape(noise.shape)

    def from_noise_with_log_prob(
        self, noise: Tensor, condition: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Map (B, *shape) noise to fields and their (B,) log-density, both differentiable."""
        basis = self._basis(condition)
        shift = self._shift(basis)
        start = (self.base(noise, shift).flatten(1), self.base.log_prob_of_noise(noise, shift))
        x, log_prob = self._integrate(Velocity.with_density, start, basis)
        return x.reshape(noise.shape), log_prob

    def from_noise_with_score(
        self, noise: Tensor, condition: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Map (B, *shape) noise to fields, their (B,) log-density and its gradient in the field.

        Only the fields are differentiable, which is what path gradients need; density and score
        (B, *shape) are detached.
        """
        basis = self._basis(condition)
        shift = self._shift(basis)
        with torch.no_grad():
            log_prob = self.base.log_prob_of_noise(noise, shift)
            score = self.base.score_of_noise(noise, shift).flatten(1)
        start = (self.base(noise, shift).flatten(1), log_prob, score)
        x, log_prob, score = self._integrate(Velocity.with_score, start, basis)
        return x.reshape(noise.shape), log_prob, score.reshape(noise.shape)

    def log_prob(self, batch: Batch) -> Tensor:
        """Return (B,) log q(x | condition), by integrating backwards; differentiable.

        Raises:
            DomainError: a condition is outside the trained range.
        """
        if batch.condition is not None:
            self.conditions.check(batch.condition)
        basis = self._basis(batch.condition)
        shift = self._shift(basis)
        start = (batch.x.flatten(1), batch.x.new_zeros(len(batch)))
        z, change = self._integrate(Velocity.with_density, start, basis, backwards=True)
        noise = self.base.whiten(z.reshape(batch.x.shape), shift)
        return self.base.log_prob_of_noise(noise, shift) - change

    def _integrate(
        self,
        dynamics: Callable[[Velocity, int, State], State],
        state: State,
        basis: Tensor,
        backwards: bool = False,
    ) -> State:
        """Solve from t = 0 to 1, or back, by Runge-Kutta steps of fourth order."""
        n = self.integration_steps
        weights = self._weights_at(torch.linspace(-1, 1, 2 * n + 1, dtype=torch.float64))
        if len(basis) == 1:  # One set of kernels for all rows.
            weights = torch.einsum("j,tjfo->tfo", basis[0], weights)[:, None]
            basis = torch.ones_like(basis[:, :1])
        velocity = Velocity(
            kernels(weights, self.labels, basis),
            basis @ weights[:, :, :, 0],
            self.frequencies,
            self.phases,
        )

        def slope(time: float, state: State) -> State:
            return dynamics(velocity, round(2 * n * time), state)

        start, stop = (1.0, 0.0) if backwards else (0.0, 1.0)
        return runge_kutta(slope, state, even(start, stop, n))

    def _weights_at(self, times: Tensor) -> Tensor:
        """Return (times, J, F, orbits), the terms of the kernels at times in [-1, 1]."""
        values = legendre(times, len(self.weights)).to(self.weights)
        weights = self.weights[None]
        if self.schema.condition:
            weights = torch.cat([weights, self.further_weights])
        per_site = self.duration * weights / self.sizes.to(self.weights).sqrt()
        return torch.einsum("tk,jkfo->tjfo", values, per_site)

    def _basis(self, condition: Tensor | None) -> Tensor:
        """Return (B, J), b_j(u) of each row, or (1, J) where all rows have one condition.

        Raises:
            DomainError: the conditions are missing, or none were expected.
        """
        n_columns = len(self.schema.condition)
        if condition is None and not n_columns:
            return self.weights.new_ones(1, 1)
        if condition is None or condition.shape[1] != n_columns:
            names = ", ".join(variable.name for variable in self.schema.condition) or "none"
            raise DomainError(f"conditions: expected {names}, one row a field")
        if len(condition) and bool((condition == condition[:1]).all()):
            condition = condition[:1]
        low, high = self.conditions.low.double(), self.conditions.high.double()
        scaled = (2 * condition.double() - low - high) / (high - low).clamp_min(1e-30)
        scaled = scaled.nan_to_num()  # Before a range is known there is none to vary over.
        bends = scaled.new_tensor([3.0 ** -sum(degrees) for degrees in self.exponents])
        return (bends * products(scaled, self.exponents)).to(self.weights)

    def _shift(self, basis: Tensor) -> Tensor | float:
        """Return (B or 1, orbits), what the conditions add to the logarithms of the widths."""
        return basis[:, 1:] @ self.further_widths if self.schema.condition else 0.0
