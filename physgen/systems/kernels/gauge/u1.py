r"""Updates of U(1) links in lanes: staples, heat bath and overrelaxation, without trigonometry.

With the sum A = |A| v of the staples of a link, S = -beta Re(u A) + ...: w = u v has the density
exp(kappa Re w), kappa = beta |A|. Best and Fisher (Appl. Stat. 28 (1979) 152) propose with

    tau = 1 + (1 + 4 kappa^2)^1/2,    rho = 2 kappa / (tau + (2 tau)^1/2),
    w = (z + rho) / (1 + rho z), |z| = 1 uniform,

of real part (2 rho + (1 + rho^2) Re z) / D, D = 1 + rho^2 + 2 rho Re z, and accept with probability
c e^(1 - c), c = (tau + (2 tau)^1/2) (1 - rho^2)^2 / (4 D). It is above c (2 - c), which nearly
always decides. Overrelaxation takes u to u^* v^*^2.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from physgen.systems.kernels.cache import CACHE
from physgen.systems.kernels.gauge.draws import POOL, Pool, refill_u1
from physgen.systems.kernels.gauge.ensemble import Ensemble, Schedule
from physgen.systems.kernels.gauge.lanes import LANES, fast, inlined

Real = NDArray[np.float64]
Table = NDArray[np.int32]

_L = LANES


@fast
def _add_up(a: Real, b: Real, c: Real, out: Real, n: int) -> None:
    """Add a b^* c^*."""
    for k in range(n):
        x = b[k] * c[k] - b[_L + k] * c[_L + k]
        y = b[k] * c[_L + k] + b[_L + k] * c[k]
        out[k] += a[k] * x + a[_L + k] * y
        out[_L + k] += a[_L + k] * x - a[k] * y


@fast
def _add_down(a: Real, b: Real, c: Real, out: Real, n: int) -> None:
    """Add a^* b^* c."""
    for k in range(n):
        x = a[k] * b[k] - a[_L + k] * b[_L + k]
        y = a[k] * b[_L + k] + a[_L + k] * b[k]
        out[k] += c[k] * x + c[_L + k] * y
        out[_L + k] += c[_L + k] * x - c[k] * y


@inlined
def staples(u: Real, table: Table, site: int, mu: int, out: Real, n: int) -> None:
    """Write the sum of the staples of a link, so that Re(u A) is that of its plaquettes."""
    d = table.shape[1] // 2
    ahead = table[site, 2 * mu]
    out[:] = 0.0
    for nu in range(d):
        if nu != mu:
            up, down = table[site, 2 * nu], table[site, 2 * nu + 1]
            _add_up(u[ahead * d + nu], u[up * d + mu], u[site * d + nu], out, n)
            corner = table[ahead, 2 * nu + 1]
            _add_down(u[corner * d + nu], u[down * d + mu], u[down * d + nu], out, n)


@fast
def _proposal(a: Real, beta: Real, rho: Real, scale: Real, n: int) -> None:
    """Write rho and the c of D = 1; replace a by v^*."""
    for k in range(n):
        square = a[k] * a[k] + a[_L + k] * a[_L + k]
        length = math.sqrt(square)
        kappa = beta[k] * length
        tau = 1.0 + math.sqrt(1.0 + 4.0 * kappa * kappa)
        both = tau + math.sqrt(2.0 * tau)
        r = 2.0 * kappa / both
        rho[k] = r
        scale[k] = 0.25 * both * (1.0 - r * r) * (1.0 - r * r)
        inverse = 1.0 / length if length > 1e-14 else 0.0
        a[k] = inverse * a[k] if length > 1e-14 else 1.0
        a[_L + k] *= -inverse


@fast
def _first(rho: Real, scale: Real, z: Real, u: Real, margin: Real, n: int) -> None:
    """Set u = w of the first candidates, and by how much they are surely accepted."""
    for k in range(n):
        r = rho[k]
        plus = 1.0 + r * r
        inverse = 1.0 / (plus + 2.0 * r * z[k])
        c = scale[k] * inverse
        margin[k] = c * (2.0 - c) - z[2 * _L + k]
        u[k] = (2.0 * r + plus * z[k]) * inverse
        u[_L + k] = (1.0 - r * r) * z[_L + k] * inverse


@fast
def _turn(a: Real, u: Real, n: int) -> None:
    """Set u = u a."""
    for k in range(n):
        x, y = u[k], u[_L + k]
        u[k] = x * a[k] - y * a[_L + k]
        u[_L + k] = x * a[_L + k] + y * a[k]


@inlined
def _again(k: int, rho: Real, scale: Real, z: Real, u: Real, pool: Pool) -> None:
    """Draw candidates of a lane until one is accepted, that of `_first` being asked once more."""
    r, numbers = rho[k], pool.numbers[k]
    plus = 1.0 + r * r
    x, y, uniform = z[k], z[_L + k], z[2 * _L + k]
    i = pool.next[k]
    while True:
        inverse = 1.0 / (plus + 2.0 * r * x)
        c = scale[k] * inverse
        if c * (2.0 - c) >= uniform or c * math.exp(1.0 - c) >= uniform:
            break
        if i == POOL:
            refill_u1(pool, k)
            i = 0
        x, y, uniform = numbers[0, i], numbers[1, i], numbers[2, i]
        i += 1
    pool.next[k] = i
    u[k] = (2.0 * r + plus * x) * inverse
    u[_L + k] = (1.0 - r * r) * y * inverse


@inlined
def heat_bath(u: Real, ensemble: Ensemble, backwards: bool) -> None:
    """Update all links of a group of lanes once, the last one first if `backwards`."""
    table, beta, pool = ensemble
    n, d = len(beta), table.shape[1] // 2
    a, z = np.empty(2 * _L), np.empty(3 * _L)
    rho, scale, margin = np.empty(_L), np.empty(_L), np.empty(_L)
    for step in range(len(table) * d):
        site, mu = divmod(len(table) * d - 1 - step if backwards else step, d)
        link = u[site * d + mu]
        staples(u, table, site, mu, a, n)
        _proposal(a, beta, rho, scale, n)
        for k in range(n):
            i = pool.next[k]
            if i == POOL:
                refill_u1(pool, k)
                i = 0
            pool.next[k] = i + 1
            z[k], z[_L + k] = pool.numbers[k, 0, i], pool.numbers[k, 1, i]
            z[2 * _L + k] = pool.numbers[k, 2, i]
        _first(rho, scale, z, link, margin, n)
        for k in range(n):
            if margin[k] < 0.0:
                _again(k, rho, scale, z, link, pool)
        _turn(a, link, n)


@fast
def _reflect(a: Real, u: Real, n: int) -> None:
    """Set u = (u a a)^* / |a|^2."""
    for k in range(n):
        x, y = a[k] * a[k] - a[_L + k] * a[_L + k], 2.0 * a[k] * a[_L + k]
        square = a[k] * a[k] + a[_L + k] * a[_L + k]
        inverse = 1.0 / square if square > 1e-28 else 0.0
        keep = 0.0 if square > 1e-28 else 1.0
        p, q = u[k], u[_L + k]
        u[k] = inverse * (x * p - y * q) + keep * p
        u[_L + k] = keep * q - inverse * (x * q + y * p)


@inlined
def overrelax(u: Real, ensemble: Ensemble, backwards: bool) -> None:
    """Reflect all links of a group of lanes once, at their action; see `heat_bath`."""
    table = ensemble.table
    n, d = len(ensemble.beta), table.shape[1] // 2
    a = np.empty(2 * _L)
    for step in range(len(table) * d):
        site, mu = divmod(len(table) * d - 1 - step if backwards else step, d)
        staples(u, table, site, mu, a, n)
        _reflect(a, u[site * d + mu], n)


@fast
def _add_trace(u: Real, a: Real, out: Real, n: int) -> None:
    """Add Re tr(u a)."""
    for k in range(n):
        out[k] += u[k] * a[k] - u[_L + k] * a[_L + k]


@njit(cache=CACHE, nogil=True)
def plaquettes(u: Real, table: Table, out: Real) -> None:
    """Write (d (d - 1) / 2, LANES), the mean of Re tr P / N of each plane."""
    d, a = table.shape[1] // 2, np.empty(2 * _L)
    out[:] = 0.0
    for site in range(len(table)):
        plane = 0
        for mu in range(d):
            for nu in range(mu + 1, d):
                ahead, up = table[site, 2 * mu], table[site, 2 * nu]
                a[:] = 0.0
                _add_up(u[ahead * d + nu], u[up * d + mu], u[site * d + nu], a, _L)
                _add_trace(u[site * d + mu], a, out[plane], _L)
                plane += 1
    out /= len(table)


@fast
def normalise(u: Real) -> None:
    """Bring links back to the circle, where rounding has led them away."""
    for row in u:
        for k in range(_L):
            inverse = 1.0 / math.sqrt(row[k] * row[k] + row[_L + k] * row[_L + k])
            row[k] *= inverse
            row[_L + k] *= inverse


@njit(cache=CACHE, nogil=True)
def run(u: Real, ensemble: Ensemble, schedule: Schedule) -> None:
    """Sweep a group of lanes as scheduled: overrelaxations follow each heat bath, or precede it."""
    n_heatbath, n_relax, backwards = schedule
    each = 1 + n_relax
    for step in range(n_heatbath * each):
        # One call of each, since it is inlined.
        if step % each == (n_relax if backwards else 0):
            heat_bath(u, ensemble, backwards)
        else:
            overrelax(u, ensemble, backwards)
        if step % each == n_relax:
            normalise(u)
