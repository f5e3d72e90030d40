r"""Updates of SU(3) links in lanes: staples, heat bath and overrelaxation by SU(2) subgroups.

With the sum A of the staples of a link, S = -(beta / 3) Re tr(U A) + .... For h in one of three
SU(2) subgroups (Cabibbo & Marinari, Phys. Lett. B 119 (1982) 387), Re tr(h U A) = 2 (h b)_0 + ...,
with b = b_0 + i b . sigma made of two rows and columns of U A: h b / |b| is distributed with
sqrt(1 - a_0^2) exp(alpha a_0), alpha = 2 beta |b| / 3. Overrelaxation takes h = (b^+ / |b|)^2,
which leaves the action as it is.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from physgen.systems.kernels.cache import CACHE
from physgen.systems.kernels.gauge.ensemble import Ensemble, Schedule
from physgen.systems.kernels.gauge.lanes import LANES, fast, inlined
from physgen.systems.kernels.gauge.su2 import draw

Real = NDArray[np.float64]
Table = NDArray[np.int32]
Six = tuple[float, float, float, float, float, float]
Work = tuple[Real, Real, Real, Real, Real, Real]

_L = LANES
NORMALISE = 16
"""Heat baths after which rounding is corrected."""


@fast
def load(a: Real, k: int) -> Any:
    """Return the 18 numbers of lane k."""
    return (
        *(a[k], a[_L + k], a[2 * _L + k], a[3 * _L + k], a[4 * _L + k], a[5 * _L + k]),
        *(a[6 * _L + k], a[7 * _L + k], a[8 * _L + k], a[9 * _L + k], a[10 * _L + k]),
        *(a[11 * _L + k], a[12 * _L + k], a[13 * _L + k], a[14 * _L + k], a[15 * _L + k]),
        *(a[16 * _L + k], a[17 * _L + k]),
    )


@fast
def load_row(a: Real, i: int, k: int) -> Six:
    """Return row i of lane k."""
    b = a[6 * i * _L : (6 * i + 6) * _L]
    return b[k], b[_L + k], b[2 * _L + k], b[3 * _L + k], b[4 * _L + k], b[5 * _L + k]


@fast
def row_times(a: Six, b: Any) -> Six:
    """Return a row times the matrix b."""
    return (
        a[0] * b[0] - a[1] * b[1] + a[2] * b[6] - a[3] * b[7] + a[4] * b[12] - a[5] * b[13],
        a[0] * b[1] + a[1] * b[0] + a[2] * b[7] + a[3] * b[6] + a[4] * b[13] + a[5] * b[12],
        a[0] * b[2] - a[1] * b[3] + a[2] * b[8] - a[3] * b[9] + a[4] * b[14] - a[5] * b[15],
        a[0] * b[3] + a[1] * b[2] + a[2] * b[9] + a[3] * b[8] + a[4] * b[15] + a[5] * b[14],
        a[0] * b[4] - a[1] * b[5] + a[2] * b[10] - a[3] * b[11] + a[4] * b[16] - a[5] * b[17],
        a[0] * b[5] + a[1] * b[4] + a[2] * b[11] + a[3] * b[10] + a[4] * b[17] + a[5] * b[16],
    )


@fast
def row_times_dagger(a: Six, b: Any) -> Six:
    """Return a row times the adjoint of b."""
    return (
        a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3] + a[4] * b[4] + a[5] * b[5],
        a[1] * b[0] - a[0] * b[1] + a[3] * b[2] - a[2] * b[3] + a[5] * b[4] - a[4] * b[5],
        a[0] * b[6] + a[1] * b[7] + a[2] * b[8] + a[3] * b[9] + a[4] * b[10] + a[5] * b[11],
        a[1] * b[6] - a[0] * b[7] + a[3] * b[8] - a[2] * b[9] + a[5] * b[10] - a[4] * b[11],
        a[0] * b[12] + a[1] * b[13] + a[2] * b[14] + a[3] * b[15] + a[4] * b[16] + a[5] * b[17],
        a[1] * b[12] - a[0] * b[13] + a[3] * b[14] - a[2] * b[15] + a[5] * b[16] - a[4] * b[17],
    )


@fast
def add_up(a: Real, b: Real, c: Real, out: Real, n: int) -> None:
    """Add a b^+ c^+."""
    for k in range(n):
        right, last = load(b, k), load(c, k)
        one = row_times_dagger(row_times_dagger(load_row(a, 0, k), right), last)
        two = row_times_dagger(row_times_dagger(load_row(a, 1, k), right), last)
        three = row_times_dagger(row_times_dagger(load_row(a, 2, k), right), last)
        _add(one, two, three, out, k)


@fast
def add_down(a: Real, b: Real, c: Real, out: Real, n: int) -> None:
    """Add a^+ b^+ c."""
    for k in range(n):
        left, right, last = load(a, k), load(b, k), load(c, k)
        row = left[0], -left[1], left[6], -left[7], left[12], -left[13]
        one = row_times(row_times_dagger(row, right), last)
        row = left[2], -left[3], left[8], -left[9], left[14], -left[15]
        two = row_times(row_times_dagger(row, right), last)
        row = left[4], -left[5], left[10], -left[11], left[16], -left[17]
        three = row_times(row_times_dagger(row, right), last)
        _add(one, two, three, out, k)


@fast
def _add(one: Six, two: Six, three: Six, out: Real, k: int) -> None:
    out[k] += one[0]
    out[_L + k] += one[1]
    out[2 * _L + k] += one[2]
    out[3 * _L + k] += one[3]
    out[4 * _L + k] += one[4]
    out[5 * _L + k] += one[5]
    out[6 * _L + k] += two[0]
    out[7 * _L + k] += two[1]
    out[8 * _L + k] += two[2]
    out[9 * _L + k] += two[3]
    out[10 * _L + k] += two[4]
    out[11 * _L + k] += two[5]
    out[12 * _L + k] += three[0]
    out[13 * _L + k] += three[1]
    out[14 * _L + k] += three[2]
    out[15 * _L + k] += three[3]
    out[16 * _L + k] += three[4]
    out[17 * _L + k] += three[5]


@fast
def times(a: Real, b: Real, out: Real, n: int) -> None:
    """Set out = a b."""
    out[:] = 0.0
    for k in range(n):
        right = load(b, k)
        one = row_times(load_row(a, 0, k), right)
        two = row_times(load_row(a, 1, k), right)
        three = row_times(load_row(a, 2, k), right)
        _add(one, two, three, out, k)


@inlined
def staples(u: Real, table: Table, site: int, mu: int, out: Real, n: int) -> None:
    """Write the sum of the staples of a link, so that Re tr(U A) is that of its plaquettes."""
    d = table.shape[1] // 2
    ahead = table[site, 2 * mu]
    out[:] = 0.0
    for nu in range(d):
        if nu != mu:
            up, down = table[site, 2 * nu], table[site, 2 * nu + 1]
            add_up(u[ahead * d + nu], u[up * d + mu], u[site * d + nu], out, n)
            corner = table[ahead, 2 * nu + 1]
            add_down(u[corner * d + nu], u[down * d + mu], u[down * d + nu], out, n)


@fast
def _subgroup(w: Real, i: int, j: int, beta: Real, b: Real, alpha: Real) -> None:
    """Write b of rows and columns i, j of w, and alpha."""
    first, second = w[8 * i * _L : (8 * i + 2) * _L], w[8 * j * _L : (8 * j + 2) * _L]
    upper = w[(6 * i + 2 * j) * _L : (6 * i + 2 * j + 2) * _L]
    lower = w[(6 * j + 2 * i) * _L : (6 * j + 2 * i + 2) * _L]
    for k in range(len(beta)):
        b0, b1 = 0.5 * (first[k] + second[k]), 0.5 * (upper[_L + k] + lower[_L + k])
        b2, b3 = 0.5 * (upper[k] - lower[k]), 0.5 * (first[_L + k] - second[_L + k])
        length = math.sqrt(b0 * b0 + b1 * b1 + b2 * b2 + b3 * b3)
        inverse = 1.0 / length if length > 1e-14 else 0.0
        b[k] = inverse * b0 if length > 1e-14 else 1.0
        b[_L + k], b[2 * _L + k], b[3 * _L + k] = inverse * b1, inverse * b2, inverse * b3
        alpha[k] = beta[k] * length * (2.0 / 3.0)


@fast
def _heated(x: Real, b: Real, h: Real, n: int) -> None:
    """Set h = x b^+."""
    for k in range(n):
        x0, x1, x2, x3 = x[k], x[_L + k], x[2 * _L + k], x[3 * _L + k]
        b0, b1, b2, b3 = b[k], -b[_L + k], -b[2 * _L + k], -b[3 * _L + k]
        h[k] = x0 * b0 - x1 * b1 - x2 * b2 - x3 * b3
        h[_L + k] = x0 * b1 + b0 * x1 - x2 * b3 + x3 * b2
        h[2 * _L + k] = x0 * b2 + b0 * x2 - x3 * b1 + x1 * b3
        h[3 * _L + k] = x0 * b3 + b0 * x3 - x1 * b2 + x2 * b1


@fast
def _turned(b: Real, h: Real, n: int) -> None:
    """Set h = b^+ b^+."""
    for k in range(n):
        h[k] = 2.0 * b[k] * b[k] - 1.0
        h[_L + k] = -2.0 * b[k] * b[_L + k]
        h[2 * _L + k] = -2.0 * b[k] * b[2 * _L + k]
        h[3 * _L + k] = -2.0 * b[k] * b[3 * _L + k]


@fast
def _rotate(h: Real, u: Real, i: int, j: int, n: int) -> None:
    """Multiply rows i and j of u by h from the left."""
    for c in range(3):
        p = u[(6 * i + 2 * c) * _L : (6 * i + 2 * c + 2) * _L]
        q = u[(6 * j + 2 * c) * _L : (6 * j + 2 * c + 2) * _L]
        for k in range(n):
            h0, h1, h2, h3 = h[k], h[_L + k], h[2 * _L + k], h[3 * _L + k]
            pr, pi, qr, qi = p[k], p[_L + k], q[k], q[_L + k]
            p[k] = h0 * pr - h3 * pi + h2 * qr - h1 * qi
            p[_L + k] = h0 * pi + h3 * pr + h2 * qi + h1 * qr
            q[k] = h0 * qr + h3 * qi - h2 * pr - h1 * pi
            q[_L + k] = h0 * qi - h3 * qr - h2 * pi + h1 * pr


@inlined
def update(
    u: Real, ensemble: Ensemble, number: int, work: Work, heat: bool, backwards: bool
) -> None:
    """Update a link of every lane in each of the subgroups: by heat bath, or at its action.

    It is the link `number` = d site + mu.
    """
    table, beta, pool = ensemble
    n, link = len(beta), u[number]
    site, mu = divmod(number, table.shape[1] // 2)
    a, w, b, x, h, alpha = work
    staples(u, table, site, mu, a, n)
    times(link, a, w, n)
    for step in range(3):
        subgroup = 2 - step if backwards else step
        i, j = subgroup // 2, min(subgroup + 1, 2)
        _subgroup(w, i, j, beta, b, alpha)
        if heat:
            draw(alpha, pool, x, n)
            _heated(x, b, h, n)
        else:
            _turned(b, h, n)
        _rotate(h, link, i, j, n)
        if step < 2:
            _rotate(h, w, i, j, n)


@njit(cache=CACHE)
def work() -> Work:
    """Return scratch for what `update` makes: A, U A, b, x, h, alpha."""
    return (
        *(np.empty(18 * _L), np.empty(18 * _L)),
        *(np.empty(4 * _L), np.empty(4 * _L), np.empty(4 * _L), np.empty(_L)),
    )


@inlined
def sweep(u: Real, ensemble: Ensemble, heat: bool, backwards: bool) -> None:
    """Update all links of a group of lanes once, the last one first if `backwards`."""
    scratch = work()
    for step in range(len(u)):
        number = len(u) - 1 - step if backwards else step
        update(u, ensemble, number, scratch, heat, backwards)


@fast
def _add_trace(u: Real, a: Real, out: Real, n: int) -> None:
    """Add Re tr(u a)."""
    for i in range(3):
        row = u[6 * i * _L : (6 * i + 6) * _L]
        c = a[2 * i * _L :]
        for k in range(n):
            real = (
                row[k] * c[k] + row[2 * _L + k] * c[6 * _L + k] + row[4 * _L + k] * c[12 * _L + k]
            )
            out[k] += real - (
                row[_L + k] * c[_L + k]
                + row[3 * _L + k] * c[7 * _L + k]
                + row[5 * _L + k] * c[13 * _L + k]
            )


@njit(cache=CACHE, nogil=True)
def plaquettes(u: Real, table: Table, out: Real) -> None:
    """Write (d (d - 1) / 2, LANES), the mean of Re tr P / N of each plane."""
    d, a = table.shape[1] // 2, np.empty(18 * _L)
    out[:] = 0.0
    for site in range(len(table)):
        plane = 0
        for mu in range(d):
            for nu in range(mu + 1, d):
                ahead, up = table[site, 2 * mu], table[site, 2 * nu]
                a[:] = 0.0
                add_up(u[ahead * d + nu], u[up * d + mu], u[site * d + nu], a, _L)
                _add_trace(u[site * d + mu], a, out[plane], _L)
                plane += 1
    out /= 3.0 * len(table)


@njit(cache=CACHE)
def normalise(u: Real) -> None:
    """Bring links back to the group: two rows by Gram and Schmidt, the third is their product."""
    m = np.empty((3, 3), np.complex128)
    for row in u:
        for k in range(_L):
            for i in range(2):
                for j in range(3):
                    m[i, j] = complex(
                        row[(6 * i + 2 * j) * _L + k], row[(6 * i + 2 * j + 1) * _L + k]
                    )
            along = m[0, 0].conjugate() * m[1, 0]
            along += m[0, 1].conjugate() * m[1, 1] + m[0, 2].conjugate() * m[1, 2]
            first = abs(m[0, 0]) ** 2 + abs(m[0, 1]) ** 2 + abs(m[0, 2]) ** 2
            for j in range(3):
                m[1, j] -= along / first * m[0, j]
            second = abs(m[1, 0]) ** 2 + abs(m[1, 1]) ** 2 + abs(m[1, 2]) ** 2
            for j in range(3):
                m[0, j] /= math.sqrt(first)
                m[1, j] /= math.sqrt(second)
            for j in range(3):
                one, two = (j + 1) % 3, (j + 2) % 3
                m[2, j] = (m[0, one] * m[1, two] - m[0, two] * m[1, one]).conjugate()
            for i in range(3):
                for j in range(3):
                    row[(6 * i + 2 * j) * _L + k] = m[i, j].real
                    row[(6 * i + 2 * j + 1) * _L + k] = m[i, j].imag


@njit(cache=CACHE, nogil=True)
def run(u: Real, ensemble: Ensemble, schedule: Schedule) -> None:
    """Sweep a group of lanes as scheduled: overrelaxations follow each heat bath, or precede it."""
    n_heatbath, n_relax, backwards = schedule
    each = 1 + n_relax
    for step in range(n_heatbath * each):
        # One call, since it is inlined.
        sweep(u, ensemble, step % each == (n_relax if backwards else 0), backwards)
        number = step // each
        if step % each == n_relax and (
            number % NORMALISE == NORMALISE - 1 or number == n_heatbath - 1
        ):
            normalise(u)
