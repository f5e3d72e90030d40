r"""Velocity of the continuous lattice flow, with its divergence and the motion of the score.

Features h_f = sin(omega_f phi + alpha_f) of (B, V) fields are convolved with symmetric kernels
W_f(t) = sum_j b_j W_fj(t), a sum of J terms whose coefficients b (B, J) differ from row to row with
the condition, or (1, J) do not. The equations are those in the head of
`physgen.surrogates.flows.lattice.continuous`.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from physgen.surrogates.flows.lattice.fourier import half, spectrum

State = tuple[Tensor, ...]
"""(B, V) fields, then (B,) log-densities, then (B, V) scores, as far as they are asked for."""

DENSE_SITES = 256
"""Up to this volume a convolution is one matrix product, above it goes by Fourier transforms."""


class Kernels(Protocol):
    """Convolutions with W_f(t) at all times t of an integration."""

    def contract(self, time: int, features: Tensor) -> Tensor:
        """Return (B, V), sum_f W_f * h_f of (B, F, V) features."""
        ...

    def expand(self, time: int, field: Tensor) -> Tensor:
        """Return (B, F, V), W_f * s of (B, V) fields."""
        ...


def kernels(weights: Tensor, labels: Tensor, basis: Tensor) -> Kernels:
    """Return the faster kind of convolutions.

    Args:
        weights: (times, J, F, orbits), the kernels' values.
        labels: (*shape,), the orbit of each lattice vector.
        basis: (B, J) or (1, J), the coefficients b_j.
    """
    dense = labels.numel() <= DENSE_SITES
    kind = DenseKernels if dense else SpectralKernels
    return kind(weights, labels, basis)


class DenseKernels:
    """Convolutions as products with (F V, J V) matrices."""

    def __init__(self, weights: Tensor, labels: Tensor, basis: Tensor) -> None:
        shape, n_sites = labels.shape, labels.numel()
        grids = torch.meshgrid(
            *(torch.arange(n, device=labels.device) for n in shape), indexing="ij"
        )
        separations = [
            (g.flatten()[:, None] - g.flatten()) % n for g, n in zip(grids, shape, strict=True)
        ]
        times, terms, features, n_orbits = weights.shape
        between = nn.functional.one_hot(labels[tuple(separations)].flatten(), n_orbits)
        # A product with zeros and ones: its backward pass is a product too, not a slow scatter.
        dense = weights @ between.to(weights.dtype).T
        if terms > 1:
            dense = dense.reshape(times, terms, features * n_sites, n_sites).transpose(1, 2)
        # Not indexed: each time's gradient would be added to zeros of the size of all of them.
        self._matrices = dense.reshape(times, features * n_sites, terms * n_sites).unbind(0)
        self._basis = basis[:, :, None]

    def contract(self, time: int, features: Tensor) -> Tensor:
        """Return (B, V), sum_f W_f * h_f of (B, F, V) features."""
        terms = features.flatten(1) @ self._matrices[time]
        return (self._basis * terms.view(terms.shape[0], -1, features.shape[2])).sum(1)

    def expand(self, time: int, field: Tensor) -> Tensor:
        """Return (B, F, V), W_f * s of (B, V) fields."""
        terms = (self._basis * field[:, None]).flatten(1)
        return (terms @ self._matrices[time].T).view(field.shape[0], -1, field.shape[1])


class SpectralKernels:
    """Convolutions by fast Fourier transforms."""

    def __init__(self, weights: Tensor, labels: Tensor, basis: Tensor) -> None:
        self._shape = labels.shape
        self._axes = tuple(range(-labels.ndim, 0))
        to_momenta = spectrum(labels).to(weights)
        self._factors = (weights @ to_momenta)[..., half(labels)].unbind(0)
        self._basis = basis

    def contract(self, time: int, features: Tensor) -> Tensor:
        """Return (B, V), sum_f W_f * h_f of (B, F, V) features."""
        modes = torch.fft.rfftn(features.reshape(*features.shape[:2], *self._shape), dim=self._axes)
        total = (modes * self._factors_at(time)).sum(1)
        out: Tensor = torch.fft.irfftn(total, s=self._shape, dim=self._axes)
        return out.flatten(1)

    def expand(self, time: int, field: Tensor) -> Tensor:
        """Return (B, F, V), W_f * s of (B, V) fields."""
        modes = torch.fft.rfftn(field.reshape(-1, *self._shape), dim=self._axes)
        each = modes[:, None] * self._factors_at(time)
        out: Tensor = torch.fft.irfftn(each, s=self._shape, dim=self._axes)
        return out.flatten(2)

    def _factors_at(self, time: int) -> Tensor:
        """Return (B or 1, F, *half shape), the kernels in momentum space."""
        factors: Tensor = torch.tensordot(self._basis, self._factors[time], 1)
        return factors


class Velocity:
    """The velocity at all times of an integration.

    Args:
        convolutions: with the kernels W_f(t).
        diagonal: (times, B or 1, F), W_f(0; t).
        frequencies: (F,), omega_f.
        phases: (F,), alpha_f.
    """

    def __init__(
        self, convolutions: Kernels, diagonal: Tensor, frequencies: Tensor, phases: Tensor
    ) -> None:
        self._convolutions, self._frequencies, self._phases = convolutions, frequencies, phases
        self._divergence = diagonal * frequencies
        self._curvature = self._divergence * frequencies

    def alone(self, time: int, state: State) -> State:
        """Return d(phi)/dt."""
        angles = self._angles(state[0])
        return (self._convolutions.contract(time, angles.sin()),)

    def with_density(self, time: int, state: State) -> State:
        """Return d(phi, log q)/dt."""
        angles = self._angles(state[0])
        velocity = self._convolutions.contract(time, angles.sin())
        return velocity, -(angles.cos().sum(2) * self._divergence[time]).sum(1)

    def with_score(self, time: int, state: State) -> State:
        """Return d(phi, log q, score)/dt, of which the first alone is differentiable."""
        angles = self._angles(state[0])
        sines = angles.sin()
        velocity = self._convolutions.contract(time, sines)
        with torch.no_grad():
            cosines = angles.cos()
            density = -(cosines.sum(2) * self._divergence[time]).sum(1)
            pulled = self._convolutions.expand(time, state[2]).mul_(cosines)
            score = torch.einsum("f,bfv->bv", -self._frequencies, pulled)
            curvature = self._curvature[time].expand(sines.shape[0], -1)
            score += torch.einsum("bf,bfv->bv", curvature, sines)
        return velocity, density, score

    def _angles(self, field: Tensor) -> Tensor:
        """Return (B, F, V), omega_f phi + alpha_f."""
        return torch.addcmul(self._phases[:, None], self._frequencies[:, None], field[:, None, :])
