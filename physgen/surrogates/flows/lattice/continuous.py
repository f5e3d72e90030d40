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
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from physgen.batch import Batch, Schema
from physgen.ranges import Positive
from physgen.surrogates.flows.integration import even, runge_kutta
from physgen.surrogates.flows.lattice.base import LatticeFlow
from physgen.surrogates.flows.lattice.fourier import FourierGaussian, orbits
from physgen.surrogates.flows.lattice.velocity import State, Velocity, kernels
from physgen.transforms.base import Transform


class ContinuousLatticeFlow(LatticeFlow):
    """Continuous flow of a real scalar field on a periodic lattice of any dimension.

    Args:
        schema: one real variable, whose shape is that of the lattice.
        transform: none, since it would break the symmetries.
        n_frequencies: sines F.
        n_times: Legendre polynomials in time.
        duration: T, by which the learned kernels are multiplied.
        integration_steps: Runge-Kutta steps in training and in `sample`.
        largest_frequency: the frequencies start equally spaced from 1 to this.
        base_width: the base Gaussian starts as white noise of this width.
        isotropic: the action does not change when axes of equal extent are exchanged.
        sign_symmetric: the action does not change under phi -> -phi.

    >>> from physgen.systems.scalar import Phi4
    >>> ContinuousLatticeFlow(Phi4(shape=(4, 4)).schema).sample(5, seed=1).x.shape
    torch.Size([5, 4, 4])
    """

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
        """Return a copy in float64 with four times the steps, whose ln q is good to about 1e-4."""
        other = super().high_precision()
        other.integration_steps = 4 * self.integration_steps
        return other

    def from_noise(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map (B, *shape) noise to fields."""
        (x,) = self._integrate(Velocity.alone, (self.base(noise).flatten(1),))
        return x.reshape(noise.shape)

    def from_noise_with_log_prob(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, *shape) noise to fields and their (B,) log-density, both differentiable."""
        start = (self.base(noise).flatten(1), self.base.log_prob_of_noise(noise))
        x, log_prob = self._integrate(Velocity.with_density, start)
        return x.reshape(noise.shape), log_prob

    def from_noise_with_score(self, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map (B, *shape) noise to fields, their (B,) log-density and its gradient in the field.

        Only the fields are differentiable, which is what path gradients need; density and score
        (B, *shape) are detached.
        """
        with torch.no_grad():
            log_prob = self.base.log_prob_of_noise(noise)
            score = self.base.score_of_noise(noise).flatten(1)
        start = (self.base(noise).flatten(1), log_prob, score)
        x, log_prob, score = self._integrate(Velocity.with_score, start)
        return x.reshape(noise.shape), log_prob, score.reshape(noise.shape)

    def log_prob(self, batch: Batch) -> Tensor:
        """Return (B,) log q(x), by integrating backwards; differentiable."""
        start = (batch.x.flatten(1), batch.x.new_zeros(len(batch)))
        z, change = self._integrate(Velocity.with_density, start, backwards=True)
        return self.base.log_prob_of_noise(self.base.whiten(z.reshape(batch.x.shape))) - change

    def _integrate(
        self,
        dynamics: Callable[[Velocity, int, State], State],
        state: State,
        backwards: bool = False,
    ) -> State:
        """Solve from t = 0 to 1, or back, by Runge-Kutta steps of fourth order."""
        n = self.integration_steps
        weights = self._weights_at(torch.linspace(-1, 1, 2 * n + 1, dtype=torch.float64))
        velocity = Velocity(
            kernels(weights, self.labels), weights[:, :, 0], self.frequencies, self.phases
        )

        def slope(time: float, state: State) -> State:
            return dynamics(velocity, round(2 * n * time), state)

        start, stop = (1.0, 0.0) if backwards else (0.0, 1.0)
        return runge_kutta(slope, state, even(start, stop, n))

    def _weights_at(self, times: Tensor) -> Tensor:
        """Return (times, F, orbits), the kernels at times in [-1, 1]."""
        basis = [torch.ones_like(times), times]
        for k in range(1, len(self.weights) - 1):
            basis.append(((2 * k + 1) * times * basis[k] - k * basis[k - 1]) / (k + 1))
        legendre = torch.stack(basis[: len(self.weights)], 1).to(self.weights)
        per_site = self.duration * self.weights / self.sizes.to(self.weights).sqrt()
        return torch.einsum("tk,kfo->tfo", legendre, per_site)
