"""Kernel tests: MMD and the kernel score, by random Fourier features of Gaussian kernels.

The score D^T (V + lambda)^-1 D, with D the difference of the mean features and V their pooled
covariance, is the leading order of the likelihood ratio of kernel logistic regression, the test of
the New Physics Learning Machine (Letizia et al., EPJC 82 (2022) 879), which needs no fit.
Features: Rahimi & Recht, NIPS 2007.
"""

from __future__ import annotations

import numpy as np
from numpy import float32, float64
from numpy.typing import NDArray

from physgen.validation.two_sample.pool import Family, Pool

Array = NDArray[float64]

FREQUENCIES = 128
WIDTHS = (0.25, 0.5, 1.0, 2.0)
"""Of the kernels, in median distances of two rows."""

RIDGES = (1e-2, 1e-4)
"""lambda, of the largest eigenvalue of V."""

_SOME = 600
"""Rows whose distances give the median."""


def of_kernels(name: str, rows: Array, pool: Pool, generator: np.random.Generator) -> list[Family]:
    """Return MMD and score of (N, D) rows, one family a width of the kernel."""
    some = rows[generator.choice(len(rows), min(len(rows), _SOME), replace=False)]
    first, second = some[: len(some) // 2], some[len(some) // 2 :][: len(some) // 2]
    median = float(np.median(np.linalg.norm(first - second, axis=1))) or 1.0
    frequency = generator.normal(size=(rows.shape[1], FREQUENCIES)).astype(float32)
    phase = rows.astype(float32) @ frequency
    return [
        _of_width(f"{name}, width {width:g}", phase / (width * median), pool) for width in WIDTHS
    ]


def _of_width(name: str, phase: NDArray[float32], pool: Pool) -> Family:
    features = np.concatenate([np.cos(phase), np.sin(phase)], 1, dtype=float32)
    features -= features.mean(0)
    covariance = (features.T @ features).astype(float64) / len(features)
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, 0.0)
    inverse = np.stack([1 / (values + ridge * values[-1]) for ridge in RIDGES], 1)
    sums = pool.relabelling.sums(features)

    def statistics(difference: Array) -> Array:
        squares = (difference @ vectors) ** 2
        return np.concatenate([squares.sum(1, keepdims=True), squares @ inverse], 1)

    def causes(truth: Array, generated: Array) -> list[str]:
        return ["all observables jointly"] * (1 + len(RIDGES))

    names = (f"MMD, {name}", *(f"kernel score {ridge:g}, {name}" for ridge in RIDGES))
    return Family(names, sums, statistics, causes)
