r"""Symmetric convolutions on a periodic lattice, and the Gaussian that they make of white noise.

A kernel W(r) that does not change when an axis is reflected, or when two axes of equal extent are
exchanged, has one value an orbit of r under these moves (15 on 8 x 8), and so has its transform
W(k) = sum_r W(r) exp(-i k r), which is real. Convolutions with such kernels commute with
translations, reflections and exchanges of axes: with the symmetries of the lattice.
"""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor, nn


def orbits(shape: tuple[int, ...], isotropic: bool = True) -> tuple[Tensor, int]:
    """Return (*shape,) the orbit each lattice vector belongs to, and how many there are.

    Orbit 0 is that of the zero vector. Momenta 2 pi k / L have the orbits of their integers k.
    Without `isotropic`, axes of equal extent are not exchanged.
    """

    def invariant(vector: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
        folded = (min(r, extent - r) for r, extent in zip(vector, shape, strict=True))
        pairs = tuple(zip(shape, folded, strict=True))
        return tuple(sorted(pairs)) if isotropic else pairs

    invariants = [invariant(vector) for vector in product(*map(range, shape))]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(invariants))}
    labels = torch.tensor([numbers[key] for key in invariants])
    return labels.reshape(shape), len(numbers)


def spectrum(labels: Tensor) -> Tensor:
    """Return (orbits, orbits), which maps the orbit values of W(r) to those of W(k), in float64."""
    members = nn.functional.one_hot(labels.flatten()).double()
    n_orbits = members.shape[1]
    indicator = members.T.reshape(n_orbits, *labels.shape)
    axes = tuple(range(1, 1 + labels.ndim))
    transformed: Tensor = torch.fft.fftn(indicator, dim=axes).real.reshape(n_orbits, -1)
    return (transformed @ members) / members.sum(0)


def half(labels: Tensor) -> Tensor:
    """Return the labels on the momenta that a transform of real fields keeps (rfftn)."""
    return labels[..., : labels.shape[-1] // 2 + 1]


def convolve(x: Tensor, factors: Tensor) -> Tensor:
    """Return (B, *shape) fields times ([B,] *half shape) real factors in momentum space."""
    axes = tuple(range(1, x.ndim))
    out: Tensor = torch.fft.irfftn(torch.fft.rfftn(x, dim=axes) * factors, s=x.shape[1:], dim=axes)
    return out


class FourierGaussian(nn.Module):
    """Gaussian field whose momentum modes are independent, phi(k) = width(k) eta(k).

    eta is white noise and width(k) is learned, one number an orbit: the free field is among these,
    with width(k)^2 = 1 / [2 (khat^2 + m^2)].

    >>> field = FourierGaussian((4, 4))
    >>> noise = torch.randn(5, 4, 4, generator=torch.Generator().manual_seed(0))
    >>> torch.allclose(field.whiten(field(noise)), noise, atol=1e-6)
    True
    """

    labels: Tensor
    multiplicity: Tensor

    def __init__(self, shape: tuple[int, ...], width: float = 0.5, isotropic: bool = True) -> None:
        super().__init__()
        labels, n_orbits = orbits(shape, isotropic)
        self.log_width = nn.Parameter(torch.full((n_orbits,), math.log(width)))
        counts = torch.bincount(labels.flatten(), minlength=n_orbits)
        self.register_buffer("labels", half(labels).clone(), persistent=False)
        self.register_buffer("multiplicity", counts, persistent=False)

    def forward(self, noise: Tensor, shift: Tensor | float = 0.0) -> Tensor:
        """Map (B, *shape) white noise to fields; `shift` (B, orbits) is added to ln width(k)."""
        return convolve(noise, (self.log_width + shift).exp()[..., self.labels])

    def whiten(self, x: Tensor, shift: Tensor | float = 0.0) -> Tensor:
        """Inverse of `forward`."""
        return convolve(x, (-self.log_width - shift).exp()[..., self.labels])

    def log_prob_of_noise(self, noise: Tensor, shift: Tensor | float = 0.0) -> Tensor:
        """Return (B,), the log-density of the field that `forward` makes of the noise."""
        log_det = ((self.log_width + shift) * self.multiplicity).sum(-1)
        n_sites = noise[0].numel()
        square = noise.square().flatten(1).sum(1)
        return -0.5 * square - log_det - 0.5 * n_sites * math.log(2 * math.pi)

    def score_of_noise(self, noise: Tensor, shift: Tensor | float = 0.0) -> Tensor:
        """Return (B, *shape), the gradient of the log-density at the field made of the noise."""
        return -self.whiten(noise, shift)
