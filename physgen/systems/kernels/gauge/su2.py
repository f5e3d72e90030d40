r"""Updates of SU(2) links in lanes: staples, heat bath, overrelaxation.

With the sum A = |A| V of the staples of a link, V in SU(2), S = -(beta / 2) Re tr(U A) + ...: the
product X = U V is distributed with sqrt(1 - a_0^2) exp(alpha a_0), alpha = beta |A|, and the other
components of X have a uniform direction. Overrelaxation takes U to V^+ U^+ V^+, which leaves the
action as it is.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from physgen.systems.kernels.cache import CACHE
from physgen.systems.kernels.gauge.draws import POOL, Pool, refill_su, uniform
from physgen.systems.kernels.gauge.ensemble import Ensemble, Schedule
from physgen.systems.kernels.gauge.lanes import LANES, fast, inlined

Real = NDArray[np.float64]
Table = NDArray[np.int32]
Four = tuple[float, float, float, float]

_L = LANES
_CREUTZ = 1.7
"""Below this alpha Kennedy and Pendleton's candidates are refused more often than Creutz's."""


@fast
def _get(a: Real, k: int) -> Four:
    return a[k], a[_L + k], a[2 * _L + k], a[3 * _L + k]


@fast
def _times(a: Four, b: Four) -> Four:
    """Return a b."""
    return (
        a[0] * b[0] - a[1] * b[1] - a[2] * b[2] - a[3] * b[3],
        a[0] * b[1] + b[0] * a[1] - a[2] * b[3] + a[3] * b[2],
        a[0] * b[2] + b[0] * a[2] - a[3] * b[1] + a[1] * b[3],
        a[0] * b[3] + b[0] * a[3] - a[1] * b[2] + a[2] * b[1],
    )


@fast
def _dagger(a: Four) -> Four:
    return a[0], -a[1], -a[2], -a[3]


@fast
def _add_up(a: Real, b: Real, c: Real, out: Real, n: int) -> None:
    """Add a b^+ c^+."""
    for k in range(n):
        s = _times(_get(a, k), _dagger(_times(_get(c, k), _get(b, k))))
        out[k] += s[0]
        out[_L + k] += s[1]
        out[2 * _L + k] += s[2]
        out[3 * _L + k] += s[3]


@fast
def _add_down(a: Real, b: Real, c: Real, out: Real, n: int) -> None:
    """Add a^+ b^+ c."""
    for k in range(n):
        s = _times(_dagger(_times(_get(b, k), _get(a, k))), _get(c, k))
        out[k] += s[0]
        out[_L + k] += s[1]
        out[2 * _L + k] += s[2]
        out[3 * _L + k] += s[3]


@inlined
def staples(u: Real, table: Table, site: int, mu: int, out: Real, n: int) -> None:
    """Write the sum of the staples of a link, so that Re tr(U A) is that of its plaquettes."""
    d = table.shape[1] // 2
    ahead = table[site, 2 * mu]
    out[:] = 0.0
    for nu in range(d):
        if nu != mu:
            up, down = table[site, 2 * nu], table[site, 2 * nu + 1]
            _add_up(u[ahead * d + nu], u[up * d + mu], u[site * d + nu], out, n)
            corner = table[ahead, 2 * nu + 1]
            _add_down(u[corner * d + nu], u[down * d + mu], u[down * d + nu], out, n)


@inlined
def draw(alpha: Real, pool: Pool, out: Real, n: int) -> None:
    """Draw a_0, ..., a_3 of each lane with the weight exp(alpha a_0), alpha >= 0.

    Kennedy and Pendleton's candidates; at small alpha Creutz's (Phys. Rev. D 21 (1980) 2308).
    """
    for lane in range(n):
        a, numbers = alpha[lane], pool.numbers[lane]
        i = pool.next[lane]
        if a > _CREUTZ:
            inverse = 1.0 / a
            while True:
                if i == POOL:
                    refill_su(pool, lane)
                    i = 0
                lowered = numbers[0, i] * inverse
                if lowered <= numbers[1, i]:
                    break
                i += 1
        else:
            if i == POOL:
                refill_su(pool, lane)
                i = 0
            lowest = math.expm1(-2.0 * a)
            while True:
                u, v = uniform(pool.counters, lane), uniform(pool.counters, lane)
                lowered = -math.log1p(u * lowest) / a if a > 1e-10 else 2.0 * u
                if v * v <= lowered * (2.0 - lowered):
                    break
        pool.next[lane] = i + 1
        length = math.sqrt(lowered * (2.0 - lowered))
        out[lane] = 1.0 - lowered
        out[_L + lane] = length * numbers[2, i]
        out[2 * _L + lane] = length * numbers[3, i]
        out[3 * _L + lane] = length * numbers[4, i]


@fast
def _length(a: Real, beta: Real, out: Real, alpha: Real, n: int) -> None:
    for k in range(n):
        out[k] = math.sqrt(a[k] ** 2 + a[_L + k] ** 2 + a[2 * _L + k] ** 2 + a[3 * _L + k] ** 2)
        alpha[k] = beta[k] * out[k]


@fast
def _set(x: Real, a: Real, length: Real, u: Real, n: int) -> None:
    """Set u = x a^+ / |a|."""
    for k in range(n):
        # Where the staples cancel, no direction is preferred.
        inverse = 1.0 / length[k] if length[k] > 1e-14 else 0.0
        shift = 0.0 if length[k] > 1e-14 else 1.0
        b = _get(a, k)
        v = shift + inverse * b[0], -inverse * b[1], -inverse * b[2], -inverse * b[3]
        s = _times(_get(x, k), v)
        u[k] = s[0]
        u[_L + k] = s[1]
        u[2 * _L + k] = s[2]
        u[3 * _L + k] = s[3]


@fast
def _reflect(a: Real, u: Real, n: int) -> None:
    """Set u = a^+ u^+ a^+ / |a|^2."""
    for k in range(n):
        v = _get(a, k)
        square = v[0] ** 2 + v[1] ** 2 + v[2] ** 2 + v[3] ** 2
        s = _dagger(_times(_times(v, _get(u, k)), v))
        inverse = 1.0 / square if square > 1e-28 else 0.0
        if square > 1e-28:
            u[k] = inverse * s[0]
            u[_L + k] = inverse * s[1]
            u[2 * _L + k] = inverse * s[2]
            u[3 * _L + k] = inverse * s[3]


@inlined
def heat_bath(u: Real, ensemble: Ensemble, backwards: bool) -> None:
    """Update all links of a group of lanes once, the last one first if `backwards`."""
    table, beta, pool = ensemble
    n, d = len(beta), table.shape[1] // 2
    a, x, length, alpha = np.empty(4 * _L), np.empty(4 * _L), np.empty(_L), np.empty(_L)
    for step in range(len(table) * d):
        site, mu = divmod(len(table) * d - 1 - step if backwards else step, d)
        staples(u, table, site, mu, a, n)
        _length(a, beta, length, alpha, n)
        draw(alpha, pool, x, n)
        _set(x, a, length, u[site * d + mu], n)


@inlined
def overrelax(u: Real, ensemble: Ensemble, backwards: bool) -> None:
    """Reflect all links of a group of lanes once, at their action; see `heat_bath`."""
    table = ensemble.table
    n, d = len(ensemble.beta), table.shape[1] // 2
    a = np.empty(4 * _L)
    for step in range(len(table) * d):
        site, mu = divmod(len(table) * d - 1 - step if backwards else step, d)
        staples(u, table, site, mu, a, n)
        _reflect(a, u[site * d + mu], n)


@fast
def _add_trace(u: Real, a: Real, out: Real, n: int) -> None:
    """Add Re tr(u a) / 2."""
    for k in range(n):
        out[k] += (
            u[k] * a[k]
            - u[_L + k] * a[_L + k]
            - u[2 * _L + k] * a[2 * _L + k]
            - u[3 * _L + k] * a[3 * _L + k]
        )


@njit(cache=CACHE, nogil=True)
def plaquettes(u: Real, table: Table, out: Real) -> None:
    """Write (d (d - 1) / 2, LANES), the mean of Re tr P / N of each plane."""
    d, a = table.shape[1] // 2, np.empty(4 * _L)
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
    """Bring links back to the group, where rounding has led them away."""
    for row in u:
        for k in range(_L):
            square = row[k] ** 2 + row[_L + k] ** 2 + row[2 * _L + k] ** 2 + row[3 * _L + k] ** 2
            inverse = 1.0 / math.sqrt(square)
            for i in range(4):
                row[i * _L + k] *= inverse


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
