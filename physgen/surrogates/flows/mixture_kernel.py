"""Layers of small networks, and mixtures of logistic densities, for compiled samplers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from physgen.surrogates.flows.shower_arrays import Array
from physgen.systems.kernels.cache import CACHE

# Sums of products may be reordered (for vector instructions), no more than that.
_SUMS = {"reassoc", "contract"}


@njit(cache=CACHE, nogil=True, fastmath=_SUMS)
def add_product(out: Array, weights: Array, x: Array) -> None:
    """Add x @ weights to `out`, eight rows at a time: `out` is loaded and stored less often."""
    eights = len(x) - len(x) % 8
    for j in range(0, eights, 8):
        x0, x1, x2, x3 = x[j], x[j + 1], x[j + 2], x[j + 3]
        x4, x5, x6, x7 = x[j + 4], x[j + 5], x[j + 6], x[j + 7]
        w0, w1, w2, w3 = weights[j], weights[j + 1], weights[j + 2], weights[j + 3]
        w4, w5, w6, w7 = weights[j + 4], weights[j + 5], weights[j + 6], weights[j + 7]
        for q in range(len(out)):
            out[q] += x0 * w0[q] + x1 * w1[q] + x2 * w2[q] + x3 * w3[q]
            out[q] += x4 * w4[q] + x5 * w5[q] + x6 * w6[q] + x7 * w7[q]
    for j in range(eights, len(x)):
        for q in range(len(out)):
            out[q] += x[j] * weights[j, q]


@njit(cache=CACHE, nogil=True)
def fill_sum(out: Array, a: Array, b: Array) -> None:
    """Fill `out` with a + b; array expressions would take seconds each to compile."""
    for q in range(len(out)):
        out[q] = a[q] + b[q]


@njit(cache=CACHE, nogil=True, fastmath=_SUMS)
def apply_silu(x: Array) -> None:
    """Replace x by x sigma(x)."""
    one = x.dtype.type(1)
    for q in range(len(x)):
        x[q] = x[q] / (one + np.exp(-x[q]))


@njit(cache=CACHE, nogil=True)
def fill_layer(out: Array, bias: Array, weights: Array, x: Array) -> None:
    """Fill `out` with apply_silu(bias + x @ weights)."""
    out[:] = bias
    add_product(out, weights, x)
    apply_silu(out)


@njit(cache=CACHE, nogil=True, fastmath=_SUMS)
def product(a: Array, b: Array) -> float:
    """Return a @ b."""
    total: Any = a.dtype.type(0)
    for q in range(len(a)):
        total += a[q] * b[q]
    result: float = total
    return result


@njit(cache=CACHE, nogil=True)
def normal_cdf(z: float) -> float:
    """Return the distribution function of a standard normal number."""
    p: float = 0.5 * math.erfc(-z * math.sqrt(0.5))
    return p


@njit(cache=CACHE, nogil=True)
def fill_mixture(out: Array, limit: float) -> None:
    """Turn outputs into locations, inverse scales, and shares."""
    n = len(out) // 3
    largest, total = out[2 * n :].max(), 0.0
    for q in range(n):
        out[n + q] = math.exp(-limit * math.tanh(out[n + q] / limit))
        out[2 * n + q] = math.exp(out[2 * n + q] - largest)
        total += out[2 * n + q]
    for q in range(n):
        out[2 * n + q] /= total


@njit(cache=CACHE, nogil=True)
def narrow(out: Array) -> None:
    """Bound the scales in outputs of a mixture (`logistic_mixture.narrowed`)."""
    n = len(out) // 3
    for q in range(n, 2 * n):
        out[q] = min(out[q], 0.0) - math.log1p(math.exp(-abs(out[q])))


@njit(cache=CACHE, nogil=True)
def draw_mixture(noise: Array, out: Array, farthest: float) -> float:
    """Return x of a mixture (`logistic_mixture.draw_with_ends`), of two standard normal numbers."""
    u, logistic = normal_cdf(noise[0]), math.log(normal_cdf(noise[1]) / normal_cdf(-noise[1]))
    n = len(out) // 3
    which, below = 0, out[2 * n]
    while which < n - 1 and u >= below:
        which += 1
        below += out[2 * n + which]
    x: float = float(out[which]) + logistic / out[n + which]
    if abs(x) > farthest:
        sign = math.copysign(1.0, x)
        edge = (farthest - sign * float(out[which])) * out[n + which]
        x = sign * (farthest - math.log(normal_cdf(-sign * noise[1]) * (1 + math.exp(edge))))
    return x
