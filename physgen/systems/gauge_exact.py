r"""Exact results of gauge theories in two dimensions, on a torus of V plaquettes; small beta.

With Haar's measure and S = -(beta / N) sum_P Re tr P the plaquettes decouple but for the torus, and

    Z = sum_r lambda_r(beta)^V,    lambda_r = (1 / d_r) int dU chi_r(U) exp(beta Re tr U / N),

summed over the irreducible representations r of dimension d_r (Migdal, Sov. Phys. JETP 42 (1975)
413). The mean plaquette is (1 / V) d ln Z / d beta. Of U(1), where lambda_n = I_n(beta), the
topological charge Q = sum_P theta_P / 2 pi, theta_P in (-pi, pi), has

    <Q^2> = sum_n [V lambda_n^(V-1) C_n - V (V - 1) lambda_n^(V-2) B_n^2] / Z,
    B_n = int dtheta / 2 pi exp(beta cos theta) (theta / 2 pi) sin n theta,

and C_n with (theta / 2 pi)^2 cos n theta. All integrals run over eigenvalues of U on a circle,
where equidistant points converge faster than any power (B_n and C_n by Gauss-Legendre).

In more dimensions, with a_r = lambda_r / lambda_0, the first surfaces that close are cubes, of
which there are C(d, 3) V beside C(d, 2) V plaquettes:

    ln Z = C(d, 2) V ln lambda_0 + C(d, 3) V sum_(r != 0) d_r^2 a_r^6 + O(a^10).
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache, reduce

import numpy as np
from numpy.typing import NDArray

_POINTS = 128
"""On a circle."""
_HIGHEST = 24
"""Charges of U(1) and twice the spins of SU(2) are below; p and q of SU(3) are below half of it."""

_STRONG = 0.2
"""Up to this a the strong coupling series is used."""

Floats = NDArray[np.float64]
Complex = NDArray[np.complex128]


def torus(n: int, beta: float, n_plaquettes: int) -> dict[str, float]:
    """Return "ln Z" and "plaquette" of U(1) (n = 1), SU(2) or SU(3), and "Q^2" of U(1)."""
    coefficients, slopes, shift = _coefficients(n, beta)
    # Relative to the trivial representation, which is the largest.
    ratio = (coefficients / coefficients[0]) ** n_plaquettes
    total = ratio.sum()
    ln_z = n_plaquettes * (math.log(coefficients[0]) + shift) + math.log(total)
    exact = {
        "ln Z": ln_z,
        "plaquette": float((ratio * slopes / coefficients).sum() / total),
    }
    if n == 1:
        exact["Q^2"] = _charge_squared(beta, n_plaquettes)
    return exact


def strong_coupling(n: int, beta: float, shape: tuple[int, ...]) -> dict[str, tuple[float, float]]:
    """Return "ln Z" and "plaquette" of three or four dimensions to the order of one cube.

    The error is the whole of that order. Nothing is returned where a of the fundamental
    representation is above 0.2 (beta > 2.9 of SU(3)), the series being bad there, or where an
    extent is below 4, surfaces round the lattice being of the orders that are kept.

    >>> value, error = strong_coupling(3, 1.0, (4, 4, 4, 4))["plaquette"]
    >>> round(value, 5), error < 1e-5  # beta / 18 + beta^2 / 216 + ... = 0.06013
    (0.06013, True)
    """
    d, n_sites = len(shape), math.prod(shape)
    if not (d > 2 and min(shape) >= 4 and beta > 0):
        return {}
    coefficients, slopes, shift = _coefficients(n, beta)
    a = coefficients[1] / coefficients[0]
    if a > _STRONG:
        return {}
    slope = (slopes[1] - a * slopes[0]) / coefficients[0]
    # The fundamental representation and its conjugate, which is another one but of SU(2).
    cubes = math.comb(d, 3) * n_sites * n * n * (1 if n == 2 else 2)
    n_plaquettes = math.comb(d, 2) * n_sites
    ln_z = n_plaquettes * (math.log(coefficients[0]) + shift)
    plaquette, cube = slopes[0] / coefficients[0], 6 * cubes * a**5 * slope / n_plaquettes
    return {
        "ln Z": (float(ln_z + cubes * a**6), float(cubes * a**6)),
        "plaquette": (float(plaquette + cube), float(cube)),
    }


@lru_cache(maxsize=64)
def _coefficients(n: int, beta: float) -> tuple[Floats, Floats, float]:
    """Return exp(-shift) lambda_r and d lambda_r / d beta of all r, the trivial one first."""
    angle = 2 * np.pi * np.arange(_POINTS) / _POINTS
    free = np.meshgrid(*[angle] * max(n - 1, 1), indexing="ij")
    eigenvalues = np.stack([*free, -sum(free)] if n > 1 else free)
    real_trace = np.cos(eigenvalues).mean(0)
    # The largest exponent is taken out, so that nothing overflows.
    weight = np.exp(beta * (real_trace - 1))
    powers = _powers(eigenvalues)
    ladder = _determinant(powers, tuple(range(n - 1, -1, -1)))
    weight = weight / weight.size / math.factorial(n)
    coefficients, slopes = [], []
    for highest in _representations(n):
        lengths = tuple(h + n - 1 - i for i, h in enumerate(highest))
        character = (_determinant(powers, lengths) * ladder.conj()).real
        pairs = itertools.combinations(lengths, 2)
        dimension = math.prod(a - b for a, b in pairs) / math.prod(map(math.factorial, range(n)))
        coefficients.append((weight * character).sum() / dimension)
        slopes.append((weight * character * real_trace).sum() / dimension)
    values = np.array(coefficients), np.array(slopes)
    return *values, beta


def _representations(n: int) -> list[tuple[int, ...]]:
    """Return highest weights, the trivial one first."""
    if n == 1:
        return [(0,), *((charge,) for k in range(1, _HIGHEST) for charge in (k, -k))]
    if n == 2:
        return [(spin, 0) for spin in range(_HIGHEST)]
    half = range(_HIGHEST // 2)
    return [(p + q, q, 0) for p in half for q in half]


def _powers(eigenvalues: Floats) -> Complex:
    """Return exp(i l theta_k) of the grid, of every l that is needed, negative ones at the end."""
    lengths = np.fft.fftfreq(2 * _HIGHEST + 5, 1 / (2 * _HIGHEST + 5)).round()
    return np.asarray(np.exp(1j * lengths.reshape(-1, *[1] * eigenvalues.ndim) * eigenvalues))


def _determinant(powers: Complex, lengths: tuple[int, ...]) -> Complex:
    """Return det exp(i l_j theta_k), for every point of the grid."""
    total = np.zeros(powers.shape[2:], np.complex128)
    for order in itertools.permutations(range(len(lengths))):
        sign = math.prod(int(np.sign(b - a)) for a, b in itertools.combinations(order, 2))
        total += sign * reduce(
            np.multiply, (powers[length, k] for length, k in zip(lengths, order, strict=True))
        )
    return total


def _charge_squared(beta: float, n_plaquettes: int) -> float:
    nodes, weights = np.polynomial.legendre.leggauss(4 * _POINTS)
    theta, weights = np.pi * nodes, weights / 2 * np.exp(beta * (np.cos(np.pi * nodes) - 1))
    share = theta / (2 * np.pi)
    charges = np.arange(-_HIGHEST, _HIGHEST + 1)[:, None]
    cosine, sine = np.cos(charges * theta), np.sin(charges * theta)
    i, b, c = ((weights * part).sum(1) for part in (cosine, share * sine, share**2 * cosine))
    v, top = n_plaquettes, i[len(i) // 2]
    i, b, c = i / top, b / top, c / top
    numerator = v * i ** (v - 1) * c - v * (v - 1) * i ** (v - 2) * b**2
    return float(numerator.sum() / (i**v).sum())
