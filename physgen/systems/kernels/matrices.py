"""Products and exponentials of complex matrices of order N = 1, 2, 3 in stacks, compiled.

A stack is (K, N, N); functions take a stack and which of its matrices is meant, so that no view is
made. Results must not be among the factors.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from physgen.systems.kernels.cache import CACHE

Stack = NDArray[np.complex128]

_TERMS = 22
"""Of the series of an exponential: enough for a norm of one to the last bit."""


@njit(cache=CACHE, forceinline=True)
def multiply(a: Stack, i: int, b: Stack, j: int, out: Stack, k: int) -> None:
    """Write a_i b_j into out_k."""
    n = a.shape[1]
    if n == 3:  # Loops of constant length are unrolled.
        for r in range(3):
            for c in range(3):
                out[k, r, c] = (
                    a[i, r, 0] * b[j, 0, c] + a[i, r, 1] * b[j, 1, c] + a[i, r, 2] * b[j, 2, c]
                )
    elif n == 2:
        for r in range(2):
            for c in range(2):
                out[k, r, c] = a[i, r, 0] * b[j, 0, c] + a[i, r, 1] * b[j, 1, c]
    else:
        out[k, 0, 0] = a[i, 0, 0] * b[j, 0, 0]


@njit(cache=CACHE, forceinline=True)
def multiply_right(a: Stack, i: int, b: Stack, j: int, out: Stack, k: int) -> None:
    """Write a_i b_j^+ into out_k."""
    n = a.shape[1]
    if n == 3:
        for r in range(3):
            for c in range(3):
                out[k, r, c] = (
                    a[i, r, 0] * b[j, c, 0].conjugate()
                    + a[i, r, 1] * b[j, c, 1].conjugate()
                    + a[i, r, 2] * b[j, c, 2].conjugate()
                )
    elif n == 2:
        for r in range(2):
            for c in range(2):
                out[k, r, c] = (
                    a[i, r, 0] * b[j, c, 0].conjugate() + a[i, r, 1] * b[j, c, 1].conjugate()
                )
    else:
        out[k, 0, 0] = a[i, 0, 0] * b[j, 0, 0].conjugate()


@njit(cache=CACHE, forceinline=True)
def multiply_left(a: Stack, i: int, b: Stack, j: int, out: Stack, k: int) -> None:
    """Write a_i^+ b_j into out_k."""
    n = a.shape[1]
    if n == 3:
        for r in range(3):
            for c in range(3):
                out[k, r, c] = (
                    a[i, 0, r].conjugate() * b[j, 0, c]
                    + a[i, 1, r].conjugate() * b[j, 1, c]
                    + a[i, 2, r].conjugate() * b[j, 2, c]
                )
    elif n == 2:
        for r in range(2):
            for c in range(2):
                out[k, r, c] = (
                    a[i, 0, r].conjugate() * b[j, 0, c] + a[i, 1, r].conjugate() * b[j, 1, c]
                )
    else:
        out[k, 0, 0] = a[i, 0, 0].conjugate() * b[j, 0, 0]


@njit(cache=CACHE, forceinline=True)
def trace(a: Stack, i: int) -> complex:
    """Return tr a_i."""
    total = a[i, 0, 0]
    for r in range(1, a.shape[1]):
        total += a[i, r, r]
    return total  # type: ignore[no-any-return]


@njit(cache=CACHE, forceinline=True)
def trace_of_product(a: Stack, i: int, b: Stack, j: int) -> complex:
    """Return tr a_i b_j."""
    total = 0j
    for r in range(a.shape[1]):
        for c in range(a.shape[1]):
            total += a[i, r, c] * b[j, c, r]
    return total


@njit(cache=CACHE, forceinline=True)
def overlap(a: Stack, i: int, b: Stack, j: int) -> float:
    """Return Re tr a_i^+ b_j."""
    total = 0.0
    for r in range(a.shape[1]):
        for c in range(a.shape[1]):
            x, y = a[i, r, c], b[j, r, c]
            total += x.real * y.real + x.imag * y.imag
    return total


@njit(cache=CACHE, forceinline=True)
def project(a: Stack, i: int) -> None:
    """Replace a_i by its part in the algebra: anti-Hermitian, and traceless where N > 1."""
    n = a.shape[1]
    for r in range(n):
        for c in range(r):
            x = 0.5 * (a[i, r, c] - a[i, c, r].conjugate())
            a[i, r, c], a[i, c, r] = x, -x.conjugate()
    mean = 0.0
    if n > 1:
        for r in range(n):
            mean += a[i, r, r].imag / n
    for r in range(n):
        a[i, r, r] = complex(0.0, a[i, r, r].imag - mean)


@njit(cache=CACHE, nogil=True)
def exponential(a: Stack, i: int, out: Stack, k: int) -> None:
    """Write exp a_i, of an anti-Hermitian matrix (traceless where N > 1), into out_k and k + 1.

    By Cayley and Hamilton X^3 = (tr X^2 / 2) X + det X for N = 3, so that a series in X is one of
    three numbers. Matrices of a norm above one are halved until it is below, and squared back;
    out_{k+1} is used for that.
    """
    n = a.shape[1]
    if n == 1:
        angle = a[i, 0, 0].imag
        out[k, 0, 0] = complex(math.cos(angle), math.sin(angle))
        return
    square = overlap(a, i, a, i)
    if n == 2:
        length = math.sqrt(0.5 * square)
        c, s = math.cos(length), 1.0 if length < 1e-8 else math.sin(length) / length
        for r in range(2):
            for q in range(2):
                out[k, r, q] = s * a[i, r, q]
            out[k, r, r] += c
        return
    halvings, scale = 0, 1.0
    while square * scale * scale > 1.0:
        halvings += 1
        scale *= 0.5
    x = out[k + 1]
    for r in range(3):
        for q in range(3):
            x[r, q] = scale * a[i, r, q]
    multiply(out, k + 1, out, k + 1, out, k)
    linear = 0.5 * (out[k, 0, 0] + out[k, 1, 1] + out[k, 2, 2]).real
    minors = x[1, 1] * x[2, 2] - x[1, 2] * x[2, 1]
    constant = x[0, 0] * minors
    constant -= x[0, 1] * (x[1, 0] * x[2, 2] - x[1, 2] * x[2, 0])
    constant += x[0, 2] * (x[1, 0] * x[2, 1] - x[1, 1] * x[2, 0])
    q0, q1, q2 = 1.0 + 0j, 0j, 0j
    for term in range(_TERMS, 0, -1):  # 1 + X / term * (what there is)
        inverse = 1.0 / term
        q0, q1, q2 = (
            1.0 + inverse * constant * q2,
            inverse * (q0 + linear * q2),
            inverse * q1,
        )
    for r in range(3):
        for q in range(3):
            out[k, r, q] = q1 * x[r, q] + q2 * out[k, r, q]
        out[k, r, r] += q0
    for _ in range(halvings):
        multiply(out, k, out, k, out, k + 1)
        for r in range(3):
            for q in range(3):
                out[k, r, q] = out[k + 1, r, q]
