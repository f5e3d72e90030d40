r"""Exact thermodynamics of the Ising model on a finite torus.

Kaufman (Phys. Rev. 76 (1949) 1232), for n x m sites at K = 1 / T, without a field:

    Z = 1/2 (2 sinh 2K)^{nm/2} [ P_1 + P_2 + P_3 + P_4 ],
    P_1 = prod_r 2 cosh(m g_{2r+1} / 2),    P_2 = prod_r 2 sinh(m g_{2r+1} / 2),
    P_3 = prod_r 2 cosh(m g_{2r} / 2),      P_4 = prod_r 2 sinh(m g_{2r} / 2),    r = 0 ... n-1,
    cosh g_l = cosh^2 2K / sinh 2K - cos(pi l / n),    g_0 = 2K + ln tanh K (with its sign).

Each P and its first two derivatives by K are carried relative to P_1, since Z overflows on lattices
of a few dozen sites a side and C is a small difference of large numbers. Only P_4 changes sign, and
vanishes at Tc: its factor r = 0 is kept apart from the logarithm. Everything is in units of
sinh 2K, by t = 1 / sinh 2K, so that nothing overflows at low temperatures either.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def kaufman(n: int, m: int, temperature: float) -> dict[str, float]:
    """Return "F/N", "E/N" and "C/N" of an n x m torus at a temperature above zero."""
    k = 1 / temperature
    log_sinh, t, coth = _hyperbolic(k)
    odd = _modes(k, n, m, np.arange(1, 2 * n, 2))
    even = _modes(k, n, m, np.arange(2, 2 * n, 2))
    # m g_0 / 2, the factor that may be negative.
    log_tanh = np.log(-np.expm1(-2 * k)) - np.log1p(np.exp(-2 * k))
    x, dx, ddx = 0.5 * m * np.array([2 * k + log_tanh, 2 + 2 * t, -4 * coth * t])
    scale, small = abs(x), np.exp(-2 * abs(x))
    two_cosh, two_sinh = 1 + small, np.sign(x) * -np.expm1(-2 * abs(x))  # times exp(-|x|)

    reference = _log_cosh(odd)
    terms = (
        (0.0, _log_sinh(odd), (1.0, 0.0, 0.0)),
        (scale, _log_cosh(even), (two_cosh, two_sinh * dx, two_cosh * dx**2 + two_sinh * ddx)),
        (scale, _log_sinh(even), (two_sinh, two_cosh * dx, two_sinh * dx**2 + two_cosh * ddx)),
    )
    value, slope, curvature = 1.0, 0.0, 0.0  # of the sum of all P / P_1, by K
    for shift, product, (f, df, ddf) in terms:
        log, d, dd = product - reference
        ratio = np.exp(log + shift)
        value += ratio * f
        slope += ratio * (df + f * d)
        curvature += ratio * (ddf + 2 * df * d + f * (dd + d * d))
    half = 0.5 * n * m
    log_z = half * (np.log(2) + log_sinh) - np.log(2) + reference[0] + np.log(value)
    d_log_z = half * 2 * coth + reference[1] + slope / value
    dd_log_z = -half * 4 * t**2 + reference[2] + curvature / value - (slope / value) ** 2
    n_sites = n * m
    return {
        "F/N": float(-temperature * log_z / n_sites),
        "E/N": float(-d_log_z / n_sites),
        "C/N": max(0.0, float(k**2 * dd_log_z / n_sites)),  # Rounding, where it vanishes.
    }


def _hyperbolic(k: float) -> tuple[float, float, float]:
    """Return ln sinh 2K, 1 / sinh 2K and coth 2K, for any K > 0."""
    small = np.expm1(-4 * k)
    return 2 * k + np.log(-small / 2), float(-2 * np.exp(-2 * k) / small), float(1 - 2 / small - 2)


def _modes(k: float, n: int, m: int, numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (3, len(numbers)): m g_l / 2 and its two derivatives by K, for l > 0."""
    log_sinh, t, coth = _hyperbolic(k)
    # cosh g - 1 as a sum of squares, so that nothing cancels for long waves at Tc; over sinh 2K.
    excess = (1 - t) ** 2 + 2 * t * np.sin(0.5 * np.pi * numbers / n) ** 2
    sinh_g = np.sqrt(excess * (excess + 2 * t))
    dc = 2 * coth * (1 - t**2)
    ddc = 4 * (1 - t**2) + 8 * coth**2 * t**2
    # Far from Tc g = ln(2 (cosh g - 1)) to all digits.
    g = 2 * np.arcsinh(np.sqrt(0.5 * excess / t)) if t > 1e-30 else log_sinh + np.log(2 * excess)
    dg = dc / sinh_g
    return 0.5 * m * np.stack([g, dg, (ddc - (t + excess) * dg**2) / sinh_g])


def _log_cosh(modes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (3,): sum of ln(2 cosh x) over the modes and its derivatives by K."""
    x, dx, ddx = modes
    tanh = np.tanh(x)
    jets: NDArray[np.float64] = np.stack(
        [x + np.log1p(np.exp(-2 * x)), dx * tanh, ddx * tanh + dx**2 * (1 - tanh**2)]
    )
    return np.asarray(jets.sum(1))


def _log_sinh(modes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (3,): sum of ln(2 sinh x) over the modes and its derivatives by K."""
    x, dx, ddx = modes
    tanh = np.tanh(x)
    jets: NDArray[np.float64] = np.stack(
        [x + np.log1p(-np.exp(-2 * x)), dx / tanh, ddx / tanh + dx**2 * (1 - 1 / tanh**2)]
    )
    return np.asarray(jets.sum(1))
