"""What moves along gradient flows of links: Runge-Kutta steps; derivatives of single terms."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from physgen.systems.kernels.cache import CACHE
from physgen.systems.kernels.gauge_flow import N_TERMS, Lattice, Real, slope, workspace
from physgen.systems.kernels.matrices import Stack, exponential, multiply, overlap


@njit(cache=CACHE, nogil=True)
def _move(links: Stack, algebra: Stack, work: Stack) -> None:
    """Replace links by exp(A) U."""
    for e in range(links.shape[0]):
        exponential(algebra, e, work, 0)
        multiply(work, 0, links, e, work, 2)
        links[e] = work[2]


@njit(cache=CACHE, nogil=True)
def integrate(
    links: NDArray[np.complex128], where: Lattice, coefficients: Real, size: float
) -> Real:
    """Move configurations (B, links, N, N) along the flow in place; return int L Phi dt (B,).

    Third-order steps (Luescher, JHEP 08 (2010) 071, appendix C): Z_i = h A(W_i),

        W_1 = exp(Z_0 / 4) W_0,    W_2 = exp(8 Z_1 / 9 - 17 Z_0 / 36) W_1,
        W_3 = exp(3 Z_2 / 4 - 8 Z_1 / 9 + 17 Z_0 / 36) W_2.

    Args:
        coefficients: (steps, 3, terms) at the beginning of a step and at 1/4 and 2/3 of it.
        size: h, negative for the way back.
    """
    work, who = workspace(len(where.ahead), links.shape[2])
    algebra, final = np.empty(links.shape[1:], links.dtype), np.empty(links.shape[1:], links.dtype)
    change = np.empty(len(links))
    for b in range(links.shape[0]):
        u, total = links[b], 0.0
        for step in range(coefficients.shape[0]):
            total += 0.25 * slope(u, where, coefficients[step, 0], work, who, algebra)
            for i in range(algebra.size):
                final.flat[i] = -17.0 / 36.0 * size * algebra.flat[i]
                algebra.flat[i] *= 0.25 * size
            _move(u, algebra, work)
            slope(u, where, coefficients[step, 1], work, who, algebra)
            for i in range(algebra.size):
                final.flat[i] += 8.0 / 9.0 * size * algebra.flat[i]
            _move(u, final, work)
            total += 0.75 * slope(u, where, coefficients[step, 2], work, who, algebra)
            for i in range(algebra.size):
                algebra.flat[i] = 0.75 * size * algebra.flat[i] - final.flat[i]
            _move(u, algebra, work)
        change[b] = size * total
    return change


@njit(cache=CACHE, nogil=True)
def derivatives(
    links: NDArray[np.complex128], where: Lattice, terms: NDArray[np.int64]
) -> tuple[Real, Real, Real]:
    """Return L w_i and <grad w_i, grad W> of the terms w_i, (B, terms), and W = sum_P u, (B,)."""
    n = links.shape[2]
    work, who = workspace(len(where.ahead), n)
    first, other = np.empty(links.shape[1:], links.dtype), np.empty(links.shape[1:], links.dtype)
    laplacian, along = np.empty((len(links), len(terms))), np.empty((len(links), len(terms)))
    total = np.empty(len(links))
    casimir, kappa = (1.0, 1.0) if n == 1 else (0.5 * (n - 1.0 / n), 0.5)
    unit = np.zeros(N_TERMS)
    for b in range(links.shape[0]):
        unit[:] = 0.0
        unit[0] = 1.0
        total[b] = slope(links[b], where, unit, work, who, first) / (-4.0 * casimir)
        for i in range(len(terms)):
            unit[:] = 0.0
            unit[terms[i]] = 1.0
            laplacian[b, i] = slope(links[b], where, unit, work, who, other)
            product = 0.0
            for e in range(len(first)):
                product += overlap(first, e, other, e)
            along[b, i] = product / kappa
    return laplacian, along, total


@njit(cache=CACHE, nogil=True)
def traces(links: NDArray[np.complex128], where: Lattice) -> Real:
    """Return W = sum_P Re tr P of configurations (B, links, N, N)."""
    d, v = where.ahead.shape
    work, result = np.empty((2, *links.shape[2:]), np.complex128), np.zeros(len(links))
    for b in range(len(links)):
        u = links[b]
        for mu in range(d):
            for nu in range(mu):
                for site in range(v):
                    ahead, up = where.ahead[mu, site], where.ahead[nu, site]
                    multiply(u, mu * v + site, u, nu * v + ahead, work, 0)
                    multiply(u, nu * v + site, u, mu * v + up, work, 1)
                    result[b] += overlap(work, 1, work, 0)
    return result
