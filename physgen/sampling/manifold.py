r"""Where configurations live, as far as Hybrid Monte Carlo needs to know.

A momentum is a tangent vector at the unit, in as many numbers as the configuration has. A step of
the integrator moves the configuration along it (drift) and the momentum down the gradient of the
action (kick). On the flat space x <- x + eps p and p <- p - eps dS/dx. On SU(N), whose matrices U
are stored as real and imaginary parts (..., N, N, 2),

    U <- exp(eps A) U,    A <- A - (eps / 2) TA(G U^+),    TA(M) = (M - M^+) / 2 - trace,

with A = i sum_a p_a T_a anti-Hermitian, tr T_a T_b = delta_ab / 2, and G = dS/dRe U + i dS/dIm U;
the kinetic energy sum_a p_a^2 / 2 is |A|^2, the sum over all its elements. Both drifts keep the
volume, that of SU(N) being Haar's measure.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor


class Manifold(Protocol):
    """A space of (C, ...) configurations."""

    def momentum(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Draw (C, ...) momenta with the density exp(-kinetic)."""
        ...

    def kinetic(self, momentum: Tensor) -> Tensor:
        """Return (C,) kinetic energies."""
        ...

    def drift(self, x: Tensor, momentum: Tensor, step_size: float | Tensor) -> Tensor:
        """Move configurations along their momenta."""
        ...

    def kick(
        self, momentum: Tensor, x: Tensor, gradient: Tensor, step_size: float | Tensor
    ) -> Tensor:
        """Move momenta down the gradients of the action at `x`."""
        ...


class Flat:
    """R^n: fields of real numbers."""

    def momentum(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Draw standard normal numbers."""
        return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)

    def kinetic(self, momentum: Tensor) -> Tensor:
        """Return p^2 / 2."""
        return 0.5 * momentum.square().flatten(1).sum(1)

    def drift(self, x: Tensor, momentum: Tensor, step_size: float | Tensor) -> Tensor:
        """Return x + eps p."""
        return x + step_size * momentum

    def kick(
        self, momentum: Tensor, x: Tensor, gradient: Tensor, step_size: float | Tensor
    ) -> Tensor:
        """Return p - eps dS/dx."""
        return momentum - step_size * gradient


class Circles(Flat):
    """Angles, each on a circle (U(1)): flat, but x comes back into [-pi, pi).

    >>> Circles().drift(torch.tensor([[3.0]]), torch.tensor([[1.0]]), 0.5)  # 3.5 - 2 pi
    tensor([[-2.7832]])
    """

    def drift(self, x: Tensor, momentum: Tensor, step_size: float | Tensor) -> Tensor:
        """Return x + eps p, wrapped."""
        return wrapped(x + step_size * momentum)


class SpecialUnitary:
    """SU(N): matrices (..., N, N, 2) of determinant one.

    >>> generator = torch.Generator().manual_seed(1)
    >>> u = haar((5,), 3, generator)
    >>> moved = SPECIAL_UNITARY.drift(u, SPECIAL_UNITARY.momentum(u, generator), 0.1)
    >>> bool((not_unitary(moved) < 1e-12).all())
    True
    """

    def momentum(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Draw anti-Hermitian traceless matrices with the density exp(-|A|^2)."""
        normal = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return stored(_traceless(_antihermitian(matrices(normal * math.sqrt(0.5)))))

    def kinetic(self, momentum: Tensor) -> Tensor:
        """Return |A|^2."""
        return momentum.square().flatten(1).sum(1)

    def drift(self, x: Tensor, momentum: Tensor, step_size: float | Tensor) -> Tensor:
        """Return exp(eps A) U."""
        return stored(torch.linalg.matrix_exp(matrices(step_size * momentum)) @ matrices(x))

    def kick(
        self, momentum: Tensor, x: Tensor, gradient: Tensor, step_size: float | Tensor
    ) -> Tensor:
        """Return A - (eps / 2) TA(G U^+)."""
        force = _traceless(_antihermitian(matrices(gradient) @ matrices(x).mH))
        return momentum - 0.5 * step_size * stored(force)


FLAT, CIRCLES, SPECIAL_UNITARY = Flat(), Circles(), SpecialUnitary()
BY_DOMAIN: dict[str, Manifold] = {
    "real": FLAT,
    "angle": CIRCLES,
    "special-unitary": SPECIAL_UNITARY,
}
"""Where fields of a domain live that a force can move."""


def wrapped(angle: Tensor) -> Tensor:
    """Return angles in [-pi, pi)."""
    return (angle + math.pi).remainder(2 * math.pi) - math.pi


def matrices(x: Tensor) -> Tensor:
    """Return complex matrices (..., N, N) of real and imaginary parts (..., N, N, 2)."""
    return torch.view_as_complex(x.contiguous())


def stored(u: Tensor) -> Tensor:
    """Return real and imaginary parts (..., N, N, 2) of complex matrices (..., N, N)."""
    return torch.view_as_real(u)


def haar(shape: tuple[int, ...], n: int, generator: torch.Generator) -> Tensor:
    """Draw matrices (*shape, n, n, 2) of SU(n) from Haar's measure, in double precision.

    The Q of a matrix of normal numbers whose R has a positive diagonal is one of U(n) (Mezzadri,
    Notices AMS 54 (2007) 592); its determinant is divided out.
    """
    numbers = (*shape, n, n, 2)
    normal = torch.randn(numbers, generator=generator, device=generator.device, dtype=torch.double)
    q, r = torch.linalg.qr(matrices(normal))
    phases = r.diagonal(dim1=-2, dim2=-1)
    return stored(_unimodular(q * (phases / phases.abs())[..., None, :]))


def nearest_unitary(x: Tensor) -> Tensor:
    """Return the matrices (..., N, N, 2) of SU(N) next to some: their polar factors."""
    u, _, vh = torch.linalg.svd(matrices(x))
    return stored(_unimodular(u @ vh))


def not_unitary(x: Tensor) -> Tensor:
    """Return (...) how far matrices (..., N, N, 2) are from SU(N): of U U^+ and det U from one."""
    u = matrices(x)
    unit = torch.eye(u.shape[-1], dtype=u.dtype, device=u.device)
    length = (u @ u.mH - unit).abs().amax((-2, -1))
    return torch.maximum(length, (torch.linalg.det(u) - 1).abs())


def _unimodular(u: Tensor) -> Tensor:
    """Divide the determinant, which is a phase, out of (..., N, N) matrices."""
    phase = torch.linalg.det(u).angle() / u.shape[-1]
    return u * torch.polar(torch.ones_like(phase), -phase)[..., None, None]


def _antihermitian(m: Tensor) -> Tensor:
    return (m - m.mH) / 2


def _traceless(m: Tensor) -> Tensor:
    trace = m.diagonal(dim1=-2, dim2=-1).mean(-1)
    return m - trace[..., None, None] * torch.eye(m.shape[-1], dtype=m.dtype, device=m.device)
