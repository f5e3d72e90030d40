r"""Monotonic rational-quadratic splines, without branches, masks or searches.

Durkan et al., Neural Spline Flows (arXiv 1906.04032), equations 4 to 8. Between knots (x_k, y_k)
and (x_{k+1}, y_{k+1}) with bin width w, height h, slope s = h/w, end derivatives d_k, d_{k+1}, and
\xi = (x - x_k)/w,

    y = y_k + h [s \xi^2 + d_k \xi(1-\xi)] / D,    D = s + (d_{k+1} + d_k - 2s) \xi(1-\xi),
    dy/dx = s^2 [d_{k+1} \xi^2 + 2 s \xi(1-\xi) + d_k (1-\xi)^2] / D^2.

The inverse is the root \xi = 2c / (-b - sqrt(b^2 - 4ac)) of their equation 6.

A bin is found by counting the knots below x, and read out by `gather`: all shapes are static, so
that the functions compile without graph breaks and export with a dynamic batch. Unbounded
parameters are softly bounded first: bins and slopes cannot degenerate however large the network's
outputs grow, and the discriminant is clamped against rounding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

BIN_LIMIT = 3.0
"""Bound on |log bin size|: the widest and narrowest bin differ by at most exp(6), about 400."""
SLOPE_LIMIT = 5.0
"""Bound on |log derivative| at a knot: slopes lie within exp(-5) and exp(5), 0.007 to 148."""


def soft_bound(raw: Tensor, limit: float) -> Tensor:
    """Squash the real line into (-limit, limit), with slope 1 at zero."""
    return raw / (1 + raw.abs() * (1 / limit))


def tail_spline(
    x: Tensor, raw: Tensor, *, bound: float = 5.0, inverse: bool = False
) -> tuple[Tensor, Tensor]:
    """Spline on [-bound, bound] with identity tails; all-zero parameters are the identity.

    Args:
        x: (..., D).
        raw: (..., D, 3K - 1) unbounded: K widths, K heights, K - 1 derivatives at inner knots.
        bound: where the tails begin; the derivative there is 1.
        inverse: apply the inverse map.

    Returns:
        y and log|dy/dx|, each (..., D), the logarithm that of the map applied.
    """
    bins = (raw.shape[-1] + 1) // 3
    slopes = functional.pad(soft_bound(raw[..., 2 * bins :], SLOPE_LIMIT), (1, 1)).exp()
    inside = x.abs() < bound
    y, log_slope = _spline(
        x.clamp(-bound, bound), raw[..., :bins], raw[..., bins : 2 * bins], slopes, bound, inverse
    )
    return torch.where(inside, y, x), torch.where(inside, log_slope, torch.zeros_like(x))


def circular_spline(x: Tensor, raw: Tensor, *, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """Spline of the circle [-pi, pi), smooth across the seam (Rezende et al., arXiv 2002.02428).

    Args:
        x: (..., D) angles, wrapped into [-pi, pi) first.
        raw: (..., D, 3K) unbounded: K widths, K heights, K derivatives, the first of which serves
            both ends.
        inverse: apply the inverse map.

    Returns:
        y in [-pi, pi) and log|dy/dx|, each (..., D).
    """
    bins = raw.shape[-1] // 3
    slopes = soft_bound(raw[..., 2 * bins :], SLOPE_LIMIT).exp()
    slopes = torch.cat([slopes, slopes[..., :1]], -1)
    wrapped = torch.remainder(x + math.pi, 2 * math.pi) - math.pi
    return _spline(wrapped, raw[..., :bins], raw[..., bins : 2 * bins], slopes, math.pi, inverse)


def _knots(raw: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Left knots and sizes of the bins of [-bound, bound], each (..., K)."""
    sizes = functional.softmax(soft_bound(raw, BIN_LIMIT), -1) * (2 * bound)
    right = sizes.cumsum(-1)
    return functional.pad(right[..., :-1], (1, 0)) - bound, sizes


def _spline(
    x: Tensor, raw_widths: Tensor, raw_heights: Tensor, slopes: Tensor, bound: float, inverse: bool
) -> tuple[Tensor, Tensor]:
    left, widths = _knots(raw_widths, bound)
    low, heights = _knots(raw_heights, bound)
    knots = low if inverse else left
    k = (x.unsqueeze(-1) >= knots[..., 1:]).sum(-1, keepdim=True)

    def pick(table: Tensor) -> Tensor:
        return table.gather(-1, k).squeeze(-1)

    w, h, x_k, y_k = pick(widths), pick(heights), pick(left), pick(low)
    d_k, d_next = pick(slopes[..., :-1]), pick(slopes[..., 1:])
    s = h / w
    curve = d_next + d_k - 2 * s
    if inverse:
        rise = x - y_k
        a = h * (s - d_k) + rise * curve
        b = h * d_k - rise * curve
        c = -s * rise
        root = (b.square() - 4 * a * c).clamp_min(torch.finfo(x.dtype).tiny).sqrt()
        xi = (2 * c / (-b - root)).clamp(0, 1)
        y = x_k + w * xi
    else:
        xi = ((x - x_k) / w).clamp(0, 1)
    mixed = xi * (1 - xi)
    denominator = s + curve * mixed
    top = d_next * xi.square() + 2 * s * mixed + d_k * (1 - xi).square()
    log_slope = 2 * s.log() + top.log() - 2 * denominator.log()
    if inverse:
        return y, -log_slope
    y = y_k + h * (s * xi.square() + d_k * mixed) / denominator
    return y, log_slope
