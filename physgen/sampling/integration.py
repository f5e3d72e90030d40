r"""Differences of ln Z by integration in a coupling: a check of what importance weights say.

With S = S_0 + g W the slope is d ln Z / d g = -<W>_g, so that

    ln Z(g_1) - ln Z(g_0) = -integral_{g_0}^{g_1} <W>_g dg,

by Gauss-Legendre quadrature of independent simulations. Its error is statistical: take more points,
and see that the value stays, where <W>_g is not smooth.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from physgen.errors import InputError
from physgen.sampling.reweighting import Estimate


def log_partition_difference(
    mean: Callable[[float], Estimate], start: float, stop: float, *, points: int = 8
) -> Estimate:
    """Return ln Z(stop) - ln Z(start) from the means <W>_g of independent simulations at each g.

    Args:
        mean: estimates <W>_g = <dS / dg>_g at a coupling g.
        start, stop: couplings.
        points: of the quadrature, each one simulation.

    Raises:
        InputError: there are no points.

    >>> harmonic = lambda g: Estimate(1 / (2 * g), 0.0)  # S = g x^2, ln Z = ln(pi / g) / 2
    >>> round(log_partition_difference(harmonic, 1.0, 2.0).value, 6)  # -ln(2) / 2
    -0.346574
    """
    if points < 1:
        raise InputError(f"points = {points}: a quadrature needs one or more")
    nodes, weights = np.polynomial.legendre.leggauss(points)
    half = (stop - start) / 2
    means = [mean(start + half * (1 + float(node))) for node in nodes]
    value = -half * sum(w * one.value for w, one in zip(weights, means, strict=True))
    error = abs(half) * math.hypot(*(w * one.error for w, one in zip(weights, means, strict=True)))
    return Estimate(float(value), float(error))
