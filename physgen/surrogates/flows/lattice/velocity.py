r"""Velocity of the continuous lattice flow, with its divergence and the motion of the score.

Features h_f = sin(omega_f phi + alpha_f) of (B, V) fields are convolved with symmetric kernels
W_f(t). The equations are those in the head of `physgen.surrogates.flows.lattice.continuous`.
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


def kernels(weights: Tensor, labels: Tensor) -> Kernels:
    """Return the faster kind of convolutions.

    Args:
        weights: (times, F, orbits), the kernels' values.
        labels: (*shape,), the orbit of each lattice vector.
    """
    dense = labels.numel() <= DENSE_SITES
    return DenseKernels(weights, labels) if dense else SpectralKernels(weights, labels)


class DenseKernels:
    """Convolutions as products with (F V, V) matrices."""

    def __init__(self, weights: Tensor, labels: Tensor) -> None:
        shape, n_sites = labels.shape, labels.numel()
        grids = torch.meshgrid(
            *(torch.arange(n, device=labels.device) for n in shape), indexing="ij"
        )
        separations = [
            (g.flatten()[:, None] - g.flatten()) % n for g, n in zip(grids, shape, strict=True)
        ]
        between = nn.functional.one_hot(labels[tuple(separations)].flatten(), weights.shape[2])
        # A product with zeros and ones: its backward pass is a product too, not a slow scatter.
        dense = weights @ between.to(weights.dtype).T
        self._matrices = dense.reshape(len(weights), -1, n_sites)

    def contract(self, time: int, features: Tensor) -> Tensor:
        """Return (B, V), sum_f W_f * h_f of (B, F, V) features."""
        return features.flatten(1) @ self._matrices[time]

    def expand(self, time: int, field: Tensor) -> Tensor:
        """Return (B, F, V), W_f * s of (B, V) fields."""
        return (field @ self._matrices[time].T).view(len(field), -1, field.shape[1])


class SpectralKernels:
    """Convolutions by fast Fourier transforms."""

    def __init__(self, weights: Tensor, labels: Tensor) -> None:
        self._shape = labels.shape
        self._axes = tuple(range(-labels.ndim, 0))
        to_momenta = spectrum(labels).to(weights)
        self._factors = (weights @ to_momenta)[:, :, half(labels)]

    def contract(self, time: int, features: Tensor) -> Tensor:
        """Return (B, V), sum_f W_f * h_f of (B, F, V) features."""
        modes = torch.fft.rfftn(features.reshape(*features.shape[:2], *self._shape), dim=self._axes)
        total = (modes * self._factors[time]).sum(1)
        out: Tensor = torch.fft.irfftn(total, s=self._shape, dim=self._axes)
        return out.flatten(1)

    def expand(self, time: int, field: Tensor) -> Tensor:
        """Return (B, F, V), W_f * s of (B, V) fields."""
        modes = torch.fft.rfftn(field.reshape(-1, *self._shape), dim=self._axes)
        each = modes[:, None] * self._factors[time]
        out: Tensor = torch.fft.irfftn(each, s=self._shape, dim=self._axes)
        return out.flatten(2)


class Velocity:
    """The velocity at all times of an integration.

    Args:
        convolutions: with the kernels W_f(t).
        diagonal: (times, F), W_f(0; t).
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
        return velocity, -(angles.cos().sum(2) @ self._divergence[time])

    def with_score(self, time: int, state: State) -> State:
        """Return d(phi, log q, score)/dt, of which the first alone is differentiable."""
        angles = self._angles(state[0])
        sines = angles.sin()
        velocity = self._convolutions.contract(time, sines)
        with torch.no_grad():
            cosines = angles.cos()
            density = -(cosines.sum(2) @ self._divergence[time])
            pulled = self._convolutions.expand(time, state[2]).mul_(cosines)
            score = torch.einsum("f,bfv->bv", -self._frequencies, pulled)
            score += torch.einsum("f,bfv->bv", self._curvature[time], sines)
        return velocity, density, score

    def _angles(self, field: Tensor) -> Tensor:
        """Return (B, F, V), omega_f phi + alpha_f."""
        return torch.addcmul(self._phases[:, None], self._frequencies[:, None], field[:, None, :])
