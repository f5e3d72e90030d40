r"""Links in lanes that move in their group, as Hybrid Monte Carlo and gradient flow need it.

The velocity A of a link, anti-Hermitian and traceless, is kept as the number p of A = i p (U(1)),
the three of A = i p . sigma (SU(2)), or the 18 of the matrix (SU(3)), for each lane.
With the sum M of the staples of U,

    kick:   A <- keep A - c TA(U M),    TA(X) = (X - X^+) / 2 - trace, of U(1) i Im X,
    drift:  U <- exp(step A) U.

Exponentials are power series: of SU(3) by the theorem of Cayley and Hamilton,
A^3 = (tr A^2 / 2) A + det A. Twenty-four terms are good to 1e-14 where |step A| <= 2.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from physgen.systems.kernels.cache import CACHE
from physgen.systems.kernels.gauge import su2, su3, u1
from physgen.systems.kernels.gauge.draws import POOL, Pool, normals
from physgen.systems.kernels.gauge.lanes import FAST, LANES, fast

Real = NDArray[np.float64]
Table = NDArray[np.int32]

_L = LANES
_TERMS = 24
VELOCITIES = {1: 1, 2: 3, 3: 18}
"""Numbers of a velocity by N."""


@fast
def _kick_1(link: Real, m: Real, p: Real, keep: float, c: Real, n: int) -> None:
    for k in range(n):
        p[k] = keep * p[k] - c[k] * (link[k] * m[_L + k] + link[_L + k] * m[k])


@fast
def _kick_2(u: Real, m: Real, p: Real, keep: float, c: Real, n: int) -> None:
    for k in range(n):
        u0, u1_, u2, u3 = u[k], u[_L + k], u[2 * _L + k], u[3 * _L + k]
        m0, m1, m2, m3 = m[k], m[_L + k], m[2 * _L + k], m[3 * _L + k]
        p[k] = keep * p[k] - c[k] * (u0 * m1 + m0 * u1_ - u2 * m3 + u3 * m2)
        p[_L + k] = keep * p[_L + k] - c[k] * (u0 * m2 + m0 * u2 - u3 * m1 + u1_ * m3)
        p[2 * _L + k] = keep * p[2 * _L + k] - c[k] * (u0 * m3 + m0 * u3 - u1_ * m2 + u2 * m1)


@fast
def _kick_3(w: Real, p: Real, keep: float, c: Real, n: int) -> None:
    for k in range(n):
        trace = (w[_L + k] + w[9 * _L + k] + w[17 * _L + k]) * (1.0 / 3.0)
        p[_L + k] = keep * p[_L + k] - c[k] * (w[_L + k] - trace)
        p[9 * _L + k] = keep * p[9 * _L + k] - c[k] * (w[9 * _L + k] - trace)
        p[17 * _L + k] = keep * p[17 * _L + k] - c[k] * (w[17 * _L + k] - trace)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        a = w[(6 * i + 2 * j) * _L : (6 * i + 2 * j + 2) * _L]
        b = w[(6 * j + 2 * i) * _L : (6 * j + 2 * i + 2) * _L]
        q = p[(6 * i + 2 * j) * _L : (6 * i + 2 * j + 2) * _L]
        r = p[(6 * j + 2 * i) * _L : (6 * j + 2 * i + 2) * _L]
        for k in range(n):
            x = keep * q[k] - 0.5 * c[k] * (a[k] - b[k])
            y = keep * q[_L + k] - 0.5 * c[k] * (a[_L + k] + b[_L + k])
            q[k], q[_L + k], r[k], r[_L + k] = x, y, -x, y


@njit(cache=CACHE, nogil=True)
def kick_1(u: Real, p: Real, table: Table, keep: float, c: Real) -> None:
    """Change the velocities of all links of U(1), at one c of each lane."""
    d, n, m = table.shape[1] // 2, len(c), np.empty(2 * _L)
    for site in range(len(table)):
        for mu in range(d):
            u1.staples(u, table, site, mu, m, n)
            _kick_1(u[site * d + mu], m, p[site * d + mu], keep, c, n)


@njit(cache=CACHE, nogil=True)
def kick_2(u: Real, p: Real, table: Table, keep: float, c: Real) -> None:
    """Change the velocities of all links of SU(2)."""
    d, n, m = table.shape[1] // 2, len(c), np.empty(4 * _L)
    for site in range(len(table)):
        for mu in range(d):
            su2.staples(u, table, site, mu, m, n)
            _kick_2(u[site * d + mu], m, p[site * d + mu], keep, c, n)


@njit(cache=CACHE, nogil=True)
def kick_3(u: Real, p: Real, table: Table, keep: float, c: Real) -> None:
    """Change the velocities of all links of SU(3)."""
    d, n, m, w = table.shape[1] // 2, len(c), np.empty(18 * _L), np.empty(18 * _L)
    for site in range(len(table)):
        for mu in range(d):
            su3.staples(u, table, site, mu, m, n)
            su3.times(u[site * d + mu], m, w, n)
            _kick_3(w, p[site * d + mu], keep, c, n)


@fast
def _circle(square: Real, cosine: Real, sine: Real, n: int) -> None:
    """Write cos x and sin x / x of x^2."""
    cosine[:] = 1.0
    sine[:] = 1.0
    for i in range(_TERMS, 0, -2):
        c, s = 1.0 / (i * (i - 1.0)), 1.0 / (i * (i + 1.0))
        for k in range(n):
            cosine[k] = 1.0 - c * square[k] * cosine[k]
            sine[k] = 1.0 - s * square[k] * sine[k]


@fast
def _turn_1(u: Real, angle: Real, cosine: Real, sine: Real, n: int) -> None:
    for k in range(n):
        x, y, s = u[k], u[_L + k], angle[k] * sine[k]
        u[k] = cosine[k] * x - s * y
        u[_L + k] = cosine[k] * y + s * x


@njit(cache=CACHE, nogil=True, fastmath=FAST, error_model="numpy")
def drift_1(u: Real, p: Real, step: float, n: int) -> None:
    """Move all links of U(1), of n lanes."""
    angle, square, cosine, sine = np.empty(_L), np.empty(_L), np.empty(_L), np.empty(_L)
    for row in range(len(u)):
        v = p[row]
        for k in range(n):
            angle[k] = step * v[k]
            square[k] = angle[k] * angle[k]
        _circle(square, cosine, sine, n)
        _turn_1(u[row], angle, cosine, sine, n)


@fast
def _turn_2(u: Real, p: Real, step: float, cosine: Real, sine: Real, n: int) -> None:
    for k in range(n):
        s = step * sine[k]
        w, x, y, z = cosine[k], s * p[k], s * p[_L + k], s * p[2 * _L + k]
        u0, u1_, u2, u3 = u[k], u[_L + k], u[2 * _L + k], u[3 * _L + k]
        u[k] = w * u0 - x * u1_ - y * u2 - z * u3
        u[_L + k] = w * u1_ + u0 * x - y * u3 + z * u2
        u[2 * _L + k] = w * u2 + u0 * y - z * u1_ + x * u3
        u[3 * _L + k] = w * u3 + u0 * z - x * u2 + y * u1_


@njit(cache=CACHE, nogil=True, fastmath=FAST, error_model="numpy")
def drift_2(u: Real, p: Real, step: float, n: int) -> None:
    """Move all links of SU(2), of n lanes."""
    square, cosine, sine = np.empty(_L), np.empty(_L), np.empty(_L)
    for row in range(len(u)):
        v = p[row]
        for k in range(n):
            square[k] = step * step * (v[k] ** 2 + v[_L + k] ** 2 + v[2 * _L + k] ** 2)
        _circle(square, cosine, sine, n)
        _turn_2(u[row], v, step, cosine, sine, n)


@fast
def _invariants(a: Real, square: Real, step: float, t: Real, delta: Real, n: int) -> None:
    """Write tr X^2 / 2 and det X / i of X = step a."""
    for k in range(n):
        t[k] = 0.5 * step * step * (square[k] + square[8 * _L + k] + square[16 * _L + k])
        a0, a4, a8 = a[_L + k], a[9 * _L + k], a[17 * _L + k]
        xr, xi, yr, yi = a[2 * _L + k], a[3 * _L + k], a[4 * _L + k], a[5 * _L + k]
        zr, zi = a[10 * _L + k], a[11 * _L + k]
        det = a0 * (zr * zr + zi * zi) + a4 * (yr * yr + yi * yi) + a8 * (xr * xr + xi * xi)
        det += 2.0 * (xr * (zr * yi - zi * yr) - xi * (zr * yr + zi * yi)) - a0 * a4 * a8
        delta[k] = step * step * step * det


@fast
def _horner(t: Real, delta: Real, c: Real, n: int) -> None:
    """Write the six real numbers of x + y X + z X^2 = exp X."""
    c[:] = 0.0
    c[:_L] = 1.0
    for m in range(_TERMS, 0, -1):
        inverse = 1.0 / m
        for k in range(n):
            p0, p1, q0, q1 = c[k], c[_L + k], c[2 * _L + k], c[3 * _L + k]
            r0, r1 = c[4 * _L + k], c[5 * _L + k]
            c[k] = 1.0 - inverse * delta[k] * r1
            c[_L + k] = inverse * delta[k] * r0
            c[2 * _L + k] = inverse * (p0 + t[k] * r0)
            c[3 * _L + k] = inverse * (p1 + t[k] * r1)
            c[4 * _L + k] = inverse * q0
            c[5 * _L + k] = inverse * q1


@fast
def _polynomial(a: Real, square: Real, step: float, c: Real, out: Real, n: int) -> None:
    for i in range(9):
        one = 1.0 if i % 4 == 0 else 0.0
        here = slice(2 * i * _L, (2 * i + 2) * _L)
        x, s, e = a[here], square[here], out[here]
        for k in range(n):
            q0, q1 = step * c[2 * _L + k], step * c[3 * _L + k]
            r0, r1 = step * step * c[4 * _L + k], step * step * c[5 * _L + k]
            re, im, v, w = x[k], x[_L + k], s[k], s[_L + k]
            e[k] = one * c[k] + q0 * re - q1 * im + r0 * v - r1 * w
            e[_L + k] = one * c[_L + k] + q0 * im + q1 * re + r0 * w + r1 * v


@njit(cache=CACHE, nogil=True)
def drift_3(u: Real, p: Real, step: float, n: int) -> None:
    """Move all links of SU(3), of n lanes."""
    square, e, moved = np.empty(18 * _L), np.empty(18 * _L), np.empty(18 * _L)
    t, delta, c = np.empty(_L), np.empty(_L), np.empty(6 * _L)
    for row in range(len(u)):
        su3.times(p[row], p[row], square, n)
        _invariants(p[row], square, step, t, delta, n)
        _horner(t, delta, c, n)
        _polynomial(p[row], square, step, c, e, n)
        su3.times(e, u[row], moved, n)
        u[row] = moved


@njit(cache=CACHE, nogil=True)
def momenta(p: Real, n_group: int, pool: Pool) -> None:
    """Draw velocities with the density exp(-kinetic energy), see `kinetic`."""
    per_link = n_group * n_group - 1 if n_group > 1 else 1
    block, x = np.empty(2 * POOL), np.empty(8)
    for lane in range(_L):
        used = 2 * POOL
        for row in range(len(p)):
            v = p[row]
            for i in range(per_link):
                if used == 2 * POOL:
                    normals(pool, lane, block)
                    used = 0
                x[i] = block[used]
                used += 1
            if n_group == 1:
                v[lane] = x[0]
            elif n_group == 2:
                for i in range(3):
                    v[i * _L + lane] = 0.5 * x[i]
            else:
                last = x[7] / math.sqrt(3.0)
                v[_L + lane], v[9 * _L + lane] = 0.5 * (x[2] + last), 0.5 * (last - x[2])
                v[17 * _L + lane] = -last
                v[lane] = v[8 * _L + lane] = v[16 * _L + lane] = 0.0
                for i, upper, lower in ((0, 2, 6), (3, 4, 12), (5, 10, 14)):
                    v[upper * _L + lane] = 0.5 * x[i + 1]
                    v[(upper + 1) * _L + lane] = 0.5 * x[i]
                    v[lower * _L + lane] = -0.5 * x[i + 1]
                    v[(lower + 1) * _L + lane] = 0.5 * x[i]


@njit(cache=CACHE, nogil=True, fastmath=FAST, error_model="numpy")
def kinetic(p: Real, n_group: int, out: Real) -> None:
    """Write sum |A|^2 of each lane, half of it for U(1), where A has one component."""
    out[:] = 0.0
    for row in range(len(p)):
        for i in range(p.shape[1] // _L):
            v = p[row, i * _L : (i + 1) * _L]
            for k in range(_L):
                out[k] += v[k] * v[k]
    if n_group < 3:
        for k in range(_L):
            out[k] *= 0.5 if n_group == 1 else 2.0
