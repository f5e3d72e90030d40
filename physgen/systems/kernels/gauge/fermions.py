r"""Two flavours of Wilson fermions on U(1) in two dimensions, in lanes: operator, solver and force.

D = 1 - kappa H as in `physgen.systems.wilson`. Where all extents are even, H joins sites of
different parity only, and D is replaced by M = 1 - kappa^2 H_eo H_oe on the even sites, which has
the same determinant; else M = D. Q = gamma_5 M is Hermitian, so that M^+ M = Q^2, and

    det M^2 = int dphi exp(-S_pf),    S_pf = phi^+ Q^-2 phi = |Q^-1 phi|^2.

With X = Q^-2 phi and Z = Q X, both continued to the odd sites by kappa H_oe,

    dS_pf / d theta_mu(x) = 2 kappa Im [Y(y)^+ (1 + gamma_mu) U^* X(x)
                                        - Y(x)^+ (1 - gamma_mu) U X(y)],    Y = gamma_5 Z,

y = x + mu. Fields are arrays (V, 4 LANES): real and imaginary parts of the two spins.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from physgen.systems.kernels.cache import CACHE
from physgen.systems.kernels.gauge.lanes import LANES, fast, inlined, table_of

Real = NDArray[np.float64]
Sites = NDArray[np.int32]
Pair = tuple[Real, Real]

_L = LANES


class Fermions(NamedTuple):
    """Fermions on a lattice: their hopping parameter, and which sites there are.

    Attributes:
        kappa: of D = 1 - kappa H.
        table: (V, 4), the sites one step forwards and backwards along each axis.
        sign: (V, 2), -1 where a link leaves the last slice of time: fermions are antiperiodic.
        outer: the sites on which M acts, the even ones or all.
        inner: the odd sites, or none.
    """

    kappa: float
    table: Sites
    sign: Real
    outer: Sites
    inner: Sites


def fermions_on(shape: tuple[int, ...], kappa: float) -> Fermions:
    """Return fermions on a lattice of two extents.

    >>> fermions_on((2, 2), 0.2).outer.tolist(), fermions_on((2, 3), 0.2).inner.tolist()
    ([0, 3], [])
    """
    sign = np.ones((*shape, 2))
    sign[-1, :, 0] = -1
    parity = np.indices(shape).sum(0).ravel() % 2
    if any(extent % 2 for extent in shape):
        parity[:] = 0
    outer, inner = (np.flatnonzero(parity == one).astype(np.int32) for one in (0, 1))
    return Fermions(kappa, table_of(shape), sign.reshape(-1, 2), outer, inner)


@fast
def _time(links: Pair, signs: tuple[float, float], a: Real, b: Real, out: Real, n: int) -> None:
    """Write (1 - gamma_0) U a + (1 + gamma_0) V^* b."""
    (u, v), (s, t) = links, signs
    for k in range(n):
        re, im = a[k] - a[2 * _L + k], a[_L + k] - a[3 * _L + k]
        x, y = s * (u[k] * re - u[_L + k] * im), s * (u[k] * im + u[_L + k] * re)
        re, im = b[k] + b[2 * _L + k], b[_L + k] + b[3 * _L + k]
        z, w = t * (v[k] * re + v[_L + k] * im), t * (v[k] * im - v[_L + k] * re)
        out[k], out[_L + k] = z + x, w + y
        out[2 * _L + k], out[3 * _L + k] = z - x, w - y


@fast
def _space(u: Real, v: Real, a: Real, b: Real, out: Real, n: int) -> None:
    """Add (1 - gamma_1) U a + (1 + gamma_1) V^* b."""
    for k in range(n):
        re, im = a[k] - a[3 * _L + k], a[_L + k] + a[2 * _L + k]
        x, y = u[k] * re - u[_L + k] * im, u[k] * im + u[_L + k] * re
        re, im = b[k] + b[3 * _L + k], b[_L + k] - b[2 * _L + k]
        z, w = v[k] * re + v[_L + k] * im, v[k] * im - v[_L + k] * re
        out[k] += x + z
        out[_L + k] += y + w
        out[2 * _L + k] += y - w
        out[3 * _L + k] += z - x


@inlined
def hop(u: Real, fermions: Fermions, sites: Sites, psi: Real, out: Real, n: int) -> None:
    """Write H psi at some sites."""
    table, sign = fermions.table, fermions.sign
    for site in sites:
        ahead, behind = table[site, 0], table[site, 1]
        up, down = table[site, 2], table[site, 3]
        here = out[site]
        signs = (sign[site, 0], sign[behind, 0])
        _time((u[2 * site], u[2 * behind]), signs, psi[ahead], psi[behind], here, n)
        _space(u[2 * site + 1], u[2 * down + 1], psi[up], psi[down], here, n)


@fast
def _one_minus(psi: Real, factor: float, out: Real, n: int) -> None:
    """Replace out by gamma_5 (psi - factor out)."""
    for k in range(2 * n):
        out[k] = psi[k] - factor * out[k]
    for k in range(2 * n, 4 * n):
        out[k] = factor * out[k] - psi[k]


@inlined
def hermitian(u: Real, fermions: Fermions, psi: Real, work: Real, out: Real, n: int) -> None:
    """Write Q psi = gamma_5 M psi on the outer sites."""
    factor = fermions.kappa
    if len(fermions.inner):
        hop(u, fermions, fermions.inner, psi, work, n)
        hop(u, fermions, fermions.outer, work, out, n)
        factor *= factor
    else:
        hop(u, fermions, fermions.outer, psi, out, n)
    for site in fermions.outer:
        _one_minus(psi[site], factor, out[site], n)


@fast
def _add_square(a: Real, out: Real, n: int) -> None:
    for i in range(4):
        v = a[i * _L : (i + 1) * _L]
        for k in range(n):
            out[k] += v[k] * v[k]


@fast
def _add_scaled(a: Real, scale: Real, out: Real, n: int) -> None:
    for i in range(4):
        v, o = a[i * _L : (i + 1) * _L], out[i * _L : (i + 1) * _L]
        for k in range(n):
            o[k] += scale[k] * v[k]


@fast
def _add_to_scaled(a: Real, scale: Real, out: Real, n: int) -> None:
    for i in range(4):
        v, o = a[i * _L : (i + 1) * _L], out[i * _L : (i + 1) * _L]
        for k in range(n):
            o[k] = v[k] + scale[k] * o[k]


@inlined
def squares(psi: Real, sites: Sites, out: Real, n: int) -> None:
    """Write |psi|^2 of each lane, over some sites."""
    out[:] = 0.0
    for site in sites:
        _add_square(psi[site], out, n)


@njit(cache=CACHE, nogil=True)
def solve(
    u: Real, fermions: Fermions, phi: Real, residual: float, x: Real, z: Real
) -> NDArray[np.bool_]:
    """Write X = Q^-2 phi by conjugate gradients, and Z = Q X; return (LANES,), where this is so.

    The iteration ends when |phi - Q^2 X| <= residual |phi| in every lane, or after ten iterations
    for each site.
    """
    n, sites = _L, fermions.outer
    r, p, q, work = phi.copy(), phi.copy(), np.zeros_like(phi), np.zeros_like(phi)
    goal, before, after, curvature = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    scale = np.empty(n)
    x[:] = 0.0
    squares(phi, sites, before, n)
    goal[:] = residual * residual * before
    for _ in range(10 * len(fermions.table)):
        if not (before > goal).any():
            break
        hermitian(u, fermions, p, work, z, n)
        squares(z, sites, curvature, n)
        hermitian(u, fermions, z, work, q, n)
        for k in range(n):  # Lanes that are done stand still.
            scale[k] = before[k] / curvature[k] if before[k] > goal[k] else 0.0
        for site in sites:
            _add_scaled(p[site], scale, x[site], n)
        scale *= -1.0
        for site in sites:
            _add_scaled(q[site], scale, r[site], n)
        squares(r, sites, after, n)
        for k in range(n):
            if before[k] > goal[k]:
                scale[k] = after[k] / before[k]
                before[k] = after[k]
            else:
                scale[k] = 0.0
        for site in sites:
            _add_to_scaled(r[site], scale, p[site], n)
    hermitian(u, fermions, x, work, z, n)
    return before <= goal


@fast
def _pull_time(u: Real, here: Pair, there: Pair, c: float, p: Real, n: int) -> None:
    """Subtract c Im (B - A) of a link in time, with (X, Z) here and ahead."""
    (x, z), (xx, zz) = here, there
    for k in range(n):
        ar, ai = z[k] + z[2 * _L + k], z[_L + k] + z[3 * _L + k]
        br, bi = xx[k] - xx[2 * _L + k], xx[_L + k] - xx[3 * _L + k]
        re, im = ar * br + ai * bi, ar * bi - ai * br
        forward = u[k] * im + u[_L + k] * re
        ar, ai = zz[k] - zz[2 * _L + k], zz[_L + k] - zz[3 * _L + k]
        br, bi = x[k] + x[2 * _L + k], x[_L + k] + x[3 * _L + k]
        re, im = ar * br + ai * bi, ar * bi - ai * br
        p[k] -= c * (u[k] * im - u[_L + k] * re - forward)


@fast
def _pull_space(u: Real, here: Pair, there: Pair, c: float, p: Real, n: int) -> None:
    """Subtract c Im (B - A) of a link in space."""
    (x, z), (xx, zz) = here, there
    for k in range(n):
        ar, ai = z[k] + z[3 * _L + k], z[_L + k] - z[2 * _L + k]
        br, bi = xx[k] - xx[3 * _L + k], xx[_L + k] + xx[2 * _L + k]
        re, im = ar * br + ai * bi, ar * bi - ai * br
        forward = u[k] * im + u[_L + k] * re
        ar, ai = zz[k] - zz[3 * _L + k], zz[_L + k] + zz[2 * _L + k]
        br, bi = x[k] + x[3 * _L + k], x[_L + k] - x[2 * _L + k]
        re, im = ar * br + ai * bi, ar * bi - ai * br
        p[k] -= c * (u[k] * im - u[_L + k] * re - forward)


@njit(cache=CACHE, nogil=True)
def kick(u: Real, fermions: Fermions, x: Real, z: Real, size: float, p: Real) -> None:
    """Subtract size dS_pf / d theta from (2 V, LANES) velocities; x and z are those of `solve`."""
    n, table = _L, fermions.table
    if len(fermions.inner):
        hop(u, fermions, fermions.inner, x, x, n)
        hop(u, fermions, fermions.inner, z, z, n)
        for site in fermions.inner:
            x[site] *= fermions.kappa
            z[site] *= fermions.kappa
    c = 2.0 * fermions.kappa * size
    for site in range(len(table)):
        ahead, up = table[site, 0], table[site, 2]
        sign, here = c * fermions.sign[site, 0], (x[site], z[site])
        _pull_time(u[2 * site], here, (x[ahead], z[ahead]), sign, p[2 * site], n)
        row = 2 * site + 1
        _pull_space(u[row], here, (x[up], z[up]), c, p[row], n)
