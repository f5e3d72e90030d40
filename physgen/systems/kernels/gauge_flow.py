r"""Gradient flows of small Wilson loops, compiled: the velocity and its divergence.

With tr T^a T^b = -delta_ab / 2 and d_a f(U) = d/ds f(exp(s T^a) U) at s = 0, links move by

    dU_e / dt = A_e U_e,    A_e = sum_a T^a d_a^e Phi = -kappa TA(M_e),    dPhi = Re tr (dU U^+) M,

kappa = 1/2, TA(M) = (M - M^+) / 2 - trace; of U(1), whose trace stays, kappa = 1 and T = i. So the
divergence is the Laplacian L Phi = sum_{e, a} d_a d_a Phi, and ln q changes by -L Phi. The
potential is

    Phi = sum_P f(u, v) + sum_e sum_{k < l} (c_R R + c_F F + c_T u_k u_l + c_S v_k v_l),
    u + i v = tr P,    R = Re tr P_k P_l^+,    F = Re tr P_k P_l,

P_k = U_e V_k being the plaquettes that begin with the link e. R is a rectangle of two plaquettes,
flat or bent, F is a figure eight. For pairs whose plaquettes lie in a plane and for all others the
coefficients are two sets. Planar pairs across an axis of extent 2, which share two links, are left
out. With C_F = (N^2 - 1) / 2 N and iota = 1 / N (of U(1): 1 and 0) a loop of n different links has
L = -n C_F, and

    L F       = -8 C_F F       - 2 kappa (u_k u_l - v_k v_l - iota F),
    L u_k u_l = -8 C_F u_k u_l + kappa (R - F - 2 iota v_k v_l),
    L v_k v_l = -8 C_F v_k v_l + kappa (R + F - 2 iota u_k u_l).

Of pairs in a plane there are (u_k + u_l) R, (u_k + u_l) F and u_k u_l (u_k + u_l) besides, whose L
follows by the product rule: a plaquette meets R on three links, in F and in itself on four.

(Luescher, Commun. Math. Phys. 293 (2010) 899, section 3).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from physgen.systems.kernels.cache import CACHE
from physgen.systems.kernels.matrices import (
    Stack,
    multiply,
    multiply_left,
    multiply_right,
    overlap,
    project,
    trace,
    trace_of_product,
)

Real = NDArray[np.float64]
Table = NDArray[np.int32]

TERMS = (
    *("u", "u^2", "u^3", "v^2", "u v^2"),
    *("planar R", "planar F", "planar uu", "planar vv"),
    *("bent R", "bent F", "bent uu", "bent vv"),
    *("planar (u + u) R", "planar (u + u) F", "planar uu (u + u)"),
)
"""Of the potential, in the order of their coefficients."""
N_TERMS = len(TERMS)


class Lattice(NamedTuple):
    """Where the neighbours of sites are; links are numbered axis * V + site.

    Attributes:
        ahead, behind: (d, V), the sites one step forwards and backwards along each axis.
        paired: (d,), whether planar pairs across an axis count: its extent is not 2.
    """

    ahead: Table
    behind: Table
    paired: NDArray[np.bool_]


def lattice(shape: tuple[int, ...]) -> Lattice:
    """Return the tables of a periodic lattice."""
    sites = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    ahead, behind = (
        np.stack([np.roll(sites, step, axis).ravel() for axis in range(len(shape))])
        for step in (-1, 1)
    )
    return Lattice(ahead, behind, np.array(shape) > 2)


@njit(cache=CACHE, nogil=True)
def _staples(links: Stack, where: Lattice, mu: int, site: int, work: Stack, who: Table) -> None:
    """Write the staples V_k of a link, and the first two of their factors, into `work`.

    Slots: V_k, then the products E_k. `who` (K, 3) receives the three links.
    """
    ahead, behind = where.ahead, where.behind
    d, v = ahead.shape
    n_staples = 2 * (d - 1)
    spare = 2 * n_staples
    k = 0
    for nu in range(d):
        if nu == mu:
            continue
        b, c, o = nu * v + ahead[mu, site], mu * v + ahead[nu, site], nu * v + site
        who[k, 0], who[k, 1], who[k, 2] = b, c, o
        multiply_right(links, b, links, c, work, n_staples + k)
        multiply_right(work, n_staples + k, links, o, work, k)
        below = behind[nu, site]
        b, c, o = nu * v + ahead[mu, below], mu * v + below, nu * v + below
        who[k + 1, 0], who[k + 1, 1], who[k + 1, 2] = b, c, o
        multiply(links, c, links, b, work, spare)  # E = B^+ C^+ = (C B)^+
        for r in range(links.shape[1]):
            for q in range(links.shape[1]):
                work[n_staples + k + 1, r, q] = work[spare, q, r].conjugate()
        multiply(work, n_staples + k + 1, links, o, work, k + 1)
        k += 2


@njit(cache=CACHE, nogil=True)
def _add(out: Stack, i: int, factor: complex, a: Stack, k: int) -> None:
    n = out.shape[1]
    for r in range(n):
        for c in range(n):
            out[i, r, c] += factor * a[k, r, c]


@njit(cache=CACHE, nogil=True)
def _pass_on(links: Stack, out: Stack, who: Table, k: int, work: Stack, given: int) -> None:
    """Add to M of the three links of a staple what dPhi = Re tr(Lambda dV_k) makes of it.

    V = B C^+ D^+ of even k, B^+ C^+ D of odd ones; Lambda is work[given], free slots come after.
    """
    n_staples, b, c, o = len(who), who[k, 0], who[k, 1], who[k, 2]
    first, second, third = given + 1, given + 2, given + 3
    if k % 2 == 0:
        multiply(work, k, work, given, work, first)  # V Lambda
        _add(out, b, 1.0, work, first)
        multiply(work, given, work, k, work, first)  # Lambda V
        _add(out, o, -1.0, work, first)
        multiply_left(links, o, work, given, work, first)
        multiply(work, first, work, n_staples + k, work, second)  # D^+ Lambda B C^+
        _add(out, c, -1.0, work, second)
    else:
        multiply(links, o, work, given, work, first)
        multiply(work, first, work, n_staples + k, work, second)  # D Lambda B^+ C^+
        _add(out, o, 1.0, work, second)
        _add(out, c, -1.0, work, second)
        multiply_left(links, c, work, first, work, second)
        multiply_right(work, second, links, b, work, third)  # C^+ D Lambda B^+
        _add(out, b, -1.0, work, third)


@njit(cache=CACHE, nogil=True)
def slope(links: Stack, where: Lattice, c: Real, work: Stack, who: Table, out: Stack) -> float:
    """Write A of every link into `out` (links, N, N), and return L Phi.

    Args:
        links: (d V, N, N).
        where: the lattice.
        c: coefficients, in the order of `TERMS`.
        work, who: of `workspace`, overwritten.
        out: receives A.
    """
    d, v = where.ahead.shape
    n = links.shape[1]
    kappa, iota = (1.0, 0.0) if n == 1 else (0.5, 1.0 / n)
    casimir = 1.0 if n == 1 else 0.5 * (n - iota)
    n_staples = 2 * (d - 1)
    plaquettes = 2 * n_staples + 1  # Slots of P_k, behind V_k, E_k and one that is free.
    total, both, gathered = 3 * n_staples + 1, 3 * n_staples + 2, 3 * n_staples + 3
    free, given = gathered + 1, gathered + 3
    # `given` and the two slots behind it are those of `_pass_on`.
    planar, bent, cubic = c[5:9], c[9:13], c[13:]
    has_pairs, has_bent = c[5:].any(), d > 2 and bent.any()
    has_cubic = cubic.any()
    u, w, curvature = np.empty(n_staples), np.empty(n_staples), np.empty(n_staples)
    pair_r, pair_f = np.empty(n_staples), np.empty(n_staples)
    out[:] = 0.0
    divergence = 0.0
    for mu in range(d):
        for site in range(v):
            e = mu * v + site
            _staples(links, where, mu, site, work, who)
            sum_u, sum_w, squares = 0.0, 0.0, 0.0
            for k in range(n_staples):
                p = plaquettes + k
                multiply(links, e, work, k, work, p)
                t = trace(work, p)
                x, y = t.real, t.imag
                u[k], w[k] = x, y
                slope_u = c[0] + x * (2 * c[1] + 3 * c[2] * x) + c[4] * y * y
                slope_v = 2 * y * (c[3] + c[4] * x)
                _add(out, e, complex(slope_u, -slope_v), work, p)
                square = trace_of_product(work, p, work, p)
                uu = 0.5 * (n - square.real) - iota * y * y
                vv = 0.5 * (n + square.real) - iota * x * x
                uv = iota * x * y - 0.5 * square.imag
                curvature[k] = uu
                curved = (2 * c[1] + 6 * c[2] * x) * uu + 2 * (c[3] + c[4] * x) * vv
                curved += 4 * c[4] * y * uv
                divergence += kappa * curved - casimir * (slope_u * x + slope_v * y)
                sum_u, sum_w = sum_u + x, sum_w + y
                squares += square.real
            if not has_pairs:
                continue
            # Of pairs in a plane: R, F, u u and v v; of all others the rest of the sums.
            r, f, t1, t2 = 0.0, 0.0, 0.0, 0.0
            rest_r, rest_f, rest_1, rest_2 = 0.0, 0.0, 0.0, 0.0
            for k in range(0, n_staples, 2):
                one_r = overlap(work, k, work, k + 1)
                one_f = trace_of_product(work, plaquettes + k, work, plaquettes + k + 1).real
                one_1, one_2 = u[k] * u[k + 1], w[k] * w[k + 1]
                rest_r, rest_f = rest_r - one_r, rest_f - one_f
                rest_1, rest_2 = rest_1 - one_1, rest_2 - one_2
                if where.paired[k // 2 if k // 2 < mu else k // 2 + 1]:
                    r, f, t1, t2 = r + one_r, f + one_f, t1 + one_1, t2 + one_2
                    if has_cubic:
                        divergence += _cubic(work, plaquettes + k, given, cubic, curvature[k:])
                pair_r[k], pair_f[k] = one_r, one_f
                pair_r[k + 1], pair_f[k + 1] = one_r, one_f
            divergence += _laplacian(planar, n, r, f, t1, t2)
            if has_bent:
                for row in range(n):
                    for col in range(n):
                        x, y = 0j, 0j
                        for k in range(n_staples):
                            x += work[k, row, col]
                            y += work[plaquettes + k, row, col]
                        work[total, row, col], work[both, row, col] = x, y
                rest_r += 0.5 * (overlap(work, total, work, total) - n * n_staples)
                rest_f += 0.5 * (trace_of_product(work, both, work, both).real - squares)
                own = 0.0
                for k in range(n_staples):
                    own += u[k] * u[k]
                    rest_2 -= 0.5 * w[k] * w[k]
                rest_1 += 0.5 * (sum_u * sum_u - own)
                rest_2 += 0.5 * sum_w * sum_w
                divergence += _laplacian(bent, n, rest_r, rest_f, rest_1, rest_2)
            work[gathered] = 0.0
            for k in range(n_staples):
                other = k + 1 - 2 * (k % 2)
                same = 1.0 if where.paired[k // 2 if k // 2 < mu else k // 2 + 1] else 0.0
                weight = complex(same * planar[2] * u[other], -same * planar[3] * w[other])
                if has_bent:
                    weight += complex(
                        bent[2] * (sum_u - u[k] - u[other]), -bent[3] * (sum_w - w[k] - w[other])
                    )
                two = u[k] + u[other]
                if has_cubic:
                    scalars = cubic[0] * pair_r[k] + cubic[1] * pair_f[k]
                    weight += same * (scalars + cubic[2] * u[other] * (two + u[k]))
                # Lambda = (F part + scalars) U + R part, from the plaquettes and the staples.
                for row in range(n):
                    for col in range(n):
                        x = same * (planar[1] + cubic[1] * two) * work[plaquettes + other, row, col]
                        y = same * (planar[0] + cubic[0] * two) * work[other, col, row]
                        if has_bent:
                            x += bent[1] * (
                                work[both, row, col]
                                - work[plaquettes + k, row, col]
                                - work[plaquettes + other, row, col]
                            )
                            y += bent[0] * (
                                work[total, col, row] - work[k, col, row] - work[other, col, row]
                            )
                        work[free, row, col], work[free + 1, row, col] = x, y.conjugate()
                    work[free, row, row] += weight
                multiply(work, free, links, e, work, given)
                _add(work, given, 1.0, work, free + 1)
                multiply(work, k, work, given, work, free)
                _add(work, gathered, 1.0, work, free)
                _pass_on(links, out, who, k, work, given)
            multiply(links, e, work, gathered, work, free)
            multiply_right(work, free, links, e, work, free + 1)
            _add(out, e, 1.0, work, free + 1)
    for e in range(d * v):
        project(out, e)
        for row in range(n):
            for col in range(n):
                out[e, row, col] *= -kappa
    return divergence


@njit(cache=CACHE, nogil=True)
def _laplacian(c: Real, n: int, r: float, f: float, uu: float, vv: float) -> float:
    """Return L of c_R R + c_F F + c_T u u + c_S v v, of sums over pairs."""
    kappa, iota = (1.0, 0.0) if n == 1 else (0.5, 1.0 / n)
    casimir = 1.0 if n == 1 else 0.5 * (n - iota)
    total = c[0] * -6 * casimir * r
    total += c[1] * (-8 * casimir * f - 2 * kappa * (uu - vv - iota * f))
    total += c[2] * (-8 * casimir * uu + kappa * (r - f - 2 * iota * vv))
    total += c[3] * (-8 * casimir * vv + kappa * (r + f - 2 * iota * uu))
    return total  # type: ignore[no-any-return]


@njit(cache=CACHE, nogil=True)
def _cubic(work: Stack, p: int, free: int, c: Real, curvature: Real) -> float:
    """Return L of the terms of third order, of plaquettes p and p + 1; four slots are free."""
    n = work.shape[1]
    kappa, iota = (1.0, 0.0) if n == 1 else (0.5, 1.0 / n)
    casimir = 1.0 if n == 1 else 0.5 * (n - iota)
    one, two = trace(work, p), trace(work, p + 1)
    multiply(work, p, work, p, work, free)
    multiply(work, p + 1, work, p + 1, work, free + 1)
    multiply_right(work, p, work, p + 1, work, free + 2)
    multiply(work, p, work, p + 1, work, free + 3)
    against, along = trace(work, free + 2), trace(work, free + 3)
    rest_r = overlap(work, p + 1, work, free) + overlap(work, p, work, free + 1)
    rest_f = trace_of_product(work, free, work, p + 1) + trace_of_product(work, free + 1, work, p)
    both, r, f = one.real + two.real, against.real, along.real
    product = one.real * two.real
    turning = r - f - 2 * iota * one.imag * two.imag
    total = c[0] * -10 * casimir * both * r
    total += c[0] * 6 * kappa * (0.5 * (both - rest_r) - iota * against.imag * (one - two).imag)
    total += c[1] * -12 * casimir * both * f
    total -= c[1] * 2 * kappa * both * (product - one.imag * two.imag - iota * f)
    total += c[1] * 10 * kappa * (0.5 * (both - rest_f.real) - iota * along.imag * (one + two).imag)
    total += c[2] * (2 * kappa * turning - 12 * casimir * product) * both
    total += c[2] * 8 * kappa * (two.real * curvature[0] + one.real * curvature[1])
    return total  # type: ignore[no-any-return]


@njit(cache=CACHE)
def workspace(d: int, n: int) -> tuple[Stack, Table]:
    """Return what `slope` overwrites, for d axes and matrices of order n."""
    n_staples = 2 * (d - 1)
    stack = np.zeros((3 * n_staples + 10, n, n), dtype=np.complex128)
    return stack, np.zeros((n_staples, 3), dtype=np.int32)
